"""Every layer type and option has the gradients of the loop over units, in float64 to 1e-10."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

thorough = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
units = st.integers(1, 4)
views = st.sampled_from([1, 2, 5])


class Surrounded(nn.Module):
    """The layer between two others, so that its input and output gradients matter too."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.randn(channels))
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(x * self.before.view(-1, *[1] * (x.ndim - 2)))
        return self.layer(x).sin()


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@thorough
@given(
    u=units,
    v=views,
    dimensions=st.integers(1, 3),
    groups=st.integers(1, 3),
    inner=st.integers(1, 3),
    outer=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    bias=st.booleans(),
)
def test_convolution(
    oracle, u, v, dimensions, groups, inner, outer, kernel, stride, dilation, padding, mode, bias
):
    layer = CONVOLUTIONS[dimensions](
        groups * inner,
        groups * outer,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
        bias=bias,
    )
    x = torch.randn(u * v, groups * inner, *[6, 5, 5][:dimensions])
    oracle.check(Surrounded(layer, groups * inner), x, views=v)


@thorough
@given(
    u=units,
    v=views,
    dimensions=st.integers(1, 3),
    groups=st.integers(1, 2),
    inner=st.integers(1, 3),
    outer=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    bias=st.booleans(),
)
def test_transposed_convolution(
    oracle, u, v, dimensions, groups, inner, outer, kernel, stride, padding, bias
):
    layer = TRANSPOSED[dimensions](
        groups * inner,
        groups * outer,
        kernel,
        stride=stride,
        padding=min(padding, kernel - 1),
        output_padding=stride - 1,
        groups=groups,
        bias=bias,
    )
    x = torch.randn(u * v, groups * inner, *[4, 3, 3][:dimensions])
    oracle.check(Surrounded(layer, groups * inner), x, views=v)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (2, 3)])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolution_with_named_padding(oracle, kernel, padding):
    layer = nn.Conv2d(2, 3, kernel, padding=padding, dilation=(1, 2))
    x = torch.randn(6, 2, 8, 9)
    oracle.check(Surrounded(layer, 2), x, views=2)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolution(oracle, multiplier):
    layer = nn.Conv2d(6, 6 * multiplier, 3, padding=1, groups=6)
    oracle.check(Surrounded(layer, 6), torch.randn(6, 6, 5, 5), views=2)


@pytest.mark.parametrize(
    ("channels", "size", "rows"),
    [((16, 24), 4, 2), ((1, 16), 40, 4), ((24, 1), 40, 4), ((48, 48), 24, 4)],
)
def test_convolution_in_every_form_of_its_weight_gradient(oracle, channels, size, rows):
    """Small layers fold units into groups, large ones and those of few channels do not."""
    layer = nn.Conv2d(*channels, 3, padding=1)
    oracle.check(
        Surrounded(layer, channels[0]), torch.randn(3 * rows, channels[0], size, size), views=rows
    )


@thorough
@given(u=units, v=views, lead=st.lists(st.integers(1, 4), max_size=2), bias=st.booleans())
def test_linear_with_any_number_of_positions(oracle, u, v, lead, bias):
    module = nn.Sequential(nn.Linear(3, 4, bias=bias), nn.Tanh(), nn.Linear(4, 2, bias=bias))
    oracle.check(module, torch.randn(u * v, *lead, 3), views=v)


@thorough
@given(
    u=units,
    v=views,
    groups=st.integers(1, 3),
    each=st.integers(2, 3),
    size=st.lists(st.integers(1, 4), max_size=3),
    affine=st.booleans(),
)
def test_group_normalisation(oracle, u, v, groups, each, size, affine):
    layer = nn.GroupNorm(groups, groups * each, affine=affine)
    if affine:
        nn.init.normal_(layer.weight)
    oracle.check(
        Surrounded(layer, groups * each), torch.randn(u * v, groups * each, *size), views=v
    )


@thorough
@given(
    u=units,
    v=views,
    lead=st.lists(st.integers(1, 3), max_size=2),
    shape=st.lists(st.integers(2, 4), min_size=1, max_size=2),
    affine=st.booleans(),
    bias=st.booleans(),
)
def test_layer_normalisation(oracle, u, v, lead, shape, affine, bias):
    layer = nn.LayerNorm(shape, elementwise_affine=affine, bias=bias)
    before = nn.Linear(shape[-1], shape[-1])
    oracle.check(
        nn.Sequential(before, layer, nn.Tanh()), torch.randn(u * v, *lead, *shape), views=v
    )


@pytest.mark.parametrize("affine", [True, False])
def test_instance_normalisation_without_running_statistics(oracle, affine):
    layer = nn.InstanceNorm2d(3, affine=affine)
    oracle.check(Surrounded(layer, 3), torch.randn(6, 3, 4, 4), views=2)


def test_root_mean_square_normalisation(oracle):
    oracle.check(Surrounded(nn.RMSNorm(4), 5), torch.randn(6, 5, 4), views=2)


@thorough
@given(u=units, v=views, shape=st.lists(st.integers(1, 3), max_size=2), padding=st.booleans())
def test_embedding(oracle, u, v, shape, padding):
    table = nn.Embedding(7, 3, padding_idx=2 if padding else None)
    module = nn.Sequential(table, nn.Linear(3, 2))
    oracle.check(module, torch.randint(7, (u * v, *shape)), views=v)


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(self, query, context):
        if not self.attention.batch_first:
            query, context = query.transpose(0, 1), context.transpose(0, 1)
        result = self.attention(query, context, context)[0]
        return result if self.attention.batch_first else result.transpose(0, 1)


@pytest.mark.parametrize("time", [3, 4, 6, 12])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"batch_first": False},
        {"batch_first": True, "bias": False, "add_bias_kv": True, "add_zero_attn": True},
        {"batch_first": True, "kdim": 5, "vdim": 5},
    ],
)
def test_multi_head_attention_whatever_its_length(oracle, time, options):
    """Lengths that equal or are multiples of the number of rows, 6, must not be taken for it."""
    context = torch.randn(6, 3, options.get("kdim", 8))
    oracle.check(Attention(**options), torch.randn(6, time, 8), context, views=2)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True])
def test_transformer_encoder_layer(oracle, norm_first, batch_first):
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, norm_first=norm_first, batch_first=batch_first
    )
    oracle.check(layer, torch.randn(6, 6, 8), views=2)


@pytest.mark.parametrize("layer", [nn.PReLU(), nn.PReLU(3)])
def test_learnt_activation(oracle, layer):
    oracle.check(Surrounded(layer, 3), torch.randn(6, 3, 4), views=2)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_bilinear(oracle):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.bilinear = nn.Bilinear(3, 4, 2)

        def forward(self, x, y):
            return self.bilinear(x, y)

    oracle.check(Pair(), torch.randn(6, 3), torch.randn(6, 4), views=3)


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4, batch_first=True), nn.GRU(3, 4, batch_first=True)])
def test_recurrent_layers_go_one_unit_at_a_time(oracle, layer):
    oracle.check(layer, torch.randn(6, 5, 3), views=2, slower=True)
