"""Kernel distance: the naive double sum, unbiasedness, subsets."""

import numpy as np
import pytest

from dpdm.errors import RequestError
from dpdm.evaluation.metrics.kernel import kernel_distance, unbiased_mmd


def naive(one, other):
    def kernel(x, y):
        return (float(np.dot(x, y)) / len(x) + 1) ** 3

    def within(points):
        pairs = [(i, j) for i in range(len(points)) for j in range(len(points)) if i != j]
        return sum(kernel(points[i], points[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(x, y) for x in one for y in other) / (len(one) * len(other))
    return within(one) + within(other) - 2 * between


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 7), (20, 13)])
def test_the_naive_double_sum_agrees(n, m):
    draws = np.random.default_rng(n)
    one, other = draws.normal(size=(n, 5)), draws.normal(1, 2, size=(m, 5))
    assert unbiased_mmd(one, other) == pytest.approx(naive(one, other), rel=1e-12)


def test_one_subset_of_everything_is_the_whole():
    draws = np.random.default_rng(0)
    one, other = draws.normal(size=(40, 3)), draws.normal(size=(40, 3))
    found = kernel_distance(one, other, subsets=1, subset_size=1000)
    assert found.value == pytest.approx(unbiased_mmd(one, other), rel=1e-9)
    assert (found.spread, found.subset_size) == (0.0, 40)


def test_sets_of_one_distribution_are_at_distance_zero_on_average():
    draws = np.random.default_rng(1)
    values = [
        unbiased_mmd(draws.normal(size=(10, 4)), draws.normal(size=(10, 4))) for _ in range(2000)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


def test_subsets_are_drawn_by_the_seed_and_spread():
    draws = np.random.default_rng(2)
    one, other = draws.normal(size=(300, 4)), draws.normal(0.5, 1, size=(200, 4))
    found = kernel_distance(one, other, subset_size=50)
    assert found == kernel_distance(one, other, subset_size=50)
    assert found != kernel_distance(one, other, subset_size=50, seed=1)
    assert found.value == pytest.approx(unbiased_mmd(one, other), abs=5 * found.spread / 10)


def test_fewer_than_two_images_are_refused():
    with pytest.raises(RequestError, match="at least 2"):
        kernel_distance(np.ones((1, 3)), np.ones((5, 3)))
