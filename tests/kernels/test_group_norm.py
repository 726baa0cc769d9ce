"""The GroupNorm kernels have torch's results; without a GPU they run in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm.kernels.group_norm import (
    group_norm_backward,
    group_norm_forward,
    usable,
)

CUDA = torch.cuda.is_available()
EPS = 1e-5
GROUPINGS = [
    pytest.param(channels, groups, id=f"{channels}c{groups}g")
    for channels, groups in [
        *((channels, channels // 4) for channels in (4, 32, 48, 64, 96, 128)),
        (64, 8),
        (96, 3),
        (32, 32),
        (64, 1),
    ]
]
MAPS = [pytest.param(size, id=f"{size[0]}x{size[1]}") for size in [(7, 7), (5, 9), (28, 28)]]
PRECISIONS = [
    pytest.param(torch.float32, 1e-5, id="float32"),
    pytest.param(torch.bfloat16, 1e-2, id="bfloat16"),
]
AFFINE = [
    pytest.param(scale, shift, id=f"{'' if scale else 'no '}weight, {'' if shift else 'no '}bias")
    for scale in (True, False)
    for shift in (True, False)
]

grouped = pytest.mark.parametrize(("channels", "groups"), GROUPINGS)
mapped = pytest.mark.parametrize("size", MAPS)
precise = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
affine = pytest.mark.parametrize(("scale", "shift"), AFFINE)


def maps(
    rows: int, channels: int, size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Channels-last maps whose channels differ in mean and deviation."""
    x = torch.randn(rows, channels, *size) * (0.5 + torch.rand(channels, 1, 1))
    x = (x + torch.randn(channels, 1, 1)).to("cuda" if CUDA else "cpu", dtype)
    return x.contiguous(memory_format=torch.channels_last)


def parameter(channels: int, wanted: bool = True) -> Tensor | None:
    return torch.randn(channels, device="cuda" if CUDA else "cpu") if wanted else None


def double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double().cpu()


