"""The denoising loss of a view, lambda(sigma) / P ||D(x0 + sigma n; sigma, y) - x0||^2.

P is the number of pixel values. Dockhorn et al., TMLR 2023, the denoising score matching objective;
averaging it over a unit's views gives the objective of noise multiplicity (eq. 7).
"""

from __future__ import annotations

from torch import Tensor

from dpdm.diffusion.denoiser import BaseOutput, Denoiser


def denoising_loss(
    denoiser: Denoiser, images: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None
) -> Tensor:
    """The (N,) losses of N views.

    ``images`` (N, C, H, W) in [-1, 1], ``sigma`` (N,), ``noise`` (N, C, H, W) standard normal,
    ``labels`` (N,) or None.
    """
    x = images + sigma.reshape(-1, 1, 1, 1) * noise
    return _weighted(denoiser, denoiser(x, sigma, labels) - images, sigma)


def corrected_loss(
    denoiser: Denoiser,
    images: Tensor,
    mean: Tensor,
    inputs: Tensor,
    sigma: Tensor,
    labels: Tensor | None,
) -> Tensor:
    """The same losses, given the base's ``mean`` and ``inputs`` (see ``BaseOutput``): what of them
    has a gradient."""
    estimate = denoiser.corrected(BaseOutput(mean, inputs), sigma, labels)
    return _weighted(denoiser, estimate - images, sigma)


def _weighted(denoiser: Denoiser, error: Tensor, sigma: Tensor) -> Tensor:
    return denoiser.config.weight(sigma) * error.square().flatten(1).mean(dim=1)
