"""The kernels of residual blocks do what torch's functions do one after the other."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm.kernels import residual

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-6
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
precise = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
shaped = pytest.mark.parametrize(
    ("channels", "groups", "size"),
    [(24, 6, (5, 9)), (32, 8, (28, 28)), (96, 3, (7, 7)), (128, 32, (7, 7))],
    ids=str,
)


def maps(channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    x = torch.randn(3, channels, *size, device=DEVICE, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def rows(channels: int) -> Tensor:
    return torch.randn(3, channels, device=DEVICE)


def gradients(function, inputs, g) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    return [y, *torch.autograd.grad(y, leaves, g)]


def assert_equal(function, exact, inputs: list[Tensor]) -> None:
    """Values and gradients, relative to their largest, beside float64."""
    g = torch.randn_like(inputs[0])
    found = gradients(function, inputs, g)
    expected = gradients(exact, [x.double() for x in inputs], g.double())
    for a, b in zip(found, expected, strict=True):
        scale = float(b.detach().abs().max())
        torch.testing.assert_close(a.double(), b, rtol=0, atol=TOLERANCES[inputs[0].dtype] * scale)


@precise
@shaped
@pytest.mark.parametrize("shifted", [True, False])
def test_norm_and_swish(channels, groups, size, dtype, shifted):
    torch.manual_seed(0)
    inputs = [maps(channels, size, dtype), rows(channels), rows(channels)]
    if shifted:
        inputs.append(rows(channels))

    def found(x, weight, bias, shift=None):
        return residual.norm_swish(x, groups, weight, bias, EPS, shift)

    def exact(x, weight, bias, shift=None):
        x = x if shift is None else x + shift[:, :, None, None]
        y = F.group_norm(x, groups, eps=EPS)
        return F.silu(y * weight[:, :, None, None] + bias[:, :, None, None])

    assert_equal(found, exact, inputs)


@precise
@shaped
def test_the_rescaled_sum(channels, groups, size, dtype):
    torch.manual_seed(0)
    inputs = [maps(channels, size, dtype), maps(channels, size, dtype), rows(channels)]

    def exact(x, y, shift):
        return (x + y + shift[:, :, None, None]) * math.sqrt(0.5)

    assert_equal(residual.rescaled_sum, exact, inputs)


def test_rows_that_share_parameters_need_no_copies_of_them():
    torch.manual_seed(0)
    x, weight, bias = maps(24, (5, 9), torch.float32), rows(24)[0], rows(24)[0]
    shared = residual.norm_swish(x, 6, weight.expand(3, 24), bias.expand(3, 24), EPS)
    copied = residual.norm_swish(x, 6, weight.repeat(3, 1), bias.repeat(3, 1), EPS)
    mixed = residual.norm_swish(x, 6, weight.repeat(3, 1), bias.expand(3, 24), EPS)
    assert torch.equal(shared, copied)
    assert torch.equal(shared, mixed)


def test_a_row_that_is_not_finite_stays_alone():
    torch.manual_seed(0)
    x, y, shift = maps(24, (5, 9), torch.float32), maps(24, (5, 9), torch.float32), rows(24)
    spoilt = x.clone()
    spoilt[1] = float("nan")
    for function in (
        lambda x: residual.norm_swish(x, 6, shift, shift, EPS, shift),
        lambda x: residual.rescaled_sum(x, y, shift),
    ):
        first, second = gradients(function, [x], y), gradients(function, [spoilt], y)
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a[[0, 2]], b[[0, 2]])
