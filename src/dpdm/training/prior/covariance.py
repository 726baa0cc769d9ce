"""Covariances from noised scatters: what is known of images and of the noise, before all else.

A noised covariance S = C + N has noise of known deviation in every entry. Three things tell C from
it: coefficients of a DCT have a spectrum, which falls with frequency, and are nearly uncorrelated;
a covariance has few large eigenvalues, while those of the noise are spread evenly; and how far
either holds for these images is read off S itself, by an unbiased estimate of the error. All of it
is post-processing, which costs no privacy.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import isotonic_regression

from dpdm.training.prior.shrinkage import Array, Integers, frequency_bands

_TRUST = (1.0, 0.25, 0.0)
"""Powers of the Wiener weights that are compared, from the largest down: from all that the spectrum
says to nothing."""

_SPECTRUM_BANDS = 8
_MOMENT_STEPS, _LEAST_KAPPA = 20, 1e-6
_PROBE, _PROBED = 1e-3, 500
"""How far a matrix is moved, over its noise, to see how an estimate follows it; and how many
coefficients are moved in all, so that small matrices are moved several times."""


def clean_covariance(noised: Array, deviation: float, floor: float, axes: Integers) -> Array:
    """A covariance (D, D), positive definite, freed of noise.

    An entry's deviation from the spectrum is multiplied by a power of its Wiener weight, then the
    eigenvalues are cleaned. The power is the largest whose squared error is, by Stein's unbiased
    estimate (Stein 1981, Theorem 1), within that estimate's own deviation of the least; its
    divergence is measured along random directions (Ramani, Blu and Unser 2008, eq. 14).

    Args:
        noised: symmetric, (D, D).
        deviation: of the noise of an off-diagonal entry; sqrt(2) times as much on the diagonal.
        floor: least eigenvalue.
        axes: (D,) groups of coefficients, each with a spectrum of its own that falls in their
            order: axes of colour, pose parameters.
    """
    noised = (noised + noised.T) / 2
    if deviation <= 0.0:
        return positive_definite(noised, floor)
    generator, step = np.random.default_rng(0), _PROBE * deviation
    probes = generator.standard_normal((math.ceil(_PROBED / len(noised)), *noised.shape))
    probes = (probes + probes.swapaxes(1, 2)) / np.sqrt(2.0)
    found = _estimates(noised, deviation, floor, axes)
    products = np.zeros(len(_TRUST))
    for probe in probes:
        moved = _estimates(noised + step * probe, deviation, floor, axes)
        products += ((moved - found) * probe).sum(axis=(1, 2)) / step
    squares = ((found - noised) ** 2).sum(axis=(1, 2))
    errors = squares + 2.0 * deviation**2 * products / len(probes)
    # The squares of D^2 / 2 entries, each counted twice: what noise alone moves their sum by.
    unsure = 2.0 * len(noised) * deviation**2
    chosen: Array = found[int(np.argmax(errors <= errors.min() + unsure))]
    return chosen


def _estimates(noised: Array, deviation: float, floor: float, axes: Integers) -> Array:
    """The covariance (T, D, D) by each power of the Wiener weights."""
    base = spectrum(noised, floor, axes)
    difference = noised - np.diag(base)
    shares = _wiener_weights(difference, deviation, base, axes)
    return np.stack(
        [
            clean_eigenvalues(np.diag(base) + weights * difference, weights * deviation, floor)
            for weights in (shares**power for power in _TRUST)
        ]
    )


def spectrum(noised: Array, floor: float, axes: Integers) -> Array:
    """Variances (D,) that fall within every group of ``axes``: means of bands of frequencies, those
    of neighbouring bands pooled where they do not fall (isotonic regression)."""
    diagonal, found = np.diag(noised), np.empty(len(noised))
    for axis in np.unique(axes):
        members = np.flatnonzero(axes == axis)
        bands = frequency_bands(len(members), _SPECTRUM_BANDS)
        sizes = np.bincount(bands)
        means = np.bincount(bands, diagonal[members]) / sizes
        found[members] = isotonic_regression(means, weights=sizes, increasing=False).x[bands]
    return np.maximum(found, floor)


def _wiener_weights(difference: Array, deviation: float, base: Array, axes: Integers) -> Array:
    """Shares of signal (D, D) in a noised difference from the spectrum ``base`` (D,).

    An entry's signal has mean square kappa v_i v_j, with one kappa for each pair of groups and one
    for the diagonal, estimated from all its entries by moments weighted with their precision.
    """
    products = np.outer(base, base)
    off, weights = ~np.eye(len(base), dtype=bool), np.zeros_like(difference)
    groups = [axes == axis for axis in np.unique(axes)]
    cells = [np.outer(first, second) & off for first in groups for second in groups]
    for some, noise in [(cell, deviation**2) for cell in cells] + [(~off, 2.0 * deviation**2)]:
        if some.any():
            kappa = _mean_square(difference[some], products[some], noise)
            weights[some] = kappa * products[some] / (kappa * products[some] + noise)
    return weights


def _mean_square(entries: Array, scales: Array, noise: float) -> float:
    """kappa of entries with variances kappa scales + noise, by weighted moments."""
    kappa = 0.1
    for _ in range(_MOMENT_STEPS):
        precisions = (scales / (kappa * scales + noise)) ** 2
        kappa = float((precisions * (entries**2 - noise) / scales).sum() / precisions.sum())
        kappa = max(kappa, _LEAST_KAPPA)
    return kappa


def clean_eigenvalues(noised: Array, deviations: Array, floor: float) -> Array:
    """A covariance (D, D) with the eigenvectors of a noised one and eigenvalues freed of noise.

    For noise of one deviation s the rotationally invariant estimator (Bun, Allez, Bouchaud and
    Potters 2016, eq. IV.11): xi_i = lambda_i - 2 s^2 sum_j 1 / (lambda_i - lambda_j), the sum
    smoothed over a few spacings of the noise's eigenvalues. Where entries have ``deviations``
    (D, D) of their own, s^2 is, for a pair of eigenvectors v and w, sum_kl v_k^2 s_kl^2 w_l^2.
    """
    values, vectors = np.linalg.eigh((noised + noised.T) / 2)
    squares = vectors**2
    noise = squares.T @ deviations**2 @ squares
    gaps = values[:, None] - values
    scale = gaps**2 + 4.0 * noise
    pull = np.divide(noise * gaps, scale, out=np.zeros_like(gaps), where=scale > 0.0).sum(axis=1)
    return _from_eigen(values - 2.0 * pull, vectors, floor)


def positive_definite(matrix: Array, floor: float) -> Array:
    """The nearest symmetric matrix (D, D) with eigenvalues of at least ``floor``."""
    return _from_eigen(*np.linalg.eigh((matrix + matrix.T) / 2), floor)


def leading_directions(covariance: Array, count: int) -> tuple[Array, Array]:
    """The largest eigenvalues (R,) and their eigenvectors (D, R), from the largest down."""
    values, vectors = np.linalg.eigh(covariance)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def _from_eigen(values: Array, vectors: Array, floor: float) -> Array:
    made: Array = (vectors * np.maximum(values, floor)) @ vectors.T
    return made