def reference(
    x: Tensor, g: Tensor, groups: int, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dw_rows and db_rows in float64, one row after another."""
    found = []
    for x_row, g_row in zip(double(x), double(g), strict=True):
        leaf = x_row[None].requires_grad_()
        y = F.group_norm(leaf, groups, double(weight), None, EPS)
        (dx,) = torch.autograd.grad(y, leaf, g_row[None])
        x_hat = F.group_norm(leaf.detach(), groups, None, None, EPS)[0]
        found.append((dx[0], (g_row * x_hat).sum((1, 2)), g_row.sum((1, 2))))
    dx, dw_rows, db_rows = (torch.stack(column) for column in zip(*found, strict=True))
    return dx, dw_rows, db_rows


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within tolerance of the expected, relative to its largest entry where it is smaller."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(
        found.double().cpu(), expected, rtol=tolerance, atol=tolerance * scale
    )


def backward(
    g: Tensor, x: Tensor, groups: int, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    _, mean, rstd = group_norm_forward(x, groups, weight, None, EPS)
    return group_norm_backward(g, x, mean, rstd, weight)[:3]


@grouped
@mapped
@precise
def test_the_output_is_torchs(
    channels: int, groups: int, size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    x, weight, bias = maps(2, channels, size, dtype), parameter(channels), parameter(channels)
    y, _, _ = group_norm_forward(x, groups, weight, bias, EPS)
    assert_near(y, F.group_norm(double(x), groups, double(weight), double(bias), EPS), tolerance)


@grouped
@mapped
@precise
def test_the_gradients_are_those_of_a_loop_over_rows(
    channels: int, groups: int, size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    x, g = maps(2, channels, size, dtype), maps(2, channels, size, dtype)
    weight = parameter(channels)
    dx, dw_rows, db_rows = backward(g, x, groups, weight)
    expected = reference(x, g, groups, weight)
    assert_near(dx, expected[0], tolerance)
    # The rounding of the mean is multiplied by the sum of g.
    assert_near(dw_rows, expected[1], 1e-4)
    assert_near(db_rows, expected[2], 1e-5)


@affine
def test_weight_and_bias_may_be_missing(scale: bool, shift: bool) -> None:
    torch.manual_seed(0)
    x, g = maps(2, 48, (5, 9)), maps(2, 48, (5, 9))
    weight, bias = parameter(48, scale), parameter(48, shift)
    y, mean, rstd = group_norm_forward(x, 12, weight, bias, EPS)
    assert_near(y, F.group_norm(double(x), 12, double(weight), double(bias), EPS), 1e-5)
    found = group_norm_backward(g, x, mean, rstd, weight)[:3]
    for a, b in zip(found, reference(x, g, 12, weight), strict=True):
        assert_near(a, b, 1e-4)


def test_the_statistics_are_those_of_each_group_in_float32() -> None:
    torch.manual_seed(0)
    x = maps(2, 96, (7, 7), torch.bfloat16)
    _, mean, rstd = group_norm_forward(x, 24, None, None, EPS)
    variance, expected = torch.var_mean(double(x).reshape(2, 24, -1), 2, correction=0)
    assert mean.dtype == rstd.dtype == torch.float32
    assert_near(mean, expected, 1e-5)
    assert_near(rstd, (variance + EPS).rsqrt(), 1e-5)


def test_a_large_mean_does_not_cancel_the_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn_like(maps(2, 64, (28, 28))) + 100
    y, _, rstd = group_norm_forward(x, 16, None, None, EPS)
    variance = double(x).reshape(2, 16, -1).var(2, correction=0)
    assert_near(rstd, (variance + EPS).rsqrt(), 1e-6)
    assert_near(y, F.group_norm(double(x), 16, eps=EPS), 1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_rows_do_not_influence_each_other() -> None:
    torch.manual_seed(0)
    x, g, weight = maps(3, 48, (5, 9)), maps(3, 48, (5, 9)), parameter(48)
    others, other_g = x.clone(), g.clone()
    others[[0, 2]], other_g[[0, 2]] = float("nan"), float("inf")
    first = (*group_norm_forward(x, 12, weight, None, EPS), *backward(g, x, 12, weight))
    second = (
        *group_norm_forward(others, 12, weight, None, EPS),
        *backward(other_g, others, 12, weight),
    )
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a[1], b[1])


@precise
def test_maps_keep_their_precision_and_layout(dtype: torch.dtype, tolerance: float) -> None:
    x = maps(2, 8, (7, 7), dtype)
    y, _, _ = group_norm_forward(x, 2, None, None, EPS)
    dx, dw_rows, db_rows = backward(x, x, 2, None)
    for tensor in (y, dx):
        assert tensor.dtype == dtype
        assert tensor.shape == x.shape
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert dw_rows.dtype == db_rows.dtype == torch.float32


@pytest.mark.parametrize("layout", ["channels outermost", "expanded"])
def test_the_output_gradient_may_lie_otherwise(layout: str) -> None:
    torch.manual_seed(0)
    x, g = maps(2, 32, (5, 9)), maps(2, 32, (5, 9))
    g = g.contiguous() if layout == "channels outermost" else g[:, :, :1, :1].expand_as(x)
    for a, b in zip(backward(g, x, 8, None), reference(x, g, 8, None), strict=True):
        assert_near(a, b, 1e-4)


def test_channels_last_maps_are_taken_on_a_gpu() -> None:
    assert usable(maps(1, 48, (5, 9), torch.bfloat16), 12) == CUDA


@pytest.mark.parametrize(
    ("x", "groups"),
    [
        pytest.param(maps(1, 48, (5, 9)).contiguous(), 12, id="channels outermost"),
        pytest.param(maps(1, 48, (5, 9)), 4, id="12 channels a group"),
        pytest.param(maps(1, 48, (5, 9))[:, :, ::2], 12, id="not dense"),
        pytest.param(maps(1, 48, (1, 1)), 12, id="one position"),
        pytest.param(maps(1, 1, (5, 9)), 1, id="one channel"),
        pytest.param(maps(1, 2048, (2, 2)), 512, id="2048 channels"),
        pytest.param(maps(1, 48, (5, 9)).double(), 12, id="float64"),
        pytest.param(maps(1, 48, (5, 9))[0], 12, id="no rows"),
    ],
)
def test_other_inputs_are_not_taken(x: Tensor, groups: int) -> None:
    assert not usable(x, groups)
