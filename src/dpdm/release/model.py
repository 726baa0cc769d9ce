"""A released model: loads from a folder alone and draws labelled images."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dpdm import __version__
from dpdm.config import Config, SamplerSettings
from dpdm.config.loading import from_mapping
from dpdm.config.schema import MOST_LABELLER_GUIDANCE
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.generate import generate
from dpdm.diffusion.images import to_model_space, to_uint8
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.samplers import CHURN_OPTIONS, Callback
from dpdm.errors import RequestError
from dpdm.memory import check_room
from dpdm.networks import Labeller, load_into, load_weights, save_weights
from dpdm.networks.labeller import BATCH
from dpdm.release.build import build_denoiser
from dpdm.release.files import (
    FORMAT,
    find_release,
    public_settings,
    read_description,
    read_statement,
    write_description,
)
from dpdm.release.guided import guided
from dpdm.release.labelled import Reading, draw_as_labelled, fit_reading
from dpdm.release.precision import autocast_dtype, place, resolve_device

Progress = Callable[[int, int], None]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

_READ, _READ_A_CLASS = 4000, 50
"""Samples of the prior that the labeller is compared on with what they were drawn for."""


@dataclass(frozen=True)
class Model:
    """A trained model with what is needed to sample it; nothing in it is private.

    Attributes:
        config: settings, without the data's path.
        image_shape: (C, H, W).
        classes: names in label order, () for unlabelled data.
        denoiser: network and base, or the prior's base alone.
        mixture: the prior, or None.
        histogram: (Y,) noised shares of the classes, or None.
        statement: the privacy statement, or None if the folder holds none.
        labeller: reads a sample's class from it, or None.
    """

    config: Config
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    denoiser: nn.Module
    mixture: Mixture | None
    histogram: Tensor | None
    statement: dict[str, Any] | None
    labeller: Labeller | None = None

    def labels(self, count: int, labels: str | Sequence[int] | Labels, seed: int | None) -> Labels:
        """Labels (count,) to sample with: ``uniform``, ``histogram`` (noised), or repeated from a
        list.

        Raises:
            RequestError: unknown law, labels out of range, no released histogram, unlabelled model.
        """
        names = len(self.classes)
        if isinstance(labels, str) and labels in ("uniform", "histogram"):
            if names == 0:
                return np.full(count, -1, np.int64)
            if labels == "uniform":
                return np.arange(count, dtype=np.int64) % names
            shares = self.histogram
            if shares is None and self.mixture is not None:
                shares = self.mixture.class_weights
            if shares is None:
                raise RequestError(
                    "--labels histogram: this release holds no noised class histogram (train with "
                    "privacy.histogram_share above 0); use uniform or a list such as 0,1,2"
                )
            weights = shares.double().cpu().numpy()
            drawn = np.random.default_rng(seed).choice(names, count, p=weights / weights.sum())
            return drawn.astype(np.int64)
        if isinstance(labels, str):
            raise RequestError(f"--labels {labels}: use uniform, histogram or a list such as 0,1,2")
        try:
            chosen = np.asarray(labels)
        except ValueError:  # of lists of different lengths
            raise RequestError("labels: give one list of classes, for example 0,1,2") from None
        if chosen.ndim != 1 or len(chosen) == 0:
            raise RequestError("labels: give at least one class, for example 0,1,2")
        if chosen.dtype.kind not in "iu":
            raise RequestError("labels: give whole numbers, for example 0,1,2")
        wrong = sorted({int(value) for value in chosen if not 0 <= value < names})
        if wrong:
            known = f"0 to {names - 1}" if names else "none: it was trained without labels"
            raise RequestError(
                f"labels {wrong}: not classes of this model; its classes are {known}"
            )
        return chosen[np.arange(count) % len(chosen)]

    def settings(self, name: str | None) -> SamplerSettings:
        """The release's own sampler settings, or named alternative ones of its configuration.

        Raises:
            RequestError: no settings of that name.
        """
        if name is None:
            return self.config.sampling
        alternatives = self.config.sampling.alternatives
        if name not in alternatives:
            known = ", ".join(alternatives) or "none"
            raise RequestError(f"settings {name!r}: not in this release; it has: {known}")
        return alternatives[name]

    def sample(
        self,
        count: int,
        *,
        labels: str | Sequence[int] | Labels = "uniform",
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        labeller_guidance: float | None = None,
        seed: int | None = None,
        settings: str | None = None,
        batch_size: int | None = None,
        relabel: bool = True,
        device: str | torch.device | None = None,
        progress: Progress | None = None,
        watch: Callback | None = None,
    ) -> tuple[Images, Labels]:
        """Draws images uint8 (count, H, W, C) and labels int64 (count,), -1 where unlabelled.

        A prior alone is drawn from directly, unless a sampler is named: its distribution is known
        in closed form. ``None`` takes the release's own setting. Without a seed, the draw is fresh.
        Where the release has a labeller, it finds each label's class in its image (see
        ``draw_as_labelled``), unless ``relabel`` is False: then an image has the label that it was
        drawn for, whatever it shows; ``sampling.reading`` says whether the labeller finds it alone.
        Images are then moved to where the labeller finds it, by ``labeller_guidance`` (``guided``).
        ``watch`` is told of every sampler step, as ``dpdm.diffusion.samplers`` has it.

        Raises:
            RequestError: count or batch size below 1, more images than memory holds, a seed or a
                device that is none, unknown sampler, label or settings, guidance below 0 or without
                labels, steps or guidance where there is no sampler, a labeller's guidance where
                there is none.
        """
        count, seed = _whole("-n", count), None if seed is None else _whole("--seed", seed)
        if count < 1:
            raise RequestError(f"-n {count}: the number of images must be at least 1")
        channels, height, width = self.image_shape
        check_room("-n", count, (height, width, channels))
        if seed is not None and not 0 <= seed < 2**63:
            raise RequestError(f"--seed {seed}: a seed is a whole number from 0 to 2^63 - 1")
        if batch_size is not None and batch_size < 1:
            raise RequestError(f"--batch-size {batch_size}: the number must be at least 1")
        if steps is not None and steps < 1:
            raise RequestError(f"--steps {steps}: the number must be at least 1")
        if guidance is not None and not 0 <= guidance < math.inf:
            raise RequestError(f"--guidance {guidance:g}: use a number from 0, which is none")
        most = MOST_LABELLER_GUIDANCE
        if labeller_guidance is not None and not 0 <= labeller_guidance <= most:
            raise RequestError(
                f"--labeller-guidance {labeller_guidance:g}: use a number from 0, which is none, "
                f"to {most:g}"
            )
        chosen = self.settings(settings)
        towards = chosen.labeller_guidance if labeller_guidance is None else labeller_guidance
        if labeller_guidance and self.labeller is None:
            raise RequestError(
                f"--labeller-guidance {labeller_guidance:g}: this release has no labeller; leave "
                "it out"
            )
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        drawn = self.labels(count, labels, seed)
        size = batch_size or self.config.sampling.batch_size
        where = resolve_device(device)
        if isinstance(self.denoiser, Denoiser):
            self.denoiser.precision = autocast_dtype(self.config.sampling.precision, where)
        draw: Callable[[Labels], Images]
        if self.mixture is not None and not isinstance(self.denoiser, Denoiser) and sampler is None:
            if steps is not None or guidance:
                raise RequestError(
                    "--steps and --guidance: this model is a prior alone, which is drawn from "
                    "directly; name a sampler too (--sampler heun), or leave them out"
                )
            draw = partial(
                self._draw_prior, batch_size=size, generator=generator, progress=progress
            )
        else:
            scale = chosen.guidance if guidance is None else guidance
            if scale and not self.classes:
                raise RequestError(
                    f"guidance {scale:g}: this model was trained without labels; use 0"
                )
            place(self.denoiser, where)
            draw = partial(
                self._draw_steps,
                settings=chosen,
                sampler=sampler or chosen.sampler,
                steps=chosen.steps if steps is None else steps,
                guidance=scale,
                generator=generator,
                batch_size=size,
                device=where,
                progress=progress,
                watch=watch,
            )
        if self.labeller is None or not relabel:
            return draw(drawn), drawn
        alone = chosen.reading == "labeller"
        read = (lambda images, _: self.read(images)) if alone else self.read
        images = draw_as_labelled(draw, read, drawn)
        if towards:
            images = guided(
                self.labeller,
                images,
                drawn,
                scale=towards,
                temperature=1.0 if self._reading is None else self._reading.temperature,
                device=where,
                progress=progress,
            )
        return images, drawn

    def read(self, images: Images, asked: Labels | None = None) -> Labels:
        """The labels (n,) that the labeller finds in images (n, H, W, C).

        Of samples, ``asked`` are the classes (n,) that they were drawn for: these count as well, as
        much as they prove right (``fit_reading``).

        Raises:
            RequestError: the release has no labeller.
        """
        found = self._logits(images)
        if asked is not None and self._reading is not None:
            found = self._reading.probabilities(found, asked)
        labels: Labels = found.argmax(1)
        return labels

    def _logits(self, images: Images) -> Array:
        """(n, Y), the labeller's."""
        if self.labeller is None:
            raise RequestError("this release has no labeller (labeller.enabled=false)")
        found = np.empty((len(images), len(self.classes)))
        for start in range(0, len(images), BATCH):
            part = to_model_space(np.array(images[start : start + BATCH]))
            found[start : start + BATCH] = self.labeller(part).numpy()
        return found

    @cached_property
    def _reading(self) -> Reading | None:
        """Fitted to samples of the prior, the same at every call; None without a prior."""
        if self.mixture is None:
            return None
        classes = len(self.classes)
        asked = np.arange(max(_READ, _READ_A_CLASS * classes)) % classes
        images = self._draw_prior(
            asked, batch_size=BATCH, generator=torch.Generator().manual_seed(0)
        )
        return fit_reading(self._logits(images), asked)

    def _draw_steps(
        self,
        labels: Labels,
        *,
        settings: SamplerSettings,
        sampler: str,
        generator: torch.Generator,
        **how: Any,
    ) -> Images:
        """By a sampler's steps; ``how`` is for ``generate``."""
        options = {}
        if sampler == "churn":
            options = {name: getattr(settings, name) for name in CHURN_OPTIONS}

        def from_prior(first: int, stop: int) -> Tensor:
            assert self.mixture is not None
            chosen = torch.from_numpy(labels[first:stop])
            return self.mixture.sample(chosen, generator).clamp(-1.0, 1.0)

        return generate(
            self.denoiser,
            torch.from_numpy(labels) if self.classes else None,
            self.image_shape,
            count=len(labels),
            sampler=sampler,
            sigma_min=settings.sigma_min,
            sigma_max=settings.sigma_max,
            rho=settings.rho,
            sampler_options=options,
            start=from_prior if settings.start == "prior" else None,
            generator=generator,
            **how,
        )

    def _draw_prior(
        self,
        labels: Labels,
        *,
        batch_size: int,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> Images:
        assert self.mixture is not None
        parts = []
        for start in range(0, len(labels), batch_size):
            chunk = torch.from_numpy(labels[start : start + batch_size])
            parts.append(to_uint8(self.mixture.sample(chunk, generator)))
            if progress is not None:
                progress(min(start + batch_size, len(labels)), len(labels))
        return np.concatenate(parts)


def _whole(option: str, value: int) -> int:
    """A whole number of any kind, numpy's too."""
    try:
        return operator.index(value)
    except TypeError:
        raise RequestError(f"{option} {value}: give a whole number") from None


def load(path: str | Path) -> Model:
    """Loads a model from a run or a release folder; nothing but the release's files is read.

    Raises:
        RequestError: not a run or a release.
        DpdmError: a file is damaged or of another format.
    """
    folder = find_release(path)
    description = read_description(folder)
    config = from_mapping(description["config"], str(folder / "model.yaml"))
    image = description["image"]
    image_shape = (image["channels"], image["height"], image["width"])
    classes = tuple(description["classes"])
    stored, _ = load_weights(folder / "model.safetensors")
    # A release may be stored in half of the bits; it computes in float32 all the same.
    tensors = {n: t.float() if t.dtype == torch.float16 else t for n, t in stored.items()}
    prior = {name[6:]: value for name, value in tensors.items() if name.startswith("prior.")}
    mixture = Mixture.from_tensors(prior, image_shape) if prior else None
    denoiser = build_denoiser(config, image_shape, len(classes), mixture)
    network = {name[8:]: value for name, value in tensors.items() if name.startswith("network.")}
    if isinstance(denoiser, Denoiser):
        load_into(denoiser.network, network)
    denoiser.eval().requires_grad_(False)
    labeller = None
    if "labeller.weight" in tensors:
        labeller = Labeller(image_shape, len(classes)).eval().requires_grad_(False)
        load_into(labeller, {"weight": tensors["labeller.weight"]})
    return Model(
        config,
        image_shape,
        classes,
        denoiser,
        mixture,
        tensors.get("labels.histogram"),
        read_statement(folder),
        labeller,
    )


def write_release_model(
    folder: Path,
    config: Config,
    image_shape: tuple[int, int, int],
    classes: tuple[str, ...],
    network: dict[str, Tensor] | None,
    mixture: Mixture | None,
    histogram: Tensor | None = None,
    labeller: Tensor | None = None,
    prior_chosen: Mapping[str, Any] | None = None,
) -> None:
    """Writes ``model.safetensors`` and, last, ``model.yaml``: a folder with the latter is whole.

    Args:
        folder: the release folder.
        config: the run's settings.
        image_shape: (C, H, W).
        classes: names of the classes, in label order.
        network: weights by name (the moving average), or None.
        mixture: the prior, or None.
        histogram: (Y,) noised shares of the classes, or None.
        labeller: the labeller's weight, or None.
        prior_chosen: the kind of image that noised votes chose, with the votes, or None.
    """
    tensors = {f"network.{name}": value for name, value in (network or {}).items()}
    if mixture is not None:
        tensors |= {f"prior.{name}": value for name, value in mixture.to_tensors().items()}
    if histogram is not None:
        tensors["labels.histogram"] = histogram
    if labeller is not None:
        tensors["labeller.weight"] = labeller
    save_weights(folder / "model.safetensors", tensors, {"format": str(FORMAT)})
    channels, height, width = image_shape
    description = {
        "format": FORMAT,
        "software": f"dpdm {__version__}",
        "image": {"height": height, "width": width, "channels": channels},
        "classes": list(classes),
        **({"prior_chosen": dict(prior_chosen)} if prior_chosen else {}),
        "config": public_settings(config),
    }
    write_description(folder / "model.yaml", description)
