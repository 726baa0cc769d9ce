"""What is signal in a noised covariance, by its spectrum, its eigenvalues and an unbiased error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dpdm.training.prior import covariance
from dpdm.training.prior.covariance import (
    clean_covariance,
    clean_eigenvalues,
    positive_definite,
    spectrum,
)

FLOOR = 1e-4


def symmetric_noise(generator: np.random.Generator, size: int, deviation: float) -> np.ndarray:
    normal = generator.normal(size=(size, size)) * deviation
    return np.triu(normal, 1) + np.triu(normal, 1).T + math.sqrt(2) * np.diag(np.diag(normal))


def one_axis(size: int) -> np.ndarray:
    return np.zeros(size, np.int64)


def photographs(generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A covariance whose variances fall with frequency, on two axes of which the second has a
    twentieth of the energy, with weak correlations; and the axes."""
    axes = np.arange(size) % 3 // 2
    deviations = 10.0 / (1 + np.arange(size)) ** 0.7 * np.where(axes, 0.22, 1.0)
    factors = generator.normal(size=(size, 2 * size))
    correlations = 0.85 * np.eye(size) + 0.15 * factors @ factors.T / (2 * size)
    return deviations[:, None] * correlations * deviations, axes


def turned(generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A covariance of few large eigenvalues in directions that are not those of coefficients."""
    basis = np.linalg.qr(generator.normal(size=(size, size)))[0]
    return (basis * (100.0 * 0.8 ** np.arange(size) + 0.01)) @ basis.T, one_axis(size)


def test_eigenvalues_are_freed_of_the_noise_that_spreads_them():
    generator = np.random.default_rng(0)
    true = np.diag(100.0 * 0.9 ** np.arange(120))
    noised = true + symmetric_noise(generator, 120, 0.4)
    cleaned = clean_eigenvalues(noised, np.full_like(noised, 0.4), FLOOR)
    assert np.trace(cleaned) == pytest.approx(np.trace(true), rel=0.03)
    clipped = positive_definite(noised, FLOOR)
    assert np.linalg.norm(cleaned - true) < 0.85 * np.linalg.norm(clipped - true)
    noise = symmetric_noise(generator, 120, 1.0)
    nothing = clean_eigenvalues(noise, np.ones_like(noise), FLOOR)
    assert np.linalg.eigvalsh(nothing).max() < 5.0  # of 22 in the noise


def test_noise_of_one_deviation_is_the_rotationally_invariant_estimator():
    noised = symmetric_noise(np.random.default_rng(0), 20, 1.0) + np.diag(np.arange(20.0, 0.0, -1))
    values, vectors = np.linalg.eigh(noised)
    expected = []
    for mine in values:
        terms = [(mine - other) / ((mine - other) ** 2 + 4 * 0.3**2) for other in values]
        expected.append(max(mine - 2 * 0.3**2 * sum(terms), FLOOR))
    cleaned = clean_eigenvalues(noised, np.full_like(noised, 0.3), FLOOR)
    np.testing.assert_allclose(vectors.T @ cleaned @ vectors, np.diag(expected), atol=1e-9)


def test_where_noise_differs_by_entry_it_is_taken_away_where_it_is():
    generator, errors = np.random.default_rng(0), []
    deviations = np.zeros((80, 80))
    deviations[40:, 40:] = 1.0
    true = np.diag(np.concatenate([np.full(40, 8.0), np.full(40, 4.0)]))
    for _ in range(10):
        noised = true + deviations * symmetric_noise(generator, 80, 1.0)
        known = clean_eigenvalues(noised, deviations, FLOOR)
        average = clean_eigenvalues(noised, np.full_like(noised, 0.5), FLOOR)
        errors.append([np.linalg.norm(found - true) for found in (known, average)])
    assert (np.array(errors)[:, 0] < np.array(errors)[:, 1]).all()


def test_a_spectrum_falls_within_every_axis_and_is_at_least_the_floor():
    generator = np.random.default_rng(0)
    noised = np.diag(generator.normal(size=60) + np.linspace(4.0, -2.0, 60))
    axes = np.arange(60) % 2
    found = spectrum(noised, FLOOR, axes)
    for axis in range(2):
        assert (np.diff(found[axes == axis]) <= 1e-12).all()
    assert found.min() == FLOOR
    falling = np.diag(np.repeat([8.0, 4.0, 2.0, 1.0], 8))
    assert spectrum(falling, FLOOR, one_axis(32)).sum() == pytest.approx(120.0)


@pytest.mark.parametrize("noise", [0.03, 0.3, 3.0])
def test_what_the_spectrum_says_of_photographs_is_believed(noise):
    generator, errors = np.random.default_rng(0), []
    for _ in range(5):
        true, axes = photographs(generator, 90)
        noised = true + symmetric_noise(generator, 90, noise)
        plain = clean_eigenvalues(noised, np.full_like(noised, noise), FLOOR)
        cleaned = clean_covariance(noised, noise, FLOOR, axes)
        assert np.linalg.eigvalsh(cleaned).min() > 0.0
        errors.append([np.linalg.norm(found - true) for found in (cleaned, plain)])
    cleaned, plain = np.mean(errors, axis=0)
    assert cleaned < 0.75 * plain


@pytest.mark.parametrize(
    ("kind", "noise"), [(photographs, 0.1), (photographs, 1.0), (turned, 1.0), (turned, 2.0)]
)
def test_the_trust_in_the_spectrum_is_nearly_the_best(kind, noise, monkeypatch):
    generator = np.random.default_rng(0)
    true, axes = kind(generator, 90)
    noised = true + symmetric_noise(generator, 90, noise)
    chosen = np.linalg.norm(clean_covariance(noised, noise, FLOOR, axes) - true)
    each = []
    for power in covariance._TRUST:
        monkeypatch.setattr(covariance, "_TRUST", (power,))
        each.append(np.linalg.norm(clean_covariance(noised, noise, FLOOR, axes) - true))
    energy = 90**2 * noise**2  # of the noise, against which the estimate of the error is noisy
    assert chosen**2 <= min(each) ** 2 + 0.04 * energy
    assert max(each) ** 2 > min(each) ** 2 + 0.04 * energy


def test_it_is_positive_definite_at_any_noise():
    generator = np.random.default_rng(0)
    for scale in (0.0, 0.1, 1.0, 100.0):
        noise = symmetric_noise(generator, 30, scale)
        cleaned = clean_covariance(noise, scale, FLOOR, np.arange(30) % 3)
        assert np.linalg.eigvalsh(cleaned).min() > 0.5 * FLOOR
        assert np.isfinite(cleaned).all()


def test_without_noise_it_stays_as_it_is():
    true, axes = photographs(np.random.default_rng(0), 40)
    np.testing.assert_allclose(clean_covariance(true, 0.0, FLOOR, axes), true, atol=1e-9)
    np.testing.assert_allclose(clean_covariance(true, 1e-4, FLOOR, axes), true, atol=2e-2)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_coefficients_are_enough(size):
    noised = np.diag(np.arange(size, 0.0, -1.0))
    cleaned = clean_covariance(noised, 0.1, FLOOR, np.arange(size))
    assert cleaned.shape == (size, size)
    assert np.isfinite(cleaned).all()
