"""Images made by code: parts with textures on a ground. A public source to pretrain a network on.

Each image is a few parts, one over another: superellipses, stretched, bent, tapered, warped,
mirrored or thin as strokes, with soft or sharp rims, holes and outlines, each filled with a
texture: a level, a slope, a smooth random field, stripes, checks. Grey images mostly have a dark
ground, colour images mostly a textured one. Nothing in them comes from any data set: what a network
learns of them (edges, strokes, surfaces, and how noise differs from these) costs no privacy.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpdm.errors import RequestError

PARTS = 5
"""The most parts of an image."""

_AT_A_TIME = 128
"""Images drawn together: few enough for a processor's caches."""


def procedural_images(
    count: int, height: int, width: int, channels: int, seed: int
) -> npt.NDArray[np.uint8]:
    """Images (count, height, width, channels) uint8, fixed by the arguments; 1 or 3 channels.

    Raises:
        RequestError: another number of channels, or none.
    """
    if channels not in (1, 3):
        raise RequestError(f"procedural images have 1 or 3 channels, not {channels}")
    images = np.empty((count, height, width, channels), np.uint8)
    for start in range(0, count, _AT_A_TIME):
        draw = _Draw(min(_AT_A_TIME, count - start), height, width, (seed, start))
        drawn = draw.images(channels).clamp(0.0, 1.0).mul(255.0).round_()
        images[start : start + draw.count] = drawn.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return images


