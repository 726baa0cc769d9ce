"""Clipped sums: no unit adds more than max_norm, whatever rounding does."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdm.errors import RequestError
from dpdm.privacy.gradients import OuterProducts, clip_and_sum, clip_factors, per_unit_norms

MAX_NORM = 0.7


def random_gradients(units: int = 5, scale: float = 1.0) -> dict[str, torch.Tensor]:
    shapes = {"weight": (4, 3, 2), "bias": (4,), "scale": ()}
    return {name: scale * torch.randn(units, *shape) for name, shape in shapes.items()}


def flat(gradients: dict[str, torch.Tensor], unit: int) -> torch.Tensor:
    return torch.cat([g[unit].flatten().double() for g in gradients.values()])


def flat_sum(sums: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([s.flatten().double() for s in sums.values()])


def test_the_sum_is_that_of_a_loop_over_units():
    gradients = random_gradients()
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    expected = torch.zeros_like(flat(gradients, 0))
    for u in range(5):
        g = flat(gradients, u)
        expected += weights[u] * g * min(1.0, MAX_NORM / float(g.norm()))
    found = clip_and_sum(gradients, MAX_NORM, weights)
    torch.testing.assert_close(flat_sum(found.sums), expected, rtol=3e-6, atol=1e-6)
    assert {name: s.shape for name, s in found.sums.items()} == {
        name: g.shape[1:] for name, g in gradients.items()
    }


def test_gradients_of_many_tiles_are_those_of_a_loop_over_units():
    """More units and entries than are converted at a time, rows apart in memory, one not finite."""
    wide = torch.randn(11, 40_000, generator=torch.Generator().manual_seed(0))
    tall = torch.randn(1000, 2, 150, generator=torch.Generator().manual_seed(1))[:, 1]
    wide[7, 33_333] = math.nan
    tall[990, 149] = math.inf
    for gradient, bad in ((wide, 7), (tall, 990)):
        exact = gradient.double()
        norms = exact.norm(dim=1)
        exact[bad] = 0.0
        factors = (MAX_NORM / norms).clamp(max=1.0).nan_to_num()
        found = clip_and_sum({"a": gradient}, MAX_NORM)
        expected = (exact * factors[:, None]).sum(0)
        torch.testing.assert_close(found.sums["a"], expected, rtol=3e-6, atol=1e-6)
        assert torch.equal(found.nonfinite.nonzero().flatten(), torch.tensor([bad]))
        others = found.norms.isfinite()
        torch.testing.assert_close(found.norms[others], norms[others], rtol=1e-12, atol=0)


def test_norms_are_over_all_parameters_together():
    gradients = {"a": torch.tensor([[3.0], [0.0]]), "b": torch.tensor([4.0, 2.0])}
    assert torch.equal(per_unit_norms(gradients), torch.tensor([5.0, 2.0], dtype=torch.float64))


def test_a_gradient_within_the_bound_is_left_as_it_is():
    gradients = random_gradients(units=1, scale=1e-3)
    found = clip_and_sum(gradients, MAX_NORM)
    for name, gradient in gradients.items():
        assert torch.equal(found.sums[name], gradient[0])


def test_an_infinite_bound_clips_nothing():
    gradients = random_gradients(units=1, scale=1e3)
    found = clip_and_sum(gradients, math.inf)
    for name, gradient in gradients.items():
        assert torch.equal(found.sums[name], gradient[0])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 3000),
    log_scale=st.floats(-20, 18),
    log_bound=st.floats(-6, 3),
    constant=st.booleans(),
)
def test_no_rounding_lets_a_clipped_gradient_exceed_the_bound(
    seed, size, log_scale, log_bound, constant
):
    """A unit's own contribution, its norm taken exactly (float64), searched for an excess."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.full((size,), 0.1) if constant else torch.randn(size, generator=generator)
    gradient = draw * 10**log_scale
    max_norm = 10**log_bound
    split = size // 2
    gradients = {"a": gradient[None, :split], "b": gradient[None, split:]}
    contribution = flat_sum(clip_and_sum(gradients, max_norm).sums)
    assert float(contribution.norm()) <= max_norm


def test_bounds_a_hair_below_the_norm_are_kept():
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        gradient = torch.randn(1, 257, generator=generator)
        exact = float(gradient.double().norm())
        for bound in (exact, math.nextafter(exact, 0.0), exact * (1 - 1e-7)):
            (total,) = clip_and_sum({"a": gradient}, bound).sums.values()
            assert float(total.double().norm()) <= bound


