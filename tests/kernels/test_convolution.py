"""The kernel's weight gradients are those of autograd, unit by unit; without a GPU it runs in
Triton's interpreter, which knows no bfloat16 products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dpdm.kernels.convolution import usable, weight_gradient

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16

OPTIONS = [  # kernel, stride, padding, dilation
    pytest.param((3, 3), (1, 1), (1, 1), (1, 1), id="3x3"),
    pytest.param((1, 1), (1, 1), (0, 0), (1, 1), id="1x1"),
    pytest.param((3, 3), (2, 1), (1, 0), (1, 2), id="3x3 strided, dilated"),
    pytest.param((2, 4), (2, 2), (1, 1), (1, 1), id="2x4"),
    pytest.param((1, 3), (1, 2), (0, 2), (1, 3), id="1x3"),
]
CHANNELS = [(1, 32), (32, 1), (3, 5), (48, 32), (64, 96), (64, 64)]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def naive(x, g, units, shape, *options):
    weight = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    parts = zip(x.cpu().double().chunk(units), g.cpu().double().chunk(units), strict=True)
    return torch.stack(
        [
            torch.autograd.grad((F.conv2d(some, weight, None, *options) * back).sum(), weight)[0]
            for some, back in parts
        ]
    )


def case(channels, kernel, options, dtype=torch.float32, units=3, rows=2, size=(6, 7)):
    torch.manual_seed(0)
    into, out = channels
    shape = (out, into, *kernel)
    x = torch.randn(units * rows, into, *size).to(dtype)
    y = F.conv2d(x.double(), torch.zeros(shape, dtype=torch.float64), None, *options)
    return x.to(DEVICE), torch.randn(y.shape).to(dtype).to(DEVICE), shape


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), OPTIONS)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_each_unit_has_the_gradient_of_its_own_rows(channels, kernel, stride, padding, dilation):
    options = (stride, padding, dilation)
    x, g, shape = case(channels, kernel, options)
    found = weight_gradient(x, g, 3, kernel, *options)
    exact = naive(x, g, 3, shape, *options)
    torch.testing.assert_close(found.cpu().double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [(32, 32), (64, 64)], ids=str)
def test_products_of_half_precision_are_added_up_in_float32(channels):
    options = ((1, 1), (1, 1), (1, 1))
    x, g, shape = case(channels, (3, 3), options, HALF)
    found = weight_gradient(x, g, 3, (3, 3), *options)
    exact = naive(x, g, 3, shape, *options)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu().double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_where_channels_lie_changes_nothing(layout):
    options = ((1, 1), (1, 1), (1, 1))
    x, g, _ = case((32, 32), (3, 3), options)
    expected = weight_gradient(x, g, 3, (3, 3), *options)
    moved = (t.contiguous(memory_format=layout) for t in (x, g))
    assert weight_gradient(*moved, 3, (3, 3), *options).equal(expected)


def test_a_unit_follows_from_its_own_rows_to_the_last_bit():
    options = ((1, 1), (1, 1), (1, 1))
    x, g, _ = case((32, 32), (3, 3), options)
    alone = weight_gradient(x[2:4], g[2:4], 1, (3, 3), *options)
    x[:2], g[4:] = 7.0, float("nan")
    assert weight_gradient(x, g, 3, (3, 3), *options)[1:2].equal(alone)


def test_other_convolutions_are_left_to_torch():
    x = torch.zeros(4, 3, 5, 5)
    assert not usable(x, x, (3, 3), 1, 2)  # on a CPU
    if DEVICE == "cuda":
        x = x.cuda()
        assert usable(x, x, (3, 3), 1, 2)
        assert not usable(x, x, (3, 3), 3, 2)
        assert not usable(x, x, (3,), 1, 2)
        assert not usable(x.double(), x.double(), (3, 3), 1, 2)
