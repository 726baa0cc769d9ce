"""The two training loops: warm-up on samples of the prior, and DP-SGD on the private images.

Both are generators that yield after every step, so that whoever drives them decides when to save,
print or stop. The optimiser of the second sees the noised mean gradient and nothing else of the
data.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpdm.config import Config
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.objective import denoising_loss
from dpdm.diffusion.views import draw_views
from dpdm.lanes import Lanes
from dpdm.networks import half_cosine
from dpdm.privacy import DpSgdStep, Elsewhere, Gradients, PrivateUnits, Session
from dpdm.privacy.mechanisms import PrivateStepStatistics
from dpdm.training.checkpoint import Phase, TrainingState
from dpdm.training.differentiation import Differentiation
from dpdm.training.draws import SECRET_BITS, keyed_dropout, keyed_generator
from dpdm.training.interrupt import Interrupted, InterruptFlag
from dpdm.training.plan import Plan
from dpdm.training.view_gradients import (
    ViewGradients,
    drop_labels,
    images_per_unit,
    shape_of,
)
from dpdm.training.workers import Workers


@dataclass(frozen=True)
class StepRecord:
    """What is logged of a step, on the private side: ``private_`` marks what came without noise."""

    phase: Phase
    step: int
    seconds: float
    images: int
    loss: float
    private_units: int = 0
    private_clipped_share: float = 0.0
    private_nonfinite_units: int = 0

    @classmethod
    def of_private_step(
        cls, phase: Phase, step: int, started: float, each: int, seen: PrivateStepStatistics
    ) -> StepRecord:
        """Of a step of a mechanism, begun at ``started``, with ``each`` image passes a unit."""
        return cls(
            phase,
            step,
            time.perf_counter() - started,
            seen.private_units * each,
            seen.private_loss,
            seen.private_units,
            seen.private_clipped_share,
            seen.private_nonfinite_units,
        )


def saved_steps(
    records: Iterator[StepRecord],
    steps: int,
    save: Callable[[], None],
    every: int,
    interrupt: InterruptFlag,
    afterwards: str,
) -> Iterator[StepRecord]:
    """Passes records on; saves after every so many, at Ctrl-C, and at the end what is not yet.

    Raises:
        Interrupted: at Ctrl-C, with the state saved; ``afterwards`` says where and how to go on.
    """
    unsaved = False
    for record in records:
        yield record
        stop = interrupt.raised
        unsaved = record.step % every != 0 and not stop
        if not unsaved:
            save()
        if stop:
            raise Interrupted(
                f"interrupted after {record.phase} step {record.step} of {steps}; {afterwards}"
            )
    if unsaved:
        save()


def learning_rate(config: Config, peak: float, step: int, steps: int) -> float:
    """Of step number ``step`` (from 0) of ``steps``: constant, or half a cosine down to 0."""
    if config.training.schedule == "cosine":
        return peak * half_cosine(step, steps)
    return peak


def _apply(state: TrainingState, gradients: Gradients, rate: float) -> None:
    state.optimiser.step(gradients, rate)
    state.ema.update(state.network)
    state.step += 1


def warm_up(
    config: Config, denoiser: Denoiser, mixture: Mixture, state: TrainingState, labelled: bool
) -> Iterator[StepRecord]:
    """Plain training on samples of the prior: post-processing, nothing private is read.

    The network learns what the base does not say already: with the base c_skip x, the prior itself.
    """
    device = next(state.network.parameters()).device
    pool = config.warmup.pool
    generator = keyed_generator(config.training.seed, "warm-up pool")
    labels = torch.arange(pool) % mixture.classes
    labels = labels.to(device)
    images = mixture.sample(labels, generator).clamp(-1.0, 1.0)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        chosen = random_rows(pool, config.warmup.batch_size, generator)
        given = None
        if labelled:
            given = drop_labels(labels[chosen], config.network.label_dropout, generator)
        return images[chosen], given

    def rate(step: int) -> float:
        return learning_rate(config, config.warmup.learning_rate, step, config.warmup.steps)

    yield from plain_training(
        denoiser, draw, rate, state, config.warmup.steps, config.training.seed
    )


def random_rows(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of so many rows at random, with repetition, where the generator lives."""
    return torch.randint(rows, (count,), generator=generator, device=generator.device)


def plain_training(
    denoiser: Denoiser,
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor | None]],
    rate: Callable[[int], float],
    state: TrainingState,
    steps: int,
    seed: int,
) -> Iterator[StepRecord]:
    """Training without privacy, on images that need none: to ``steps`` from ``state.step``.

    ``draw(generator)`` gives a batch of images (N, C, H, W) and labels (N,) or None, all on the
    network's device as the generator is, ``rate(step)`` the learning rate.
    """
    device = next(state.network.parameters()).device
    mean_gradients = _MeanGradients(denoiser, state.network)
    while state.step < steps:
        started = time.perf_counter()
        generator = keyed_generator(seed, state.phase, state.step, device)
        images, labels = draw(generator)
        sigma, noise = draw_views(
            "stratified",
            denoiser.config,
            1,
            len(images),
            shape_of(images),
            generator=generator,
            device=device,
        )
        with keyed_dropout(seed, state.step):
            loss, gradients = mean_gradients(images, sigma, noise, labels)
        _apply(state, gradients, rate(state.step))
        seconds = time.perf_counter() - started
        yield StepRecord(state.phase, state.step, seconds, len(images), float(loss))


