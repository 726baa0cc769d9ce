"""Training of the labeller: DP-SGD with momentum on softmax regression over scattering features.

Convex and with few weights, it reaches at a small share of epsilon what no network trained with
DP-SGD does (Tramer and Boneh 2021): on samples it says what they show, better than the class that
they were asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from dpdm.config import Config
from dpdm.diffusion.images import to_model_space
from dpdm.networks import Labeller
from dpdm.networks.labeller import BATCH
from dpdm.privacy import DpSgdStep, OuterProducts, PrivateUnits, Session, clip_and_sum
from dpdm.training.loop import StepRecord, images_per_unit
from dpdm.training.plan import LabellerPlan

MOMENTUM = 0.9
_MICROBATCH = 512
_KEPT_BYTES = 2 * 2**30
"""Features of all images are kept where they take no more; else they are computed anew."""


def train_labeller(
    config: Config,
    plan: LabellerPlan,
    labeller: Labeller,
    units: PrivateUnits,
    session: Session,
    state: tuple[dict[str, Tensor], int],
    after_step: Callable[[dict[str, Tensor], StepRecord], None],
) -> None:
    """DP-SGD from ``state`` on: weight and momentum by name, and the steps that are done.

    Each step spends ``plan``'s event. Where steps were done again after an interruption, later ones
    are left out, so that no more is spent than was planned.

    Args:
        config: ``labeller`` and ``privacy`` are used.
        plan: steps, sample rate, noise.
        labeller: its ``weight`` is trained.
        units: the private images, (N, H, W, C) uint8, with labels.
        session: the ledger and the noise.
        state: ``{"weight", "momentum"}`` and a number of steps.
        after_step: told the state and the record of every step; may raise.
    """
    tensors, done = state
    labeller.weight.data.copy_(tensors["weight"])
    momentum = tensors["momentum"].clone()
    units = units.transform(
        partial(_features_or_images, labeller), lambda labels: torch.from_numpy(np.array(labels))
    )
    each = images_per_unit(config)
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
        weight = labeller.weight.detach()
        logits = features @ weight
        losses = F.cross_entropy(logits, labels, reduction="none")
        errors = logits.softmax(1)
        errors[torch.arange(len(errors)), labels] -= 1.0
        count = len(rows) // each
        left, right = features.view(count, each, -1), errors.view(count, each, -1) / each
        return losses.view(count, each).mean(1), {"weight": OuterProducts(left, right)}

    parameters = {name: value.detach() for name, value in labeller.named_parameters()}
    for step in range(done, plan.steps):
        if not _affordable(session, mechanism, plan.steps):
            break
        started = time.perf_counter()
        noised, seen = mechanism.release(units, unit_gradients, parameters, session, step)
        momentum.mul_(MOMENTUM).add_(noised["weight"])
        labeller.weight.data.sub_(config.labeller.learning_rate * momentum)
        record = StepRecord(
            "labeller",
            step + 1,
            time.perf_counter() - started,
            seen.private_units * each,
            seen.private_loss,
            seen.private_units,
            seen.private_clipped_share,
            seen.private_nonfinite_units,
        )
        after_step({"weight": labeller.weight.detach().clone(), "momentum": momentum}, record)


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
    kept = images * 4 * len(labeller.weight) <= _KEPT_BYTES
    passes = images if kept else plan.steps * plan.batch_size
    return per_image * passes + per_row * plan.steps * plan.batch_size


def _features_or_images(labeller: Labeller, rows: npt.NDArray[np.uint8]) -> Tensor:
    """float32 features where they fit, else the uint8 images."""
    images = torch.from_numpy(np.array(rows))
    fits = len(rows) * 4 * len(labeller.weight) <= _KEPT_BYTES
    return _features(labeller, images) if fits else images


def _features(labeller: Labeller, images: Tensor) -> Tensor:
    return torch.cat(
        [labeller.features(to_model_space(part)) for part in torch.split(images, BATCH)]
    )


def _affordable(session: Session, mechanism: DpSgdStep, steps: int) -> bool:
    """Whether fewer steps than planned are in the ledger; seeded noise spends a step once."""
    ledger = session.ledger
    if ledger is None or session.repeatable:
        return True
    uses = ledger.counted_events(ledger.run)
    return sum(count for name, _, count in uses if name == mechanism.name) < steps
