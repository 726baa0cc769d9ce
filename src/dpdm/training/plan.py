"""What a run will do, decided from public facts alone: sample rate, steps, noise, the prior's
share.

The same plan is printed by ``dpdm plan`` and carried out by training.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from dpdm.config import Config
from dpdm.data import PublicFacts
from dpdm.diffusion.pose import POSE_SIZES
from dpdm.errors import RequestError
from dpdm.privacy import Event, Ledger, epsilon
from dpdm.privacy.accounting import CountedEvent
from dpdm.promise import check_delta, gaussian_noise_multiplier_for, noise_multiplier_for
from dpdm.promise.planning import gaussian, poisson_sampled_gaussian
from dpdm.release.build import build_denoiser, stand_in_prior
from dpdm.training.prior import PriorDesign, design_choice, design_prior

_MOST_LABELLER_STEPS = 500
"""Of a million images more would take hours and teach it nothing."""

_ENOUGH_SIGNAL = 3.0
"""The paper's MNIST row at epsilon 0.2 has 2.7; its rows at 1 and 10 have 12 and 86."""

_ENOUGH_RESOLUTION = 20.0
"""Units of a class over the prior's noise multiplier."""


@dataclass(frozen=True)
class LabellerPlan:
    """What the labeller's training spends: steps, their sample rate and noise multiplier (0 where
    privacy is off)."""

    sample_rate: float
    steps: int
    noise_multiplier: float
    batch_size: int

    def events(self) -> list[tuple[Event, int]]:
        """With counts."""
        if not self.noise_multiplier:
            return []
        return [(poisson_sampled_gaussian(self.sample_rate, self.noise_multiplier), self.steps)]


@dataclass(frozen=True)
class Plan:
    """The public plan of a run.

    Attributes:
        public_size: declared number of units.
        sample_rate: probability q with which a unit takes part in a step; 0 where there are none.
        steps: DP-SGD steps the noise is planned for.
        noise_multiplier: of a step; 0 where privacy is off or there are no steps.
        prior: what the prior releases, or None.
        labeller: what its training spends, or None.
        histogram_noise: noise multiplier of the class histogram; 0 where none is released.
        image_passes: images through the network in all DP-SGD steps, expected.
    """

    public_size: int
    sample_rate: float
    steps: int
    noise_multiplier: float
    prior: PriorDesign | None
    labeller: LabellerPlan | None
    histogram_noise: float
    image_passes: int

    @property
    def step_event(self) -> Event | None:
        """The event of one DP-SGD step, or None where there is none."""
        if not self.noise_multiplier:
            return None
        return poisson_sampled_gaussian(self.sample_rate, self.noise_multiplier)

    def events(self) -> list[tuple[Event, int]]:
        """Everything the run will spend, with counts."""
        step = self.step_event
        return [*self.statistics_events(), *([(step, self.steps)] if step else [])]

    def statistics_events(self) -> list[tuple[Event, int]]:
        """What is spent before the first gradient step."""
        labeller = self.labeller.events() if self.labeller else []
        return [*self.histogram_events(), *labeller, *(self.prior.events() if self.prior else [])]

    def histogram_events(self) -> list[tuple[Event, int]]:
        """What the class histogram spends."""
        return _histogram_events(self.histogram_noise)


def _histogram_noise(config: Config, classes: int) -> float:
    share, privacy = config.privacy.histogram_share, config.privacy
    if share and not classes:
        raise RequestError("privacy.histogram_share: the data has no classes to count; set it to 0")
    if not share or not privacy.enabled:
        return 0.0
    return gaussian_noise_multiplier_for(share * privacy.epsilon, privacy.delta, privacy.accountant)


def _histogram_events(noise_multiplier: float) -> list[tuple[Event, int]]:
    return [(gaussian(noise_multiplier), 1)] if noise_multiplier else []


def signal_to_noise(config: Config, plan: Plan, parameters: int) -> float | None:
    """sqrt(T) B / (sigma sqrt(P)): all steps' largest clipped signal over the norm of their noise.

    The paper's MNIST rows at epsilon 0.2, 1 and 10 have 2.7, 12 and 86. None without steps, without
    a network or without noise.
    """
    if not (parameters and plan.steps and plan.noise_multiplier):
        return None
    noise = plan.noise_multiplier * math.sqrt(parameters)
    return math.sqrt(plan.steps) * config.training.batch_size / noise


