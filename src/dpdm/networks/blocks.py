"""The parts of the DDPM++ U-Net: residual block, self-attention, noise embedding.

The recipe is that of NCSN++/DDPM++ in Song et al. 2021 (arXiv 2011.13456, appendix H): BigGAN
residual blocks that resample inside, group normalisation, swish, sums rescaled by 1/sqrt(2), last
convolutions that start at zero. Whatever has parameters is a plain ``torch.nn`` layer called once a
forward pass, and nothing mixes the images of a batch: per-unit gradients are defined and cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpdm.kernels import group_norm as kernel
from dpdm.kernels import residual

Resample = Literal["down", "up"]

# Pixels up to which attention in bfloat16 is differentiated through its matrix products on a CPU.
_FEW_TOKENS = 256


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with min(channels / 4, 32) groups and epsilon 1e-6.

    Where that number does not divide the channels (it does for every width of the paper), the
    largest smaller one that does.
    """
    most = max(1, min(channels // 4, 32))
    groups = next(groups for groups in range(most, 0, -1) if channels % groups == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def normalised(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """``norm(x)``; without a gradient to take, by a kernel that reads channels where they lie."""
    if torch.is_grad_enabled() or not kernel.usable(x, norm.num_groups):
        return norm(x)  # type: ignore[no-any-return]
    return kernel.group_norm_forward(x, norm.num_groups, norm.weight, norm.bias, norm.eps)[0]


def normalised_swish(norm: nn.GroupNorm, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """swish(norm(x + shift)); ``shift`` (N, C), for each image and channel.

    On a GPU by a kernel, which takes a row of parameters for each image: their gradients are then
    gradients of these rows, whether of a unit or of all images.
    """
    if kernel.usable(x, norm.num_groups):
        weight, bias = (p.expand(x.shape[:2]) for p in (norm.weight, norm.bias))
        return residual.norm_swish(x, norm.num_groups, weight, bias, norm.eps, shift)
    return F.silu(normalised(norm, x if shift is None else x + shift[:, :, None, None]))


def without_bias(conv: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    """``conv`` for whom adds its bias together with something else."""
    return lambda x: F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A convolution of size 3 that keeps the image's size."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


def resampled(x: Tensor, resample: Resample | None) -> Tensor:
    """``x`` (N, C, H, W) at half ("down": mean of 2x2) or double ("up": nearest) resolution."""
    if resample and x.is_cuda and x.is_contiguous(memory_format=torch.channels_last):
        return channels_innermost(x, resample)
    if resample == "down":
        return F.avg_pool2d(x, kernel_size=2)
    if resample == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x


def channels_innermost(x: Tensor, resample: Resample) -> Tensor:
    """``resampled`` by copies and sums of whole pixels, (N, C, H, W) with channels innermost."""
    n, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1)
    if resample == "down":
        squares = pixels.reshape(n, height // 2, 2, width // 2, 2, channels)
        return squares.mean((2, 4)).permute(0, 3, 1, 2)
    copies = pixels[:, :, None, :, None].expand(n, height, 2, width, 2, channels)
    return copies.reshape(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def rescaled_sum(x: Tensor, y: Tensor) -> Tensor:
    """(x + y) / sqrt(2): the variance of a sum of two independent signals, kept."""
    # In place on the fresh sum only: neither input is touched, and one image-sized copy is saved.
    return (x + y).mul_(residual.RESCALE)


class NoiseEmbedding(nn.Module):
    """Sinusoidal features of c_noise (N,): sines, then cosines, ``features`` in all, (N, features).

    Angular frequencies run geometrically from ``first`` to ``last``, both included: 1 to 1/10000 in
    Vaswani et al. 2017, DDPM and the paper. No parameters; the frequencies are rebuilt, not stored
    with the weights.
    """

    frequencies: Tensor

    def __init__(self, features: int, first: float = 1.0, last: float = 1e-4) -> None:
        super().__init__()
        exponents = torch.linspace(math.log(first), math.log(last), features // 2)
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = c_noise.to(self.frequencies.dtype)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResidualBlock(nn.Module):
    """BigGAN residual block: norm, swish, resample, conv, + shift, norm, swish, dropout, conv.

    ``forward(x (N, C_in, H, W), embedding (N, E))`` returns (N, C_out, H', W'), where H' and W' are
    H and W, halved or doubled by ``resample``. ``embedding`` (already through its swish) moves each
    channel by its own amount. Where channels or resolution change, the shortcut is a 1x1
    convolution.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        *,
        resample: Resample | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.resample: Resample | None = resample
        self.norm_in = group_norm(channels_in)
        self.conv_in = conv3x3(channels_in, channels_out)
        self.shift = nn.Linear(embedding, channels_out)
        self.norm_out = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv_out = conv3x3(channels_out, channels_out)
        changes = resample is not None or channels_in != channels_out
        self.shortcut = nn.Conv2d(channels_in, channels_out, kernel_size=1) if changes else None

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """Start as (rescaled) shortcut: the last convolution is zero."""
        for layer in (self.conv_in, self.shift, self.shortcut):
            if layer is not None:
                initialise(layer, generator)
        initialise(self.conv_out, generator, gain=0.0)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = resampled(normalised_swish(self.norm_in, x), self.resample)
        if residual.usable(h):
            return self._with_kernels(x, h, embedding)
        h = self.conv_in(h) + self.shift(embedding)[:, :, None, None]
        h = F.silu(normalised(self.norm_out, h))
        if self.dropout is not None:
            h = self.dropout(h)
        if self.shortcut is not None:
            x = self._resized(x, self.shortcut)
        return rescaled_sum(x, self.conv_out(h))

    def _with_kernels(self, x: Tensor, h: Tensor, embedding: Tensor) -> Tensor:
        """The same from the first convolution on, with biases added where a kernel passes over the
        map in any case."""
        shift = self.shift(embedding) + self.conv_in.bias
        h = normalised_swish(self.norm_out, without_bias(self.conv_in)(h), shift)
        if self.dropout is not None:
            h = self.dropout(h)
        h = without_bias(self.conv_out)(h)
        biases = self.conv_out.bias.expand(h.shape[:2])  # type: ignore[union-attr]
        if self.shortcut is not None:
            # A constant stays itself, whether pixels are copied or averaged.
            x = self._resized(x, without_bias(self.shortcut))
            biases = biases + self.shortcut.bias.expand(h.shape[:2])  # type: ignore[union-attr]
        if residual.joins(x, h):
            return residual.rescaled_sum(x, h, biases)
        return rescaled_sum(x, h + biases[:, :, None, None])

    def _resized(self, x: Tensor, shortcut: Callable[[Tensor], Tensor]) -> Tensor:
        if self.resample == "up":
            # A 1x1 convolution commutes with copying pixels; before it costs a quarter.
            return resampled(shortcut(x), "up")
        return shortcut(resampled(x, self.resample))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) v of (N, tokens, C) each.

    torch's own, except where a CPU differentiates it in bfloat16: torch 2.13 takes 200 ms for 1,120
    maps of 49 tokens and 32 channels there, and 33 ms for these products (one core).
    """
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if slow and q.shape[1] <= _FEW_TOKENS:
        return (q / math.sqrt(q.shape[-1]) @ k.mT).softmax(-1) @ v
    q, k, v = (x.unsqueeze(1) for x in (q, k, v))  # one head
    return F.scaled_dot_product_attention(q, k, v).squeeze(1)


class SelfAttention(nn.Module):
    """Single-head self-attention over the pixels of each image, in a rescaled residual.

    ``forward(x (N, C, H, W))`` returns the same shape. Queries, keys and values are one ``Linear``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """Start as (rescaled) identity: the projection is zero."""
        initialise(self.qkv, generator, gain=math.sqrt(0.1), parts=3)
        initialise(self.project, generator, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        tokens = normalised(self.norm, x).flatten(2).transpose(1, 2)  # (N, H W, C)
        tokens = attention(*self.qkv(tokens).chunk(3, dim=-1))
        return rescaled_sum(x, self.project(tokens).transpose(1, 2).reshape(x.shape))


def initialise(
    layer: nn.Conv2d | nn.Linear,
    generator: torch.Generator | None,
    *,
    gain: float = 1.0,
    parts: int = 1,
) -> None:
    """Weights uniform with variance gain^2 * 2 / (fan_in + fan_out) (Glorot and Bengio 2010).

    The bias is zero. ``parts``: the layer stands for that many of equal size side by side, each
    with its own fans. ``gain`` 0 gives a layer that returns exactly zero.
    """
    for weight in layer.weight.detach().chunk(parts):
        nn.init.xavier_uniform_(weight, gain=gain, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
