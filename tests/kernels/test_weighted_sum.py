"""The kernel's sums are those of float64; without a GPU it runs in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from dpdm.kernels.weighted_sum import usable, weighted_sum

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("shape", [(1, 1), (3, 511), (5, 1025)])
def test_sums_are_those_of_float64(shape):
    rows = torch.randn(shape, device=DEVICE)
    factors = torch.rand(shape[0], dtype=torch.float64, device=DEVICE)
    exact = factors @ rows.double()
    torch.testing.assert_close(weighted_sum(rows, factors), exact, rtol=1e-14, atol=1e-14)


def test_rows_that_lie_apart_are_taken_as_they_are():
    rows = torch.randn(40, 3, device=DEVICE).T
    factors = torch.rand(3, dtype=torch.float64, device=DEVICE)
    torch.testing.assert_close(weighted_sum(rows, factors), factors @ rows.double())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_of_factor_zero_counts_as_zero_whatever_it_holds(value):
    rows = torch.randn(3, 20, device=DEVICE)
    factors = torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64, device=DEVICE)
    expected = weighted_sum(rows.index_fill(0, torch.tensor([1], device=DEVICE), 0.0), factors)
    rows[1] = value
    assert weighted_sum(rows, factors).equal(expected)


def test_rows_on_a_cpu_and_of_another_precision_are_left_to_torch():
    assert not usable(torch.zeros(2, 3))
    assert not usable(torch.zeros(2, 3, dtype=torch.float64, device=DEVICE))