def small_data(plan: Plan, signal: float | None, classes: int) -> list[str]:
    """Warnings, one line each, where the declared size is small for the epsilon.

    ``signal``: of ``signal_to_noise``; ``classes``: 0 for unlabelled data.
    """
    found = []
    if signal is not None and signal < _ENOUGH_SIGNAL:
        found.append(
            f"the data is small for this epsilon: over all steps, signal to noise is at most "
            f"{signal:.2g}; gradient steps will add little. More units, a larger batch, a smaller "
            "network or training.steps=0 with the prior would help"
        )
    if plan.prior is not None and plan.prior.noise_multiplier:
        in_class = plan.public_size / max(classes, 1)
        if in_class / plan.prior.noise_multiplier < _ENOUGH_RESOLUTION:
            found.append(
                f"the data is small for this epsilon: {int(in_class)} units a class "
                f"against a noise multiplier of {plan.prior.noise_multiplier:.3g}; expect class "
                "means that are blurred by noise"
            )
    return found


def parameter_count(denoiser: nn.Module) -> int:
    """Trained parameters of the network, 0 for a release of the prior alone."""
    return sum(parameter.numel() for parameter in denoiser.parameters())


def settle(config: Config, facts: PublicFacts) -> tuple[Config, Plan]:
    """What is carried out, and its plan: without gradient steps where they would be noise.

    A public decision, by ``training.least_signal``: it follows from settings and declared size. The
    prior then has the whole budget. A batch is lowered to what ``training.largest_rate`` allows of
    the declared size. Images without classes get no labeller.

    Raises:
        RequestError: see ``make_plan``.
    """
    public = {
        "public_size": facts.public_size,
        "classes": len(facts.classes),
        "pixels": math.prod(facts.shape),
    }
    if config.labeller.enabled and not facts.classes:
        config = config.without_labeller()
    config = _with_fitting_batch(config, facts.public_size)
    plan, least = make_plan(config, **public), config.training.least_signal
    if not (least and config.prior.enabled and config.training.steps and config.privacy.enabled):
        return config, plan
    about = facts.image_shape, len(facts.classes)
    denoiser = build_denoiser(config, *about, stand_in_prior(config, *about))
    signal = signal_to_noise(config, plan, parameter_count(denoiser))
    if signal is None or signal >= least:
        return config, plan
    without = config.with_settings("training", steps=0)
    return without, make_plan(without, **public)


def _with_fitting_batch(config: Config, public_size: int) -> Config:
    training = config.training
    if training.largest_rate is None:
        return config
    most = max(1, math.floor(training.largest_rate * public_size))
    return config.with_settings("training", batch_size=min(training.batch_size, most))


def steps_left_out(asked: Config, settled: Config) -> bool:
    """Whether ``settle`` left the gradient steps out."""
    return settled.training.steps < asked.training.steps


def make_plan(config: Config, *, public_size: int, classes: int, pixels: int) -> Plan:
    """Solves the noise for the whole budget.

    Args:
        config: the run's settings.
        public_size: declared number of units.
        classes: number of classes, 0 for unlabelled data.
        pixels: channels x height x width.

    Raises:
        RequestError: a batch larger than the data, a delta too large for it, an epsilon no noise
            meets.
    """
    privacy, training = config.privacy, config.training
    if training.batch_size > public_size and training.steps:
        raise RequestError(
            f"training.batch_size={training.batch_size} is more than the {public_size} units of "
            f"the data; use at most {public_size}, for example {max(public_size // 4, 1)}, or set "
            "training.largest_rate, which lowers it"
        )
    sample_rate = training.batch_size / public_size if training.steps else 0.0
    if privacy.enabled:
        check_delta(privacy.delta, public_size)
    histogram_noise = _histogram_noise(config, classes)
    others = _histogram_events(histogram_noise)
    labeller = _labeller_plan(config, public_size, classes)
    others += labeller.events() if labeller else []
    design = prior_design(config, public_size, classes, pixels, others)
    noise_multiplier = 0.0
    if privacy.enabled and training.steps:
        if design is not None and config.prior.share >= 1:
            raise RequestError(
                "prior.share=1 leaves nothing for training.steps; use a share below 1 or "
                "training.steps=0"
            )
        noise_multiplier = noise_multiplier_for(
            privacy.epsilon,
            privacy.delta,
            sample_rate,
            training.steps,
            others=[*others, *(design.events() if design else ())],
            accountant=privacy.accountant,
        )
    return Plan(
        public_size=public_size,
        sample_rate=sample_rate,
        steps=training.steps,
        noise_multiplier=noise_multiplier,
        prior=design,
        labeller=labeller,
        histogram_noise=histogram_noise,
        image_passes=config.image_passes,
    )


