"""Frechet distance: closed forms, scipy's matrix square root, and moments that stream."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from dpdm.errors import RequestError
from dpdm.evaluation.metrics.gaussian import (
    Moments,
    frechet_between,
    frechet_distance,
    moments,
)


def generator():
    return np.random.default_rng(0)


def covariance(size, rank=None):
    factor = generator().normal(size=(size, rank or 2 * size))
    return factor @ factor.T / factor.shape[1]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_gaussians_in_one_dimension(scale):
    # (m1 - m2)^2 + (s1 - s2)^2
    value = frechet_distance(
        np.array([1.0 * scale]),
        np.array([[4.0 * scale**2]]),
        np.array([3.5 * scale]),
        np.array([[0.25 * scale**2]]),
    )
    assert value == pytest.approx((2.5**2 + 1.5**2) * scale**2, rel=1e-12)


@pytest.mark.parametrize("size", [2, 64, 300])
def test_covariances_that_commute(size):
    # In a common eigenbasis: the sum of (sqrt a - sqrt b)^2.
    basis = ortho_group.rvs(size, random_state=1)
    a, b = generator().uniform(0, 5, (2, size))
    mean, other = generator().normal(size=(2, size))
    value = frechet_distance(mean, (basis * a) @ basis.T, other, (basis * b) @ basis.T)
    exact = ((mean - other) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert value == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("spread", [1e-8, 1e-4, 1e4])
def test_an_affine_map_of_a_gaussian(spread):
    # Covariances S and A S A, A symmetric positive: the optimal map is A, and the distance
    # tr((A - 1) S (A - 1)); here for A = 1 + spread P with a projection P.
    size = 40
    basis = ortho_group.rvs(size, random_state=2)[:, :15]
    step = spread * basis @ basis.T
    cov = covariance(size)
    mapped = (np.eye(size) + step) @ cov @ (np.eye(size) + step)
    value = frechet_distance(np.zeros(size), cov, np.zeros(size), mapped)
    exact = np.trace(step @ cov @ step)
    # A difference of traces keeps no more digits than these have.
    assert value == pytest.approx(exact, rel=1e-6, abs=1e-13 * np.trace(cov + mapped))


def test_scipys_square_root_of_the_product_agrees():
    one, other = covariance(30), covariance(30)[::-1, ::-1] * 1.7
    mean = generator().normal(size=30)
    root = sqrtm(one @ other).real
    exact = mean @ mean + np.trace(one + other - 2 * root)
    value = frechet_distance(mean, one, np.zeros(30), other)
    assert value == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("rank", [1, 20, 200])
def test_a_set_is_at_distance_zero_of_itself_also_where_its_covariance_is_singular(rank):
    cov = 1e3 * covariance(200, rank)
    assert frechet_distance(np.zeros(200), cov, np.zeros(200), cov) < 1e-8 * np.trace(cov)


def test_the_estimate_approaches_the_distance_from_above_as_the_images_grow():
    draws = generator()
    exact = 16 * (2.0 - 1.0) ** 2
    errors = []
    for count in (100, 1000, 20_000):
        one = moments(draws.normal(size=(count, 16)))
        other = moments(draws.normal(size=(count, 16)) * 2)
        errors.append(frechet_between(one, other) - exact)
    assert errors[0] > errors[1] > abs(errors[2])


def test_moments_are_those_of_numpy():
    features = generator().normal(size=(501, 7)).astype(np.float32)
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("cuts", [[1], [250], [1, 2, 3], [100, 101, 499]])
def test_moments_of_parts_merge_into_those_of_the_whole(cuts):
    features = generator().normal(size=(500, 6))
    streamed = Moments.stream(np.split(features, cuts))
    whole = Moments.of(features)
    assert streamed.count == 500
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(streamed.scatter, whole.scatter, rtol=1e-12)


def test_a_large_offset_costs_no_digits():
    features = generator().normal(size=(5000, 4))
    offset = Moments.stream(np.split(features + 1e7, 10)).covariance
    # 1e7 + x itself keeps nine digits of x.
    np.testing.assert_allclose(offset, np.cov(features, rowvar=False), atol=1e-7)


def test_one_image_has_no_covariance():
    with pytest.raises(RequestError, match="at least 2"):
        _ = moments(np.ones((1, 3))).covariance
