"""The scattering transform: fixed features of an image that nothing has to be learnt for.

Moduli of oriented wavelets and moduli of wavelets of these, averaged locally (Bruna and Mallat
2013, arXiv 1203.1513), at two scales and eight orientations. A linear classifier on them, trained
with DP-SGD, beats deeper ones at the same epsilon (Tramer and Boneh 2021, arXiv 2011.11660), whose
normalisation by groups of an image's own channels this follows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ORIENTATIONS = 8
CHANNELS = 1 + 2 * ORIENTATIONS + ORIENTATIONS**2
"""Local average, first-order moduli at two scales, second-order moduli: 81."""

_GROUPS = 27
_STRIDE = 4
_LARGEST = 32
"""Larger images are first brought to at most this many pixels a side, by averaging."""

_COLOUR_GAIN = 4.0
"""Brings colour differences, some 0.1 to 0.3, to the size of normalised features."""


class Scattering(nn.Module):
    """Features (N, ``features``) float32 of images (N, C, H, W) in [-1, 1]; an image's own alone.

    Those of the mean of the channels, (81, H/4, W/4), normalised in 27 groups; in colour also the
    local averages of what each channel but the last differs from that mean.
    """

    fine: Tensor
    coarse: Tensor
    rows: Tensor
    columns: Tensor
    half_rows: Tensor
    half_columns: Tensor

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        shrink = math.ceil(max(height, width) / _LARGEST)
        self.size = (max(height // shrink, 1), max(width // shrink, 1))
        self.shrinks = shrink > 1
        down, along = ((side + _STRIDE - 1) // _STRIDE for side in self.size)
        self.features = (CHANNELS + channels - 1) * down * along
        fixed = {
            "fine": _morlets(0.8, 3 * math.pi / 4, radius=3),
            "coarse": _morlets(1.6, 3 * math.pi / 8, radius=6),
        }
        for name, side in zip(("rows", "columns"), self.size, strict=True):
            fixed[name] = _averages(side, _STRIDE, 1.6)
            fixed[f"half_{name}"] = _averages((side + 1) // 2, _STRIDE // 2, 0.8)
        for name, value in fixed.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, smoothing: float = 0.0) -> Tensor:
        """(N, features) float32, on the images' device.

        With a ``smoothing`` s above 0, moduli are sqrt(|z|^2 + s^2) - s, which have a gradient
        where nothing is seen (z = 0).
        """
        x = (images + 1.0) / 2.0
        if self.shrinks:
            x = F.adaptive_avg_pool2d(x, self.size)
        grey = x.mean(1, keepdim=True)
        first = _moduli(grey, self.fine, 1, smoothing)
        coarse = (_moduli(maps, self.coarse, 2, smoothing) for maps in (grey, first))
        second = torch.cat(list(coarse), 1)
        zeroth_and_fine = self.rows @ torch.cat([grey, first], 1) @ self.columns.T
        maps = torch.cat([zeroth_and_fine, self.half_rows @ second @ self.half_columns.T], 1)
        found = F.group_norm(maps, _GROUPS).flatten(1)
        if x.shape[1] == 1:
            return found
        colours = (self.rows @ (x - grey)[:, :-1] @ self.columns.T).flatten(1)
        return torch.cat([found, _COLOUR_GAIN * colours], 1)


def _moduli(maps: Tensor, wavelets: Tensor, stride: int, smoothing: float) -> Tensor:
    """|maps * wavelets|: (N, K, H, W) to (N, K * orientations, H / stride, W / stride)."""
    count, planes, height, width = maps.shape
    radius = wavelets.shape[-1] // 2
    flat = maps.reshape(count * planes, 1, height, width)
    found = F.conv2d(flat, wavelets, padding=radius, stride=stride)
    real, imaginary = torch.split(found, ORIENTATIONS, dim=1)
    if smoothing:
        moduli = (real.square() + imaginary.square() + smoothing**2).sqrt() - smoothing
    else:
        moduli = torch.hypot(real, imaginary)
    return moduli.reshape(count, -1, *found.shape[-2:])


def _morlets(sigma: float, frequency: float, radius: int) -> Tensor:
    """Real parts, then imaginary ones, of Morlet wavelets: (2 * orientations, 1, side, side).

    A wave under a Gaussian of width sigma along it and sigma times orientations/4 across, less the
    Gaussian that makes its mean zero.
    """
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    slant = 4.0 / ORIENTATIONS
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for index in range(ORIENTATIONS):
        angle = (ORIENTATIONS // 2 - 1 - index) * math.pi / ORIENTATIONS
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle)
        envelope = torch.exp(-(along.square() + (slant * across).square()) / (2 * sigma**2))
        envelope *= slant / (2 * math.pi * sigma**2)
        for part, wave in zip(parts, (torch.cos, torch.sin), strict=True):
            waved = envelope * wave(frequency * along)
            part.append(waved - envelope * waved.sum() / envelope.sum())
    return torch.stack([*parts[0], *parts[1]]).unsqueeze(1).float()


def _averages(length: int, stride: int, sigma: float) -> Tensor:
    """Gaussian averages at every stride-th place, (ceil(length / stride), length); zeros beyond."""
    places = torch.arange(0, length, stride, dtype=torch.float64).unsqueeze(1)
    distance = torch.arange(length) - places
    weights = torch.exp(-distance.square() / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
    return weights.float()
