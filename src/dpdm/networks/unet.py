"""The network of the paper: the DDPM++ U-Net of Song et al. 2021, at the sizes DPDM uses.

1,753,345 parameters at the paper's MNIST settings, 1,804,451 at those of CelebA 32x32 (Dockhorn et
al. 2023, appendix: base 32, multipliers (1, 2, 2), two residual blocks a level).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpdm.errors import RequestError
from dpdm.networks.blocks import (
    NoiseEmbedding,
    Resample,
    ResidualBlock,
    SelfAttention,
    conv3x3,
    group_norm,
    initialise,
    normalised_swish,
)


class Stage(nn.Module):
    """A residual block, followed by self-attention where asked."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention
        self.resamples = block.resample is not None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """DDPM++: an encoder and a decoder joined by skips, conditioned on noise level and class.

    ``forward(inputs (N, in_channels, H, W), c_noise (N,), labels (N,) int64 or None)`` returns
    (N, out_channels, H, W), exactly zero before training. A label is a class index from 0, or -1
    for no label (guidance): the class embedding has one row more than there are classes, and -1 is
    that last row. ``labels=None`` is -1 throughout. A network without classes takes ``None`` or -1
    only.

    Args:
        image_size: height and width, or one number for both.
        in_channels: what the base supplies: image channels or a multiple of them.
        out_channels: image channels.
        base_channels: channels of the first level (even, at least 4); the noise embedding has as
            many features, and its two dense layers four times as many.
        multipliers: channels of each level, in base_channels; each level halves the resolution.
        blocks: residual blocks a level (the decoder has one more).
        attention: resolutions (longer side, in pixels of the network's own grid, that is after
            ``patch``) with self-attention: in the encoder after each block, in the decoder once. A
            resolution that no level has is passed over. The middle always has one attention.
        classes: number of classes, 0 for none.
        dropout: rate inside the residual blocks, drawn from torch's global generator.
        patch: pixels of patch x patch squares become channels before the network and pixels again
            after it: a network ``patch`` squared times cheaper, for small machines. 1 is the paper.
        noise_frequencies: first and last angular frequency of the sinusoidal noise embedding. The
            paper's suit c_noise up to 999 (vp); where c_noise stays within a few units (edm), most
            of them do not move, and (4, 0.1) learns a little faster.
        generator: randomness of the initial weights.

    Raises:
        RequestError: settings that do not fit together, named by their configuration key; at a
            call, inputs of another shape or labels that are not classes (on CUDA, a wrong label is
            torch's device-side assertion: checking it there would stall every step).

    Source: Song et al. 2021, arXiv 2011.13456, appendix H; Dockhorn et al. 2023, appendix.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        in_channels: int,
        out_channels: int,
        base_channels: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (7,),
        classes: int = 0,
        dropout: float = 0.0,
        patch: int = 1,
        noise_frequencies: tuple[float, float] = (1.0, 1e-4),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        _check_settings(size, base_channels, multipliers, blocks, patch)
        if min(noise_frequencies) <= 0:
            raise RequestError(
                f"network.noise_frequencies={tuple(noise_frequencies)}: both must be positive"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.image_size, self.classes, self.patch = size, classes, patch

        features = 4 * base_channels
        self.noise_embedding = NoiseEmbedding(base_channels, *noise_frequencies)
        self.class_embedding = nn.Embedding(classes + 1, base_channels) if classes else None
        self.dense_in = nn.Linear(base_channels, features)
        self.dense_out = nn.Linear(features, features)

        longer = max(size) // patch
        levels = [(base_channels * m, longer >> i in attention) for i, m in enumerate(multipliers)]
        last = len(levels) - 1

        def stage(
            channels_in: int,
            channels_out: int,
            attend: bool = False,
            resample: Resample | None = None,
        ) -> Stage:
            block = ResidualBlock(
                channels_in, channels_out, features, resample=resample, dropout=dropout
            )
            return Stage(block, SelfAttention(channels_out) if attend else None)

        self.stem = conv3x3(in_channels * patch**2, base_channels)
        skips = [base_channels]  # channels of every tensor that the decoder will take back
        self.encoder = nn.ModuleList()
        for level, (channels, attend) in enumerate(levels):
            for _ in range(blocks):
                self.encoder.append(stage(skips[-1], channels, attend))
                skips.append(channels)
            if level < last:
                self.encoder.append(stage(channels, channels, resample="down"))
                skips.append(channels)

        current = skips[-1]
        self.middle = nn.ModuleList([stage(current, current, True), stage(current, current)])

        self.decoder = nn.ModuleList()
        for level, (channels, attend) in reversed(list(enumerate(levels))):
            for block in range(blocks + 1):
                self.decoder.append(
                    stage(current + skips.pop(), channels, attend and block == blocks)
                )
                current = channels
            if level > 0:
                self.decoder.append(stage(current, current, resample="up"))

        self.norm_out = group_norm(current)
        self.conv_out = conv3x3(current, out_channels * patch**2)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every initial weight anew; the output is zero again."""
        for layer in (self.stem, self.dense_in, self.dense_out):
            initialise(layer, generator)
        initialise(self.conv_out, generator, gain=0.0)
        for module in self.modules():
            if isinstance(module, ResidualBlock | SelfAttention):
                module.reset_parameters(generator)
            elif isinstance(module, nn.GroupNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)

    def forward(self, inputs: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        self._check_call(inputs, c_noise, labels)
        embedding = self._embedding(c_noise, labels)
        x = inputs if self.patch == 1 else F.pixel_unshuffle(inputs, self.patch)

        x = self.stem(x)
        skips = [x]
        for stage in self.encoder:
            x = stage(x, embedding)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, embedding)
        for stage in self.decoder:
            if not stage.resamples:
                x = torch.cat([x, skips.pop()], dim=1)
            x = stage(x, embedding)

        x = self.conv_out(normalised_swish(self.norm_out, x))
        return x if self.patch == 1 else F.pixel_shuffle(x, self.patch)

    def _embedding(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """(N, 4 base_channels): noise level and class, through two dense layers and a swish."""
        embedding = self.noise_embedding(c_noise)
        if self.class_embedding is not None:
            embedding = embedding + self._class_features(self.class_embedding, c_noise, labels)
        # Every residual block wants the swish of the embedding: once here.
        return F.silu(self.dense_out(F.silu(self.dense_in(embedding))))

    def _class_features(
        self, table: nn.Embedding, c_noise: Tensor, labels: Tensor | None
    ) -> Tensor:
        if labels is None:
            labels = c_noise.new_full(c_noise.shape, -1, dtype=torch.int64)
        # The null row must be reached by -1 alone, and no wrong label may wrap round to a row: all
        # others go beyond the table, where the lookup itself refuses them (no read-back of values).
        known = (labels >= 0) & (labels < self.classes)
        rows = torch.where(known, labels, self.classes + (labels != -1).to(labels.dtype))
        try:
            return table(rows)  # type: ignore[no-any-return]
        except IndexError:
            raise RequestError(
                f"labels: a value is outside 0..{self.classes - 1} (-1 for no label); "
                f"this network knows {self.classes} classes"
            ) from None

    def _check_call(self, inputs: Tensor, c_noise: Tensor, labels: Tensor | None) -> None:
        expected = (self.in_channels, *self.image_size)
        if inputs.dim() != 4 or tuple(inputs.shape[1:]) != expected:
            raise RequestError(
                f"network inputs: shape {tuple(inputs.shape)} where (N, "
                f"{', '.join(map(str, expected))}) belongs"
            )
        for name, values in (("c_noise", c_noise), ("labels", labels)):
            if values is not None and values.shape != inputs.shape[:1]:
                raise RequestError(
                    f"network {name}: shape {tuple(values.shape)} where ({inputs.shape[0]},) "
                    "belongs, one value for each image"
                )
        if labels is not None and self.classes == 0 and bool((labels != -1).any()):
            raise RequestError("labels: this network knows no classes; pass None")


def _check_settings(
    size: tuple[int, ...], base_channels: int, multipliers: Sequence[int], blocks: int, patch: int
) -> None:
    """Raise RequestError, naming the configuration key, where settings do not fit together."""
    if base_channels < 4 or base_channels % 2:
        raise RequestError(f"network.base_channels={base_channels}: must be even and at least 4")
    if not multipliers or min(multipliers) < 1:
        raise RequestError(
            f"network.multipliers={tuple(multipliers)}: needs at least one level, each at least 1"
        )
    if blocks < 1:
        raise RequestError(f"network.blocks={blocks}: must be at least 1")
    if patch < 1:
        raise RequestError(f"network.patch={patch}: must be at least 1")
    levels = len(multipliers)
    step = patch * 2 ** (levels - 1)
    if len(size) != 2 or min(size) < 1 or any(side % step for side in size):
        shown = "x".join(map(str, size))
        by_patch = f" and network.patch={patch}" if patch > 1 else ""
        raise RequestError(
            f"data.image_size={shown}: must be divisible by {step} for the {levels} levels of "
            f"network.multipliers={tuple(multipliers)}{by_patch}; resize the images or use "
            "fewer levels"
        )
