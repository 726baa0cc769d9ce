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


def bands_by_axis(axes: Integers, bands: int = 6) -> Integers:
    """Band number (D,) of coefficients in frequency order, in bands of their axis of colour."""
    found, first = np.empty_like(axes), 0
    for axis in np.unique(axes):
        members = axes == axis
        found[members] = first + frequency_bands(int(members.sum()), bands)
        first = int(found[members].max()) + 1
    return found


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
