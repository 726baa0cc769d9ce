"""Precision, recall, density and coverage against their definitions, and their known values."""

import numpy as np
import pytest

from dpdm.evaluation.metrics.manifold import manifold, real_radii, synthetic_radii
from dpdm.evaluation.metrics.neighbours import inside_balls, nearest


def measured(real, synthetic):
    of_real, of_synthetic = (nearest(one, one, 5, own=0) for one in (real, synthetic))
    return manifold(
        inside_balls(synthetic, real, real_radii(of_real)),
        inside_balls(real, synthetic, synthetic_radii(of_synthetic)),
    )


def naive(real, synthetic):
    """The formulas of the two papers, one point at a time."""

    def distance(x, y):
        return ((x.astype(float) - y.astype(float)) ** 2).sum()

    def radii(points, k):
        return [
            sorted(distance(x, y) for j, y in enumerate(points) if j != i)[k - 1]
            for i, x in enumerate(points)
        ]

    def inside(point, centres, reach):
        return [distance(point, c) <= r for c, r in zip(centres, reach, strict=True)]

    real3, fake3, real5 = radii(real, 3), radii(synthetic, 3), radii(real, 5)
    return (
        np.mean([any(inside(y, real, real3)) for y in synthetic]),
        np.mean([any(inside(x, synthetic, fake3)) for x in real]),
        np.mean([sum(inside(y, real, real5)) for y in synthetic]) / 5,
        np.mean(np.any([inside(y, real, real5) for y in synthetic], axis=0)),
    )


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_the_package_of_density_and_coverage_agrees(shift):
    prdc = pytest.importorskip("prdc", reason="the package of Naeem et al. is not installed")
    draws = np.random.default_rng(1)
    real, synthetic = draws.normal(size=(200, 8)), draws.normal(shift, 0.8, size=(150, 8))
    found = measured(real, synthetic)
    by_3, by_5 = (prdc.compute_prdc(real, synthetic, nearest_k=k) for k in (3, 5))
    expected = by_3["precision"], by_3["recall"], by_5["density"], by_5["coverage"]
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_the_definitions_agree(shift):
    draws = np.random.default_rng(0)
    real, synthetic = draws.normal(size=(60, 4)), draws.normal(shift, 0.8, size=(45, 4))
    found = measured(real, synthetic)
    expected = naive(real, synthetic)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_the_definitions_agree_where_there_are_ties_and_copies():
    draws = np.random.default_rng(1)
    real, synthetic = (draws.integers(0, 3, (n, 4)).astype(np.uint8) for n in (50, 40))
    found = measured(real, synthetic)
    expected = naive(real, synthetic)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_two_draws_of_one_distribution_have_the_expected_coverage_and_density():
    # Naeem et al.: E coverage = 1 - 1/2^k nearly, E density = 1, for two sets of one size.
    draws = np.random.default_rng(2)
    found = measured(*draws.normal(size=(2, 2000, 8)))
    assert found.coverage == pytest.approx(1 - 1 / 2**5, abs=0.02)
    assert found.density == pytest.approx(1, abs=0.1)


def test_one_repeated_image_is_precise_and_covers_nothing():
    real = np.random.default_rng(3).normal(size=(200, 3))
    found = measured(real, np.repeat(real[:1], 100, axis=0))
    assert found.precision == 1
    assert found.recall <= 1 / 200
    assert found.coverage < 0.2


def test_far_away_images_score_zero():
    real = np.random.default_rng(4).normal(size=(100, 3))
    found = measured(real, real + 1000)
    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)