def _labeller_plan(config: Config, public_size: int, classes: int) -> LabellerPlan | None:
    """Its share of epsilon over its steps; None where there is none or are no classes."""
    labeller, privacy = config.labeller, config.privacy
    if not labeller.enabled or not classes:
        return None
    batch = min(labeller.batch_size, public_size)
    sample_rate = batch / public_size
    steps = min(max(1, round(labeller.epochs / sample_rate)), _MOST_LABELLER_STEPS)
    noise = 0.0
    if privacy.enabled:
        with _in_words("the labeller", labeller.share, privacy.epsilon):
            noise = noise_multiplier_for(
                labeller.share * privacy.epsilon,
                privacy.delta,
                sample_rate,
                steps,
                accountant=privacy.accountant,
            )
    return LabellerPlan(sample_rate, steps, noise, batch)


@contextmanager
def _in_words(whose: str, share: float, whole: float) -> Iterator[None]:
    """A refusal names the epsilon that was asked for, of which this is a share."""
    try:
        yield
    except RequestError as error:
        if share == 1.0:
            raise
        raise RequestError(f"{whose} has {share:g} of privacy.epsilon={whole:g}: {error}") from None


def prior_design(
    config: Config, public_size: int, classes: int, pixels: int, others: list[CountedEvent]
) -> PriorDesign | None:
    """What the prior releases; on its own it has all of epsilon that ``others`` leave.

    None without a prior; without noise where ``config`` asks for no privacy.
    """
    if not config.prior.enabled:
        return None
    about: dict[str, Any] = {
        "public_size": public_size,
        "classes": max(classes, 1),
        "pixels": pixels,
        "dimension": config.prior.dimension,
        "clusters": config.prior.clusters,
        "cluster_directions": config.prior.cluster_directions,
    }
    if config.prior.normalise == "auto":
        design = partial(design_choice, **about)
    else:
        pose = POSE_SIZES[config.prior.normalise]
        design = partial(design_prior, **about, pose=pose, texture=config.prior.texture)
    privacy, alone = config.privacy, not config.training.steps
    if not privacy.enabled:
        return design(noise_multiplier=0.0)
    share = 1.0 if alone else config.prior.share
    target = share * privacy.epsilon
    beside = others if alone else []
    how = (privacy.delta, privacy.accountant)
    with _in_words("the prior", share, privacy.epsilon):
        noise = gaussian_noise_multiplier_for(target, *how, beside)
    made = design(noise_multiplier=noise)
    # Its parts cost together what one mechanism with this noise costs, but for rounding, which is
    # much where epsilon is tiny.
    step = 1e-6
    while epsilon([*made.events(), *beside], *how) > target:
        noise, step = noise * (1 + step), 2 * step
        made = design(noise_multiplier=noise)
    return made


def exceeds_budget(
    config: Config,
    ledger: Ledger,
    run: str,
    *,
    again: Iterable[CountedEvent] = (),
    begun: Iterable[CountedEvent] = (),
) -> bool:
    """Whether a run that was stopped would spend more than its epsilon by going on.

    Args:
        config: of the run.
        ledger: holds what it has spent.
        run: its name there.
        again: events of what is released once more, beside what was spent.
        begun: events of what goes on where it was stopped: what was spent of them is among them.
    """
    spent = Counter[Event]()
    for _, event, count in ledger.counted_events(run):
        spent[event] += count
    for event, count in begun:
        spent[event] = max(spent[event], count)
    for event, count in again:
        spent[event] += count
    privacy = config.privacy
    return epsilon(spent.items(), privacy.delta, privacy.accountant) > privacy.epsilon
