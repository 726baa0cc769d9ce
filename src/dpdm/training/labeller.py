"""Training of the labeller: DP-SGD with momentum on softmax regression over scattering features.

Convex and with few weights, it reaches at a small share of epsilon what no network trained with
DP-SGD does (Tramer and Boneh 2021): on samples it says what they show, better than the class that
they were asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dpdm.config import Config
from dpdm.diffusion.images import to_model_space
from dpdm.networks import Labeller, load_weights, save_weights
from dpdm.networks.labeller import BATCH
from dpdm.privacy import DpSgdStep, OuterProducts, PrivateUnits, Session, clip_and_sum
from dpdm.training.loop import StepRecord, on_device
from dpdm.training.plan import LabellerPlan
from dpdm.training.view_gradients import images_per_unit

MOMENTUM = 0.9
_MICROBATCH = 512
_FASTEST, _NOISE_IN_LOGITS = 8.0, 9.0
"""Of the rule for its rate; docs/trials.md has what they were compared on."""

_KEPT_BYTES = 2 * 2**30
"""Features of all images are kept where they take no more; else they are computed anew."""


@dataclass
class LabellerState:
    """What a step of the labeller changes: its weight, the momentum, and the number of steps."""

    labeller: Labeller
    momentum: Tensor
    step: int

    @classmethod
    def begin(cls, labeller: Labeller) -> LabellerState:
        """Before the first step."""
        return cls(labeller, torch.zeros_like(labeller.weight), 0)

    def save(self, path: Path, ledger_head: str) -> None:
        """Writes it atomically; ``ledger_head`` as in a checkpoint."""
        tensors = {"weight": self.labeller.weight, "momentum": self.momentum}
        save_weights(path, tensors, {"step": str(self.step), "ledger_head": ledger_head})

    def load(self, path: Path) -> str:
        """Takes over what was saved, and returns the ledger's head of then."""
        tensors, metadata = load_weights(path)
        self.labeller.weight.data.copy_(tensors["weight"])
        self.momentum, self.step = tensors["momentum"], int(metadata["step"])
        return metadata["ledger_head"]


def train_labeller(
    config: Config,
    plan: LabellerPlan,
    state: LabellerState,
    units: PrivateUnits,
    session: Session,
) -> Iterator[StepRecord]:
    """DP-SGD from ``state.step`` on. Each step spends ``plan``'s event.

    Where steps were done again after an interruption, later ones are left out, so that no more is
    spent than was planned. ``units`` are images (N, H, W, C) uint8 with labels; of ``config``,
    ``labeller`` and ``privacy`` are used.
    """
    labeller, each = state.labeller, images_per_unit(config)
    units = on_device(units, torch.device("cpu")).transform(partial(_features_or_images, labeller))
    mechanism = DpSgdStep(
        plan.sample_rate,
        plan.noise_multiplier,
        config.labeller.max_grad_norm,
        plan.batch_size,
        _MICROBATCH,
        each,
        name="labeller step",
    )

    def unit_gradients(rows: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, OuterProducts]]:
        features = rows if rows.dtype == torch.float32 else _features(labeller, rows)
        logits = features @ labeller.weight.detach()
        losses = F.cross_entropy(logits, labels, reduction="none")
        errors = logits.softmax(1)
        errors[torch.arange(len(errors)), labels] -= 1.0
        count = len(rows) // each
        left, right = features.view(count, each, -1), errors.view(count, each, -1) / each
        return losses.view(count, each).mean(1), {"weight": OuterProducts(left, right)}

    parameters = {name: value.detach() for name, value in labeller.named_parameters()}
    rate = learning_rate(config, plan, len(labeller.weight))
    while state.step < plan.steps and _affordable(session, mechanism, plan.steps):
        started = time.perf_counter()
        noised, seen = mechanism.release(units, unit_gradients, parameters, session, state.step)
        state.momentum.mul_(MOMENTUM).add_(noised["weight"])
        labeller.weight.data.sub_(rate * state.momentum)
        state.step += 1
        yield StepRecord.of_private_step("labeller", state.step, started, each, seen)


def learning_rate(config: Config, plan: LabellerPlan, features: int) -> float:
    """``labeller.learning_rate``, or where it is unset the rate of a public rule.

    All steps' noise moves a weight by rate / (1 - momentum) sqrt(steps) noise_multiplier
    max_grad_norm / batch, and a logit by about sqrt(features) times as much. The rate is the
    highest, up to ``_FASTEST``, at which that is at most ``_NOISE_IN_LOGITS``.
    """
    if config.labeller.learning_rate is not None:
        return config.labeller.learning_rate
    step = plan.noise_multiplier * config.labeller.max_grad_norm / plan.batch_size
    noise = math.sqrt(plan.steps * features) * step / (1.0 - MOMENTUM)
    return min(_FASTEST, _NOISE_IN_LOGITS / noise) if noise else _FASTEST


def time_labeller(config: Config, plan: LabellerPlan, labeller: Labeller, images: int) -> float:
    """Expected seconds of its training, from the features of a few random images and one step."""
    channels, height, width = labeller.image_shape
    some = torch.randint(256, (BATCH, height, width, channels), dtype=torch.uint8)
    started = time.perf_counter()
    features = _features(labeller, some)
    per_image = (time.perf_counter() - started) / BATCH
    rows = features.repeat(math.ceil(min(plan.batch_size, _MICROBATCH) / BATCH), 1).unsqueeze(1)
    started = time.perf_counter()
    errors = (rows @ labeller.weight.detach()).softmax(2)
    clip_and_sum({"weight": OuterProducts(rows, errors)}, config.labeller.max_grad_norm)
    per_row = (time.perf_counter() - started) / len(rows)
    passes = images if kept_bytes(labeller, images) else plan.steps * plan.batch_size
    return per_image * passes + per_row * plan.steps * plan.batch_size


def kept_bytes(labeller: Labeller, images: int) -> int:
    """Of the features that training keeps, 0 where they are too many and computed anew."""
    size = images * 4 * len(labeller.weight)
    return size if size <= _KEPT_BYTES else 0


def _features_or_images(labeller: Labeller, images: Tensor) -> Tensor:
    """float32 features where they fit, else the uint8 images."""
    return _features(labeller, images) if kept_bytes(labeller, len(images)) else images


def _features(labeller: Labeller, images: Tensor) -> Tensor:
    found = torch.empty(len(images), len(labeller.weight))
    for start in range(0, len(images), BATCH):
        found[start : start + BATCH] = labeller.features(
            to_model_space(images[start : start + BATCH])
        )
    return found


def _affordable(session: Session, mechanism: DpSgdStep, steps: int) -> bool:
    """Whether fewer steps than planned are in the ledger; seeded noise spends a step once."""
    ledger = session.ledger
    if ledger is None or session.repeatable:
        return True
    uses = ledger.counted_events(ledger.run)
    return sum(count for name, _, count in uses if name == mechanism.name) < steps