def test_a_clipped_gradient_loses_next_to_nothing_of_the_bound():
    (total,) = clip_and_sum({"a": torch.full((1, 100), 5.0)}, MAX_NORM).sums.values()
    assert float(total.double().norm()) >= MAX_NORM * (1 - 2e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_unit_that_is_not_finite_counts_as_zero(value):
    gradients = random_gradients()
    gradients["weight"][1, 0, 0, 0] = value
    gradients["scale"][3] = value
    without = {name: g[[0, 2, 4]] for name, g in gradients.items()}
    found = clip_and_sum(gradients, MAX_NORM)
    torch.testing.assert_close(
        flat_sum(found.sums), flat_sum(clip_and_sum(without, MAX_NORM).sums), rtol=1e-5, atol=1e-7
    )
    assert found.nonfinite.tolist() == [False, True, False, True, False]


def test_padding_that_is_not_finite_is_zero_and_is_not_counted():
    gradients = random_gradients(units=2)
    gradients["bias"][1] = math.nan
    found = clip_and_sum(gradients, MAX_NORM, torch.tensor([1.0, 0.0]))
    assert flat_sum(found.sums).isfinite().all()
    assert found.nonfinite.tolist() == [False, False]


def test_large_finite_gradients_do_not_overflow():
    """Squares beyond float32's largest number: the unit is clipped, not dropped."""
    found = clip_and_sum({"a": torch.full((1, 4), 1e30)}, MAX_NORM)
    assert found.norms.tolist() == pytest.approx([2e30])
    assert float(found.sums["a"].norm()) == pytest.approx(MAX_NORM, rel=1e-5)


def test_zero_gradients_stay_zero():
    found = clip_and_sum({"a": torch.zeros(3, 4)}, MAX_NORM)
    assert not found.sums["a"].any()
    assert not found.nonfinite.any()


def test_only_padding_sums_to_zero():
    found = clip_and_sum(random_gradients(), MAX_NORM, torch.zeros(5))
    assert not flat_sum(found.sums).any()


def test_gradients_are_read_and_not_written():
    gradients = random_gradients()
    gradients["bias"][1] = math.nan
    before = {name: g.clone() for name, g in gradients.items()}
    clip_and_sum(gradients, MAX_NORM)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, before[name], rtol=0, atol=0, equal_nan=True)


def test_the_same_gradients_give_the_same_bits():
    gradients = random_gradients(units=64)
    first = clip_and_sum(gradients, MAX_NORM)
    for _ in range(3):
        again = clip_and_sum(gradients, MAX_NORM)
        assert all(torch.equal(again.sums[name], first.sums[name]) for name in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_of_any_precision_are_summed_in_float64(dtype):
    gradients = {"a": torch.ones(300, 2, dtype=dtype)}
    (total,) = clip_and_sum(gradients, 10.0).sums.values()
    assert total.dtype == torch.float64
    assert total.tolist() == [300.0, 300.0]


def test_factors_are_at_most_one_and_zero_for_what_is_not_finite():
    factors = clip_factors(torch.tensor([0.0, 0.5, 2.0, math.inf, math.nan]), 1.0)
    assert factors.tolist() == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0], rel=1e-5)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_a_bound_that_bounds_nothing_is_refused(max_norm):
    with pytest.raises(RequestError, match="max_norm"):
        clip_and_sum(random_gradients(), max_norm)


@pytest.mark.parametrize(
    "weights", [torch.ones(4), torch.tensor([1, 1, 1, 1, 1.5]), torch.tensor([1, 1, -1, 1, 1.0])]
)
def test_weights_that_break_the_bound_are_refused(weights):
    with pytest.raises(RequestError, match="weights"):
        clip_and_sum(random_gradients(), MAX_NORM, weights)


def test_no_gradients_are_refused():
    with pytest.raises(RequestError, match="no parameter"):
        clip_and_sum({}, MAX_NORM)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("chunk", [40, 2**19])
def test_outer_products_are_clipped_as_if_multiplied_out(images, chunk, monkeypatch):
    monkeypatch.setattr("dpdm.privacy.gradients.clipping._CHUNK", chunk)
    factors = OuterProducts(torch.randn(9, images, 7), torch.randn(9, images, 4))
    whole = torch.einsum("uma,umb->uab", factors.left.double(), factors.right.double())
    weights = torch.tensor([1.0, 0.0, 1.0] * 3)
    beside = torch.randn(9, 5)
    for bound in (0.1, 3.0, math.inf):
        expected = clip_and_sum({"w": whole, "b": beside}, bound, weights)
        found = clip_and_sum({"w": factors, "b": beside}, bound, weights)
        torch.testing.assert_close(found.norms, expected.norms, rtol=1e-12, atol=0)
        for name in ("w", "b"):
            torch.testing.assert_close(
                found.sums[name], expected.sums[name], rtol=1e-10, atol=1e-12
            )


def test_outer_products_that_are_not_finite_count_as_zero():
    left, right = torch.ones(3, 1, 2), torch.ones(3, 1, 2)
    left[1, 0, 0] = math.nan
    right[2, 0, 1] = math.inf
    found = clip_and_sum({"w": OuterProducts(left, right)}, MAX_NORM)
    assert found.nonfinite.tolist() == [False, True, True]
    assert float(found.sums["w"].norm()) <= MAX_NORM


def test_one_unit_of_outer_products_moves_the_sum_by_at_most_the_bound():
    left, right = 100 * torch.randn(20, 2, 30), torch.randn(20, 2, 10)
    right[:, 1] = -right[:, 0] + 1e-4 * torch.randn(20, 10)
    left[:, 1] = left[:, 0]  # the images of a unit nearly cancel
    for u in range(20):
        one = OuterProducts(left[u : u + 1], right[u : u + 1])
        assert float(clip_and_sum({"w": one}, MAX_NORM).sums["w"].norm()) <= MAX_NORM
