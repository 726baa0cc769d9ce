"""From a denoiser to stored images, in batches of bounded memory."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdm.diffusion.draws import Device, normal
from dpdm.diffusion.guidance import condition
from dpdm.diffusion.images import to_uint8
from dpdm.diffusion.samplers import CHURN_OPTIONS, SAMPLERS, Callback, Sampler, karras_sigmas
from dpdm.errors import DpdmError, RequestError
from dpdm.lanes import Lanes

Progress = Callable[[int, int], None]
Start = Callable[[int, int], Tensor]
"""(start, stop) -> images (stop - start, C, H, W), to which the first noise is added."""

_MOST_PIXELS, _LEAST_PIXELS = 40_000, 6_000
"""Of the images that a core evaluates at a time. With more it is slower, since what a layer leaves
for the next one outgrows the cache: 25, 50, 100 and 500 images of 28x28 of a release of
``fashion-cpu-eps1`` were drawn at 80, 95, 97 and 79 a second by one thread, 32 and 64 of the
paper's U-Net at 7.4 and 6.1 by two. With fewer, Python is."""


def sampler_named(name: str, options: Mapping[str, float]) -> Sampler:
    """The sampler of that name. RequestError for another name or an option it does not take."""
    if name not in SAMPLERS:
        near = difflib.get_close_matches(name, SAMPLERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(
            f"sampling.sampler={name!r} is not a sampler; use one of {', '.join(SAMPLERS)}{hint}"
        )
    accepted = CHURN_OPTIONS if name == "churn" else ()
    for option in options:
        if option not in accepted:
            takes = f"takes {', '.join(accepted)}" if accepted else "takes no options"
            raise RequestError(f"sampling.{option} is not for the sampler {name}, which {takes}")
    return SAMPLERS[name]


def generate(
    denoiser: Callable[..., Tensor],
    labels: Tensor | None,
    image_shape: tuple[int, int, int],
    *,
    count: int | None = None,
    sampler: str = "churn",
    steps: int = 40,
    guidance: float = 0.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    sampler_options: Mapping[str, float] | None = None,
    start: Start | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 500,
    device: Device = None,
    progress: Progress | None = None,
    watch: Callback | None = None,
) -> NDArray[np.uint8]:
    """Images uint8 (n, H, W, C), one for each of ``labels`` (n,) or, where None, ``count``.

    ``image_shape`` is (C, H, W); ``sampler_options`` are s_churn, s_min, s_max and s_noise, for
    churn. The first noise stands alone, or on what ``start`` gives. Batches are drawn one after the
    other from ``generator``: with a seed, the result is fixed by the seed and ``batch_size``, up to
    rounding, which the number of threads can change (one pixel in a million by a grey level).
    ``progress(done, total)`` counts sampler steps over all batches; ``watch`` is the samplers' own
    callback, told of every step of every batch in turn. A denoiser in training mode is put in
    evaluation mode meanwhile. On a CPU parts of a batch are denoised side by side, a core each: the
    denoiser is called from several threads. On a GPU guidance doubles a batch's memory. Raises
    RequestError for settings out of range, DpdmError where the model gives values that are not
    finite.
    """
    total = count if labels is None else labels.shape[0]
    if total is None or total < 0:
        raise RequestError(f"sampling.count={total} is not a number of images; use 0 or more")
    if batch_size < 1:
        raise RequestError(f"sampling.batch_size={batch_size} is not a batch; use 1 or more")
    options = dict(sampler_options or {})
    draw = sampler_named(sampler, options)
    sigmas = karras_sigmas(steps, sigma_min, sigma_max, rho)
    channels, height, width = image_shape
    images = np.empty((total, height, width, channels), dtype=np.uint8)
    batches = [(first, min(first + batch_size, total)) for first in range(0, total, batch_size)]
    with torch.no_grad(), _evaluating(denoiser), Lanes(torch.get_num_threads()) as lanes:
        estimate = _side_by_side(denoiser, lanes)
        for index, (first, stop) in enumerate(batches):
            chosen = None if labels is None else labels[first:stop].to(device)
            noise = normal((stop - first, *image_shape), generator=generator, device=device)
            noise *= float(sigmas[0])
            x = draw(
                condition(estimate, chosen, guidance),
                noise if start is None else noise + start(first, stop).to(noise),
                sigmas,
                generator=generator,
                callback=_telling(progress, index * steps, len(batches) * steps, watch),
                **options,
            )
            if not x.isfinite().all():
                raise DpdmError(
                    f"sampling gave values that are not finite ({sampler}, {steps} steps, images "
                    f"{first} to {stop - 1}): the model is damaged or its training diverged; take "
                    "an undamaged copy, or train with a lower training.learning_rate"
                )
            images[first:stop] = to_uint8(x)
    return images


def _side_by_side(denoiser: Callable[..., Tensor], lanes: Lanes) -> Callable[..., Tensor]:
    """The same estimates; on a CPU of parts of a batch, all as large, a core each."""

    def estimate(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        pixels = len(x) * x.shape[-2] * x.shape[-1]
        rounds = math.ceil(pixels / lanes.count / _MOST_PIXELS)
        parts = min(rounds * lanes.count, pixels // _LEAST_PIXELS, len(x))
        if x.device.type != "cpu" or parts < 2:
            return denoiser(x, sigma, labels)
        classes = [None] * parts if labels is None else labels.tensor_split(parts)

        @torch.no_grad()  # of each thread
        def one(part: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
            return denoiser(*part)

        rows = zip(x.tensor_split(parts), sigma.tensor_split(parts), classes, strict=True)
        return torch.cat(list(lanes.map(one, rows)))

    return estimate


def _telling(
    progress: Progress | None, done: int, total: int, watch: Callback | None
) -> Callback | None:
    if progress is None:
        return watch

    def told(step: int, steps: int, x: Tensor, denoised: Tensor) -> None:
        progress(done + step, total)
        if watch is not None:
            watch(step, steps, x, denoised)

    return told


@contextmanager
def _evaluating(denoiser: Callable[..., Tensor]) -> Iterator[None]:
    training = isinstance(denoiser, nn.Module) and denoiser.training
    if isinstance(denoiser, nn.Module) and training:
        denoiser.eval()
    try:
        yield
    finally:
        if isinstance(denoiser, nn.Module) and training:
            denoiser.train()
