"""``dpdm plan``: what a run would cost and be worth, before it starts.

Only public facts enter: settings, declared size, image shape, classes, and a timing on random
images.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from dpdm.config import Config, load_config
from dpdm.data import Dataset, PublicFacts
from dpdm.data.catalogue import NAMED
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.pose import POSE_SIZES
from dpdm.lanes import Lanes
from dpdm.memory import peak_memory, resident_memory
from dpdm.networks import Labeller
from dpdm.privacy import clip_and_sum
from dpdm.release.build import build_denoiser, stand_in_prior
from dpdm.release.precision import autocast_dtype, place
from dpdm.training.labeller import kept_bytes, time_labeller
from dpdm.training.microbatch import resolve_microbatch, usable_lanes
from dpdm.training.plan import (
    Plan,
    make_plan,
    parameter_count,
    settle,
    signal_to_noise,
    small_data,
    steps_left_out,
)
from dpdm.training.pretraining import first_weights
from dpdm.training.prior import PriorDesign
from dpdm.training.view_gradients import ViewGradients
from dpdm.training.workers import Workers

_IMAGENET32 = (1_281_167, 1000, (32, 32, 3))
"""Images, classes and shape of the data of presets whose data has no name here."""

_ROUNDS, _ENOUGH_SECONDS = 3, 4.0
"""Of timing a microbatch in every lane: the fastest of so many rounds, the first of which begins
much. Where they are long, two."""


@dataclass(frozen=True)
class Forecast:
    """What ``dpdm plan`` prints.

    Attributes:
        plan: noise, steps, sample rate.
        epsilon: the budget, None for a run without privacy.
        parameters: of the network, 0 where there is none.
        seconds: expected training time on this machine, from a timing on random images; the prior's
            seconds are not in it.
        memory_bytes: peak memory of the timed processes together, or of the labeller's training
            where that is more; the prior's is not in it.
        signal_to_noise: sqrt(T) B / (sigma sqrt(P)): how far the noise of all steps together lies
            below the largest clipped signal; None without steps or noise.
        warnings: one line each.
        pretrained_on: public images that the network begins from, or None.
        prior_knows: settings that tell the prior what is public about the images; None without one.
    """

    name: str
    plan: Plan
    epsilon: float | None
    delta: float
    parameters: int
    seconds: float
    memory_bytes: int
    signal_to_noise: float | None
    warnings: tuple[str, ...]
    pretrained_on: str | None = None
    prior_knows: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        prior = self.plan.prior
        return {
            "name": self.name,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "public_size": self.plan.public_size,
            "sample_rate": self.plan.sample_rate,
            "steps": self.plan.steps,
            "noise_multiplier": self.plan.noise_multiplier or None,
            "labeller_steps": self.plan.labeller.steps if self.plan.labeller else None,
            "labeller_noise_multiplier": (
                self.plan.labeller.noise_multiplier or None if self.plan.labeller else None
            ),
            "prior_noise_multiplier": prior.noise_multiplier if prior else None,
            "prior_dimension": prior.dimension if prior else None,
            "prior_clusters": prior.clusters if prior else None,
            "prior_cluster_directions": prior.cluster_directions if prior else None,
            "prior_knows": None if self.prior_knows is None else list(self.prior_knows),
            "image_passes": self.plan.image_passes,
            "parameters": self.parameters,
            "pretrained_on": self.pretrained_on,
            "seconds": round(self.seconds, 1),
            "memory_bytes": self.memory_bytes,
            "signal_to_noise": self.signal_to_noise,
            "warnings": list(self.warnings),
        }

    def rows(self) -> list[tuple[str, str]]:
        """Label and value, for a table."""
        plan = self.plan
        promise = (
            "none (privacy.enabled=false)"
            if self.epsilon is None
            else f"epsilon {self.epsilon:g}, delta {self.delta:g}"
        )
        rows = [("promise", promise), ("units, treated as public", f"{plan.public_size:,}")]
        if plan.prior:
            kinds = ", ".join(plan.prior.shares)
            own = "one covariance for all"
            if plan.prior.directions:
                own = f"its own covariance in {plan.prior.directions} directions"
            if plan.prior.cluster_directions:
                own += f", a Gaussian's in {plan.prior.cluster_directions} of them"
            count = plan.prior.clusters
            gaussians = "1 Gaussian" if count == 1 else f"{count} Gaussians"
            rows.append(("prior", f"{kinds}; noise multiplier {plan.prior.noise_multiplier:.4g}"))
            rows.append(
                (
                    "prior's size",
                    f"{plan.prior.dimension} frequencies, {gaussians} a class, {own}",
                )
            )
            knows = ", ".join(self.prior_knows or ()) or (
                "nothing; prior.normalise, prior.augment and prior.texture say what is public"
            )
            rows.append(("prior knows of the images", knows))
        if plan.labeller:
            labeller = plan.labeller
            noise = f", noise multiplier {labeller.noise_multiplier:.4g}"
            rows.append(
                (
                    "labeller",
                    f"{labeller.steps:,} steps at sample rate {labeller.sample_rate:.4g}"
                    f"{noise if labeller.noise_multiplier else ''}",
                )
            )
        if self.pretrained_on:
            rows.append(("network pretrained on", self.pretrained_on))
        if plan.steps:
            rows.append(("steps", f"{plan.steps:,} at sample rate {plan.sample_rate:.5g}"))
            if plan.noise_multiplier:
                rows.append(("noise multiplier of a step", f"{plan.noise_multiplier:.6g}"))
            rows.append(("image passes", f"{plan.image_passes:,}"))
        if self.parameters:
            rows.append(("parameters", f"{self.parameters:,}"))
        if self.signal_to_noise is not None:
            rows.append(("signal to noise over all steps", f"{self.signal_to_noise:.3g}"))
        also = ", and some seconds for the prior" if plan.prior else ""
        rows.append(("training time here", f"{_duration(self.seconds)}{also}"))
        rows.append(("memory", f"{self.memory_bytes / 2**30:.1f} GiB"))
        return rows


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def forecast(config: Config, dataset: Dataset, device: torch.device) -> Forecast:
    """Plans the run and times one microbatch of random images.

    Raises:
        RequestError: what ``train`` would refuse.
    """
    facts = dataset.facts(config.privacy.unit)
    shape, classes = facts.image_shape, len(facts.classes)
    asked = config
    config, plan = settle(config, facts)
    denoiser = build_denoiser(config, shape, classes, stand_in_prior(config, shape, classes))
    parameters, seconds = parameter_count(denoiser), 0.0
    pretrained = first_weights(config, shape[0])
    labelling = 0
    if plan.labeller is not None:
        labeller = Labeller(shape, classes)
        seconds += time_labeller(config, plan.labeller, labeller, facts.public_size)
        labelling = resident_memory() + kept_bytes(labeller, facts.public_size)
    signal = signal_to_noise(config, plan, parameters)
    if isinstance(denoiser, Denoiser) and plan.steps:
        place(denoiser, device)
        denoiser.precision = autocast_dtype(config.training.precision, device)
        with Lanes(usable_lanes(config, device)) as lanes:
            units = resolve_microbatch(config, denoiser, facts, device, lanes.count)
            seconds += _time_steps(config, denoiser, facts, units, device, lanes)
    seeded = config.privacy.enabled and config.privacy.noise_seed is not None
    return Forecast(
        config.name,
        plan,
        config.privacy.epsilon if config.privacy.enabled else None,
        config.privacy.delta,
        parameters,
        seconds,
        max(peak_memory(device), labelling),
        signal,
        (
            *(("NOT PRIVATE: privacy.noise_seed fixes the noise",) if seeded else ()),
            *_warnings(plan, signal, classes, left_out=steps_left_out(asked, config)),
        ),
        None if pretrained is None else pretrained.source,
        None if plan.prior is None else _public_knowledge(config, plan.prior, classes),
    )


def _public_knowledge(config: Config, design: PriorDesign, classes: int) -> tuple[str, ...]:
    """The settings that say what kind of image it is, where they say something."""
    prior = config.prior
    if prior.normalise == "auto":
        how = "chosen by noised votes of the images"
        if design.choice is None:
            why = "too few images for this epsilon" if classes > 1 else "no classes to judge by"
            how = f"left out: {why}"
        return (f"prior.normalise=auto ({how})",)
    normalise = "" if prior.normalise == "none" else str(prior.normalise)
    if design.pose < POSE_SIZES[prior.normalise]:
        normalise += " (left out: too few images for this epsilon)"
    settings = {
        "prior.normalise": normalise,
        "prior.augment": f"{prior.augment:g}" if prior.augment else "",
        "prior.texture": "true" if prior.texture else "",
    }
    return tuple(f"{key}={value}" for key, value in settings.items() if value)


def _warnings(plan: Plan, signal: float | None, classes: int, left_out: bool) -> list[str]:
    found = []
    if left_out:
        found.append(
            "no gradient steps: they would be mostly noise at this epsilon "
            "(training.least_signal); the prior has the whole budget"
        )
    return [*found, *small_data(plan, signal, classes)]


def _time_steps(
    config: Config,
    denoiser: Denoiser,
    facts: PublicFacts,
    units: int,
    device: torch.device,
    lanes: Lanes,
) -> float:
    """Seconds of all steps, from a few microbatches of random images."""
    gradients = ViewGradients(config, denoiser, 0)
    channels, height, width = facts.image_shape
    shape = (units * gradients.images_per_unit, height, width, channels)
    images = torch.randint(256, shape, dtype=torch.uint8, device=device)
    labels = torch.zeros(shape[0], dtype=torch.int64, device=device) if facts.classes else None
    rounds = config.training.steps_to_do * config.training.batch_size / (units * lanes.count)
    with Workers(gradients, units, lanes.count) as workers:

        def one(place: int) -> None:
            _, found = workers(0, place, images, labels)
            clip_and_sum(found, config.privacy.max_grad_norm)

        def seconds() -> float:
            times: list[float] = []
            while len(times) < _ROUNDS and (len(times) < 2 or sum(times) < _ENOUGH_SECONDS):
                started = time.perf_counter()
                list(lanes.map(one, range(lanes.count)))
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
            return rounds * min(times)

        found = seconds()
        workers.prepare(found)  # as a training would
        return seconds() if workers.wait() else found


def preset_noise(name: str) -> dict[str, float | None]:
    """``sample_rate`` and ``noise_multiplier`` of a preset, at the size its data is known to have.

    None where the data is the user's own: `dpdm plan` gives them; and without gradient steps.
    """
    config = load_config(name)
    if known := NAMED.get(config.data.spec or ""):
        size, classes, shape = known.train, len(known.classes), known.shape
    elif name.startswith("imagenet32-"):
        size, classes, shape = _IMAGENET32
    else:
        return {"sample_rate": None, "noise_multiplier": None}
    channels = config.data.channels or shape[2]
    side = config.data.image_size
    pixels = (side * side if side else shape[0] * shape[1]) * channels
    plan = make_plan(
        config,
        public_size=size,
        classes=classes if config.data.labels else 0,
        pixels=pixels,
    )
    return {
        "sample_rate": plan.sample_rate,
        "noise_multiplier": plan.noise_multiplier or None,
    }
