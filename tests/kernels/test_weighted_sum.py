"""The weighted sum of rows is float64's."""

from __future__ import annotations

import pytest
import torch

from dpdm.kernels.weighted_sum import weighted_sum

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (64, 512), (150, 1300)], ids=str)
def test_it_is_that_of_float64(shape):
    torch.manual_seed(0)
    rows = torch.randn(shape, device=DEVICE)
    weights = torch.rand(shape[0], device=DEVICE, dtype=torch.float64)
    found = weighted_sum(rows, weights)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, weights @ rows.double(), rtol=1e-13, atol=1e-13)


def test_a_row_of_weight_zero_does_not_enter():
    rows = torch.ones(70, 5, device=DEVICE)
    weights = torch.ones(70, device=DEVICE, dtype=torch.float64)
    weights[[2, 69]] = 0
    rows[2], rows[69] = float("nan"), float("inf")
    assert weighted_sum(rows, weights).tolist() == [68.0] * 5
