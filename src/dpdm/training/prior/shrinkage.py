"""Post-processing that knows its noise: empirical-Bayes shrinkage of noised statistics.

Each function takes a noised statistic and the standard deviation of its noise, both public,
estimates how much of what is seen is signal, and shrinks the rest away. Post-processing costs no
privacy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_EIGENVECTOR_BANDS = 10


def frequency_bands(dimension: int, bands: int = 6) -> Integers:
    """Band number (dimension,) of each coefficient in frequency order; bands of geometric width."""
    edges = np.unique(np.round(np.geomspace(1, dimension, bands + 1)).astype(np.int64))
    number = np.minimum(np.searchsorted(edges, np.arange(dimension), side="right"), len(edges) - 1)
    return np.unique(number, return_inverse=True)[1].astype(np.int64)


def signal_share(power: float, noise: float) -> float:
    """Wiener weight max(0, 1 - noise / power) of a mean square of known noise variance."""
    return max(0.0, 1.0 - noise / power) if power > 0 else 0.0


def shrink_counts(noised: Array, deviation: float) -> Array:
    """Positive class counts (Y,), shrunk towards equality as far as noise explains their spread."""
    mean = max(float(noised.mean()), 1.0)
    weight = signal_share(float(((noised - mean) ** 2).mean()), deviation**2)
    counts: Array = np.maximum(mean + weight * (noised - mean), 0.1 * mean)
    return counts


def shrink_means(noised: Array, variances: Array, counts: Array, bands: Integers) -> Array:
    """Class means (Y, D), each frequency band shrunk towards their pooled mean, and that towards 0.

    Args:
        noised: (Y, D) noised means.
        variances: (Y,) noise variance of an entry of each class's mean.
        counts: (Y,) noised class counts.
        bands: (D,) from ``frequency_bands``.
    """
    weights = counts / counts.sum()
    pooled = weights @ noised
    pooled_variance = float((weights**2 * variances).sum())
    result = np.empty_like(noised)
    for band in range(bands.max() + 1):
        inside = bands == band
        centre = pooled[inside] * signal_share(float((pooled[inside] ** 2).mean()), pooled_variance)
        offsets = noised[:, inside] - centre
        spread = max(float(((offsets**2).mean(axis=1) - variances).mean()), 1e-9)
        result[:, inside] = centre + offsets * (spread / (spread + variances))[:, None]
    return result


def shrink_symmetric(noised: Array, deviation: float, bands: Integers) -> Array:
    """Symmetric matrix (D, D): off-diagonal entries shrunk towards 0 by blocks of frequency bands.

    ``deviation`` is the noise of an off-diagonal entry. The diagonal is left as it is.
    """
    result = noised.copy()
    members = [np.flatnonzero(bands == band) for band in range(bands.max() + 1)]
    for first, rows in enumerate(members):
        for second, columns in enumerate(members):
            block = noised[np.ix_(rows, columns)]
            power = _off_diagonal_power(block) if first == second else float((block**2).mean())
            result[np.ix_(rows, columns)] = block * signal_share(power, deviation**2)
    np.fill_diagonal(result, np.diag(noised))
    return result


def _off_diagonal_power(matrix: Array) -> float:
    """Mean square of the off-diagonal entries of a square matrix; 0 where it has none."""
    entries = matrix[~np.eye(len(matrix), dtype=bool)]
    return float((entries**2).mean()) if entries.size else 0.0


def clean_eigenvalues(noised: Array, deviation: float, floor: float) -> Array:
    """A covariance (D, D) with the eigenvectors of a noised one and eigenvalues freed of noise.

    The rotationally invariant estimator for added Gaussian noise (Bun, Allez, Bouchaud and Potters
    2016, eq. IV.11): xi_i = lambda_i - 2 s^2 sum_j 1 / (lambda_i - lambda_j), s the deviation of an
    off-diagonal entry, the sum smoothed over a few spacings of the noise's eigenvalues.
    """
    values, vectors = np.linalg.eigh((noised + noised.T) / 2)
    if deviation > 0.0:
        gaps = values[:, None] - values
        pull = (gaps / (gaps**2 + (2.0 * deviation) ** 2)).sum(axis=1)
        values = values - 2.0 * deviation**2 * pull
    cleaned: Array = (vectors * np.maximum(values, floor)) @ vectors.T
    return cleaned


def towards_spectrum(noised: Array, deviation: float, floor: float, bands: Integers) -> Array:
    """A covariance (D, D) between ``clean_eigenvalues`` and one variance per frequency band.

    Coefficients of a DCT are nearly uncorrelated, and a band's mean variance has little noise. The
    cleaned covariance counts as much as the off-diagonal entries are signal: ``deviation`` is the
    noise of one of them.
    """
    diagonal = np.diag(noised)
    spectrum = np.empty_like(diagonal)
    for band in range(bands.max() + 1):
        inside = bands == band
        spectrum[inside] = max(float(diagonal[inside].mean()), floor)
    weight = signal_share(_off_diagonal_power(noised), deviation**2)
    mean: Array = weight * clean_eigenvalues(noised, deviation, floor)
    mean[np.diag_indices_from(mean)] += (1.0 - weight) * spectrum
    return mean


def leading_directions(covariance: Array, count: int) -> tuple[Array, Array]:
    """The largest eigenvalues (R,) and their eigenvectors (D, R), from the largest down."""
    values, vectors = np.linalg.eigh(covariance)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def clean_deviation(noised: Array, deviation: float, vectors: Array) -> Array:
    """A class's covariance minus the pooled one (D, D), shrunk towards no difference.

    In the pooled one's eigenvectors, the columns of ``vectors`` from the largest eigenvalue down,
    noise stays what it is, while a difference falls with the eigenvalues it lies between: blocks of
    eigenvectors are shrunk each by its own share of signal.
    """
    turned = vectors.T @ noised @ vectors
    bands = frequency_bands(len(turned), _EIGENVECTOR_BANDS)
    result = shrink_symmetric(turned, deviation, bands)
    diagonal = np.diag(turned).copy()
    for band in range(bands.max() + 1):
        inside = bands == band
        diagonal[inside] *= signal_share(float((diagonal[inside] ** 2).mean()), 2.0 * deviation**2)
    np.fill_diagonal(result, diagonal)
    turned_back: Array = vectors @ result @ vectors.T
    return turned_back


def positive_definite(matrix: Array, floor: float) -> Array:
    """The nearest symmetric matrix (D, D) with eigenvalues of at least ``floor``."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    repaired: Array = (vectors * np.maximum(values, floor)) @ vectors.T
    return repaired
