"""Small residual networks, as strong classifiers for a CPU: (N, C, H, W) -> (N, classes) logits.

The families that DPImageBench (CCS 2025, arXiv 2503.14681) judges by, at the size that two cores
train in minutes: ``resnet``, two basic blocks a stage of 16, 32 and 64 channels (He et al. 2016);
``wrn``, one such block a stage, twice as wide (Zagoruyko and Komodakis 2016). Both with batch
normalisation, which is harmless here: what they learn from is synthetic. A ResNeXt of this size,
bottlenecks in 8 groups, was below the CNN on 300 and 1,000 digits, and was left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpdm.evaluation.classifiers.networks import initialised, linear

_SMALLEST_HALVED = 4


@dataclass(frozen=True)
class Family:
    """Blocks in each of three stages, and the channels that these put out."""

    blocks: int
    channels: tuple[int, int, int]


class ResidualClassifier(nn.Module):
    """Stem, three stages, mean over the image, dense; a stage halves sides of 4 pixels or more."""

    def __init__(
        self,
        family: Family,
        channels: int,
        size: tuple[int, int],
        classes: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width, side = family.channels[0], min(size)
        stages: list[nn.Module] = [*_normalised(channels, width, generator), nn.ReLU()]
        for stage, outputs in enumerate(family.channels):
            for block in range(family.blocks):
                halved = stage > 0 and block == 0 and side >= _SMALLEST_HALVED
                side = side // 2 if halved else side
                stages.append(_Block(width, outputs, 2 if halved else 1, generator))
                width = outputs
        self.features = nn.Sequential(*stages)
        self.head = linear(width, classes, generator)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


class _Block(nn.Module):
    """x + body(x), with a 1x1 convolution of x where its shape changes; then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normalised(inputs, outputs, generator, stride=stride),
            nn.ReLU(),
            *_normalised(outputs, outputs, generator),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                *_normalised(inputs, outputs, generator, kernel=1, stride=stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def _normalised(
    inputs: int,
    outputs: int,
    generator: torch.Generator,
    *,
    kernel: int = 3,
    stride: int = 1,
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride,
        padding=kernel // 2,
        bias=False,
        device="meta",
    )
    return initialised(convolution, generator), nn.BatchNorm2d(outputs)


FAMILIES = {"resnet": Family(2, (16, 32, 64)), "wrn": Family(1, (32, 64, 128))}