class _MeanGradients:
    """A callable from views to their mean loss and its gradients, by the network's names.

    Zeros for a parameter that requires no gradient. On a GPU by way of per-unit gradients, of which
    there are kernels and a recorded graph: the batch is cut into parts that stand for units, and
    the mean of their gradients taken.
    """

    _PARTS = (32, 128)  # the fewest and the most: kernels want many, memory few

    def __init__(self, denoiser: Denoiser, network: torch.nn.Module) -> None:
        self.denoiser = denoiser
        self.parameters = dict(network.named_parameters())
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        self._names = {name: names[id(p)] for name, p in denoiser.named_parameters()}
        self._differentiate: Differentiation | None = None

    def __call__(self, *views: Any) -> tuple[Tensor, Gradients]:
        """Of ``denoising_loss(denoiser, *views)``."""
        rows = len(views[0])
        parts = math.gcd(rows, self._PARTS[1])
        together = not views[0].is_cuda or parts < self._PARTS[0]
        loss, found = self._together(views) if together else self._in_parts(rows // parts, views)
        return loss, {
            name: found[name] if name in found else torch.zeros_like(parameter)
            for name, parameter in self.parameters.items()
        }

    def _together(self, views: Sequence[Any]) -> tuple[Tensor, Gradients]:
        wanted = {name: p for name, p in self.parameters.items() if p.requires_grad}
        loss = denoising_loss(self.denoiser, *views).mean()
        found = torch.autograd.grad(
            loss, list(wanted.values()), allow_unused=True, materialize_grads=True
        )
        return loss.detach(), dict(zip(wanted, found, strict=True))

    def _in_parts(self, each: int, views: Sequence[Any]) -> tuple[Tensor, Gradients]:
        """From the gradients of parts of ``each`` views."""
        if self._differentiate is None:
            self._differentiate = Differentiation(self.denoiser, each)
        losses, gradients = self._differentiate(*views)
        return losses.mean(), {self._names[n]: g.mean(0) for n, g in gradients.items()}


def on_device(units: PrivateUnits, device: torch.device) -> PrivateUnits:
    """The same units as tensors on the device; a copy, because torch takes no read-only arrays."""

    def move(rows: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(rows)).to(device)

    return units.transform(move, labels=move)


def dp_sgd(
    config: Config,
    plan: Plan,
    denoiser: Denoiser,
    units: PrivateUnits,
    session: Session,
    state: TrainingState,
    microbatch: int,
    lanes: Lanes,
    may_step: Callable[[], bool],
) -> Generator[StepRecord]:
    """DP-SGD from ``state.step`` on (Abadi et al. 2016, Algorithm 1; Dockhorn et al. 2023,
    Algorithm 1).

    ``microbatch`` units pass through the network at once, in each of ``lanes``, or in as many
    processes where the steps to come are worth their start. ``may_step`` is asked before every step
    whether the budget allows one more.
    """
    units = on_device(units, next(denoiser.network.parameters()).device)
    mechanism = DpSgdStep(
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=config.privacy.max_grad_norm,
        expected_units=config.training.batch_size,
        microbatch=microbatch,
        images_per_unit=images_per_unit(config),
    )
    # Views, dropped labels and dropout are drawn by place in the batch, and one unit more moves the
    # others to other places. Drawn in secret they are the same in law wherever a unit sits, so that
    # its gradient can be taken as its own; from a known seed, or one of so few that all can be
    # tried, one unit would move all gradients.
    seed = config.training.seed if session.repeatable else secrets.randbits(SECRET_BITS)
    parameters = {name: value.detach() for name, value in denoiser.network.named_parameters()}
    gradients, fastest = ViewGradients(config, denoiser, seed), math.inf
    with Workers(gradients, microbatch, lanes.count if units.elsewhere else 1) as workers:
        while state.step < config.training.steps_to_do and may_step():
            started, left = time.perf_counter(), config.training.steps_to_do - state.step
            if fastest < math.inf:
                workers.prepare(left * fastest)

            def unit_gradients(
                images: Tensor, labels: Tensor | None, step: int = state.step
            ) -> tuple[Tensor, Gradients | Elsewhere]:
                return workers(step, lanes.item, images, labels)

            with keyed_dropout(seed, state.step) if config.network.dropout else nullcontext():
                noised, seen = mechanism.release(
                    units, unit_gradients, parameters, session, state.step, lanes.map
                )
            rate = learning_rate(config, config.training.learning_rate, state.step, plan.steps)
            _apply(state, noised, rate)
            fastest = min(fastest, time.perf_counter() - started)
            yield StepRecord.of_private_step(
                "DP-SGD", state.step, started, config.views.count, seen
            )
