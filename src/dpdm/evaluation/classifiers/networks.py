"""The networks of the downstream classifiers: (N, C, H, W) in [-1, 1] -> (N, classes) logits.

``mlp``: pixels, 100, classes, with ReLU. ``cnn``: the DPDM paper's (arXiv 2210.09929), convolutions
of 32, 64 and 128 channels and size 3, each with max-pool and ReLU; dropout 0.5; dense 128.
Initial weights come from a generator, so that they depend on the seed alone.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)

DROPOUT = 0.5


class SeededDropout(nn.Module):
    """Dropout that draws from its own generator, where ``nn.Dropout`` draws from the global one."""

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.rate = rate
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.rate
        return x * torch.empty_like(x).bernoulli_(keep, generator=self.generator) / keep


def initialised(module: _Layer, generator: torch.Generator) -> _Layer:
    """He initialisation from the given generator; the module must come without memory (meta)."""
    module.to_empty(device="cpu")
    nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A dense layer."""
    return initialised(nn.Linear(inputs, outputs, device="meta"), generator)


def perceptron(pixels: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    """The paper's MLP."""
    return nn.Sequential(
        nn.Flatten(),
        linear(pixels, 100, generator),
        nn.ReLU(),
        linear(100, classes, generator),
    )


class ConvolutionalClassifier(nn.Module):
    """The paper's CNN for any image size.

    Convolutions are padded by one, so that they keep the size. Max-pooling halves it after each of
    the three as long as both sides are at least 4: 28x28 ends at 3x3 and 8x8 at 2x2. What is larger
    than 8x8 after the third (images above 71 pixels) is averaged to 8x8, so that the
    dense layer does not grow with the image. ``dropout`` stands in for the seeded one.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        generator: torch.Generator,
        dropout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, width = size
        for inputs, outputs in ((channels, 32), (32, 64), (64, 128)):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, device="meta")
            layers.append(initialised(convolution, generator))
            if min(height, width) >= 4:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            layers.append(nn.ReLU())
        if height > 8 or width > 8:
            height, width = min(height, 8), min(width, 8)
            layers.append(nn.AdaptiveAvgPool2d((height, width)))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            SeededDropout(DROPOUT, generator) if dropout is None else dropout,
            linear(128 * height * width, 128, generator),
            nn.ReLU(),
            linear(128, classes, generator),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.4x on a CPU

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.features(x))
        return logits
