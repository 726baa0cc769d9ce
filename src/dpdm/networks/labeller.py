"""The labeller: softmax regression on scattering features, which says what a sample shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpdm.networks.scattering import Scattering

BATCH = 256
"""Images whose features are computed together; always as many, so that rounding never depends on
how many there are."""


class Labeller(nn.Module):
    """Logits (N, classes) of images (N, C, H, W) in [-1, 1].

    ``weight`` (features + 1, classes), zero at first; its last row is the bias.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.scattering = Scattering(image_shape)
        self.weight = nn.Parameter(torch.zeros(self.scattering.features + 1, classes))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, features + 1) float32, the last one 1; in batches of one size, padded with zeros."""
        parts = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            missing = BATCH - len(part)
            if missing:
                part = torch.cat([part, part.new_zeros(missing, *part.shape[1:])])
            parts.append(self.scattering(part)[: BATCH - missing])
        found = torch.cat(parts) if parts else images.new_zeros(0, self.scattering.features)
        return torch.cat([found, found.new_ones(len(found), 1)], 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, classes) logits."""
        return self.features(images) @ self.weight