class _Draw:
    """One batch of images and its randomness; values are in [0, 1], coordinates in [-1, 1]."""

    def __init__(self, count: int, height: int, width: int, key: tuple[int, int]) -> None:
        state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        self.generator = torch.Generator().manual_seed(state)
        self.count, self.height, self.width = count, height, width
        rows = (torch.arange(height) + 0.5) / height * 2 - 1
        columns = (torch.arange(width) + 0.5) / width * 2 - 1
        self.y, self.x = (axis[None] for axis in torch.meshgrid(rows, columns, indexing="ij"))
        self.row_waves, self.column_waves = _cosines(height), _cosines(width)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """One number per image, (n, 1, 1)."""
        return low + (high - low) * torch.rand(self.count, 1, 1, generator=self.generator)

    def normal(self) -> Tensor:
        """One standard normal number per image, (n, 1, 1)."""
        return torch.randn(self.count, 1, 1, generator=self.generator)

    def chance(self, share: float) -> Tensor:
        """True for a share of the images, (n, 1, 1)."""
        return torch.rand(self.count, 1, 1, generator=self.generator) < share

    def angle(self, upright: float) -> Tensor:
        """A direction: along an axis, nearly, for a share of the images, else any."""
        axis = math.pi / 2 * self.chance(0.5).float() + 0.05 * self.normal()
        return torch.where(self.chance(upright), axis, self.uniform(0.0, math.pi))

    def field(self, coarsest: float = 0.7, finest: float = 12.0) -> Tensor:
        """Smooth random fields (n, h, w) of unit variance: cosines with a spectrum that falls off
        beyond a frequency drawn for each image and direction."""
        span = math.log(finest / coarsest)
        rolls = [coarsest * torch.exp(span * self.uniform()) for _ in range(2)]
        power = self.uniform(1.0, 3.0)
        down, along = len(self.row_waves), len(self.column_waves)
        k, m = torch.arange(down).view(1, -1, 1), torch.arange(along).view(1, 1, -1)
        gain = (1.0 + (k / rolls[0]).square() + (m / rolls[1]).square()) ** -power
        gain[:, 0, 0] = 0.0
        gain /= gain.square().sum((1, 2), keepdim=True).sqrt()
        coefficients = torch.randn(self.count, down, along, generator=self.generator) * gain
        return self.row_waves.T @ coefficients @ self.column_waves

    def stripes(self, frequency: Tensor, angle: Tensor) -> Tensor:
        """Waves in [-1, 1], soft or hard, (n, h, w)."""
        phase = self.uniform(0.0, 2 * math.pi)
        wave = torch.sin(frequency * (self.x * angle.cos() + self.y * angle.sin()) + phase)
        return torch.where(self.chance(0.5), (4.0 * wave).clamp(-1.0, 1.0), wave)

    def texture(self) -> Tensor:
        """Surfaces (n, h, w) in [0, 1]."""
        level = self.uniform() ** 0.7
        slope = self.chance(0.5) * 0.3 * (self.normal() * self.x + self.normal() * self.y)
        relief = self.chance(0.7) * 0.4 * self.uniform() ** 1.5 * self.field()
        grain = self.chance(0.2) * 0.15 * self.uniform() * self._white()
        angle, frequency = self.angle(0.6), self.uniform(2.0, 20.0)
        striped = self.chance(0.3) * 0.4 * self.uniform() * self.stripes(frequency, angle)
        across = self.stripes(frequency, angle + math.pi / 2)
        checked = self.chance(0.1) * 0.3 * self.uniform() * across
        return (level + slope + relief + grain + striped + checked).clamp(0.0, 1.0)

    def images(self, channels: int) -> Tensor:
        """(n, channels, h, w) in [0, 1]."""
        ground = self._ground(channels)
        mirrored, related = self.chance(0.4), self.chance(0.6)
        x = self.x + 0.3 * self.uniform() * self.field(0.7, 3.0)
        y = self.y + 0.3 * self.uniform() * self.field(0.7, 3.0)
        parts, shared = 1 + (PARTS * self.uniform()).floor(), self._coloured(channels)
        image = ground
        for index in range(PARTS):
            distance, softness = self._part(x, y, mirrored, first=index == 0)
            cover = torch.sigmoid(-distance / softness) * (index < parts)
            fill = self._coloured(channels)
            fill = torch.where((related & self.chance(0.8))[:, None], shared, fill)
            if index:
                fill = torch.where(self.chance(0.15)[:, None], ground, fill)
            image = torch.lerp(image, fill, cover[:, None])
            rim = torch.exp(-(distance / 0.15).square()) * (cover > 0.2)
            outline = self.chance(0.25) * self.uniform(-0.6, 0.6) * rim
            image = (image + outline[:, None]).clamp(0.0, 1.0)
        bright = self.chance(0.2)[:, None]
        return torch.where(bright, (1.6 * image).clamp(0.0, 1.0), image)

    def _white(self) -> Tensor:
        return torch.randn(self.count, self.height, self.width, generator=self.generator)

    def _ground(self, channels: int) -> Tensor:
        if channels == 1:
            surface = 0.3 * self.uniform() + 0.15 * self.uniform() * self.field()
            dark = self.chance(0.75)
            return torch.where(dark, torch.zeros(()), surface.clamp(0.0, 1.0))[:, None]
        dark = self.chance(0.2)[:, None]
        return torch.where(dark, torch.zeros(()), self._coloured(channels))

    def _coloured(self, channels: int) -> Tensor:
        """Textures (n, channels, h, w): in colour, a way from one colour to another near it."""
        texture = self.texture()[:, None]
        if channels == 1:
            return texture
        shape = (self.count, channels, 1, 1)
        first = torch.rand(shape, generator=self.generator)
        grey = first.mean(1, keepdim=True)
        first = torch.lerp(grey.expand(shape), first, self.uniform().sqrt()[:, None])
        step = 0.35 * torch.randn(shape, generator=self.generator)
        second = (first + step + 0.4 * self.normal()[:, None]).clamp(0.0, 1.0)
        return torch.lerp(first, second, texture)

    def _part(
        self, x: Tensor, y: Tensor, mirrored: Tensor, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Of one part: a signed distance (n, h, w), negative inside, and its rim's width."""
        away = 0.3 if first else 1.0
        centre_x, centre_y = (0.5 * away * self.normal() for _ in range(2))
        width, height = (torch.exp(-0.6 + 0.6 * self.normal()).clamp(0.06, 1.2) for _ in range(2))
        height = torch.where(self.chance(0.3), self.uniform(0.05, 0.17), height)
        angle = self.angle(0.5)
        x = torch.where(mirrored, x.abs(), x) - centre_x * (1.0 - 0.5 * mirrored.float())
        y = y - centre_y
        along = (x * angle.cos() + y * angle.sin()) / width
        across = (y * angle.cos() - x * angle.sin()) / height
        bend = self.chance(0.5) * 0.6 * self.normal() * (width / height).clamp(max=1.0)
        across = across + bend * along.square()
        taper = (1.0 + 0.5 * self.normal().clamp(-1.5, 1.5) * along).clamp(0.2, 3.0)
        power = 2.0 * torch.exp(self.uniform(0.0, 1.4))
        inside = along.abs() ** power + (across.abs() / taper) ** power
        distance = inside.clamp(min=1e-6) ** (1.0 / power) - 1.0
        softness = (0.03 + 0.25 * self.uniform().square()) / 3.0
        return distance, softness / torch.minimum(width, height).clamp(max=0.5)


def _cosines(length: int) -> Tensor:
    """Cosine waves as rows, (frequencies, length), each of mean square 1 but for the constant."""
    k = torch.arange(min(length, 24)).view(-1, 1)
    return math.sqrt(2.0) * torch.cos(math.pi * k * (torch.arange(length) + 0.5) / length)
