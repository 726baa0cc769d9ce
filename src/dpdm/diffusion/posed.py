"""The prior with poses: Gaussians over shapes in their class's pose together with the pose itself.

A vector holds the D first DCT coefficients of an image brought to its class's pose and the Q pose
parameters it had, as deviations from that pose. A draw is brought back to the pose drawn with it,
then augmented. Pose and pixels are drawn jointly, so that, for instance, wide shapes are bold where
they were bold. Such a draw has no density in closed form; a plain ``Mixture`` fitted to draws has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from dpdm.diffusion.augment import stretched, warped_grid
from dpdm.diffusion.dct import DctFrame
from dpdm.diffusion.draws import uniform
from dpdm.diffusion.gaussians import draw_vectors
from dpdm.diffusion.mixture_fields import POSED_FIELDS, checked
from dpdm.diffusion.pose import identity_grid, repose

_CHUNK, _CHUNK_VALUES = 4096, 2**24
"""Most images, and most values of them, that are drawn together: it bounds the memory."""


class PosedSampler(nn.Module):
    """Draws images from Gaussians over shapes and poses: buffers only, so it moves with ``to``.

    Fields, with Y classes, K components, R directions, E = D + Q numbers, P values of an image:
    class_weights (Y,), weights (Y, K), means (Y, K, E), basis (Y, E, R), variances (Y, R), floor
    (Y, E), rest (Y, P - D), poses (Y, Q), pose_scale (Q,) pose per unit of a vector's entry,
    augment () the strength of augmentation, detail (2,): images of a class differ in their amount
    of fine detail, which is multiplied by a number uniform between the two; roots (Y, K, S, S), A
    of a component's own covariance A A^T in the first S directions of its class.
    """

    class_weights: Tensor
    weights: Tensor
    means: Tensor
    basis: Tensor
    variances: Tensor
    floor: Tensor
    rest: Tensor
    poses: Tensor
    pose_scale: Tensor
    augment: Tensor
    detail: Tensor
    roots: Tensor

    def __init__(self, image_shape: tuple[int, int, int], fields: Mapping[str, Tensor]) -> None:
        """Raises DpdmError, naming the field, for a wrong shape or value."""
        super().__init__()
        fields = checked(image_shape, fields)
        for name in POSED_FIELDS:
            self.register_buffer(name, fields[name].contiguous(), persistent=False)
        self.image_shape = image_shape
        self.dimension = math.prod(image_shape) - fields["rest"].shape[1]
        self.frame = DctFrame(image_shape, self.dimension).to(self.means.device)

    def to_tensors(self) -> dict[str, Tensor]:
        """The fields as a flat dictionary of CPU tensors, for safetensors."""
        return {n: getattr(self, n).detach().cpu().clone().contiguous() for n in POSED_FIELDS}

    @torch.no_grad()
    def sample(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1], one for each of ``labels`` (N,); -1 draws the class."""
        parts = list(self.parts(labels, generator))
        return torch.cat(parts) if parts else self.means.new_empty(0, *self.image_shape)

    @torch.no_grad()
    def parts(self, labels: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The images of ``sample`` in parts of bounded size."""
        chunk = max(1, min(_CHUNK, _CHUNK_VALUES // self.frame.size))
        for part in torch.split(labels, chunk) if len(labels) else ():
            yield self._draw(part, generator)

    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        detail, (least, most) = None, self.detail.tolist()
        if (least, most) != (1.0, 1.0):
            how = {"generator": generator, "device": self.means.device}
            detail = most - (most - least) * uniform(labels.shape, **how)  # type: ignore[arg-type]
        vectors, noise, labels = draw_vectors(
            self, labels, self.rest.shape[1], generator, detail, self.roots
        )
        size, whole = self.dimension, self.means.shape[2]
        own = self.poses[labels]
        deviation = (vectors + noise[:, :whole])[:, size:] * self.pose_scale
        drawn = (own + deviation).clamp(-1.0, 1.0)
        beyond = noise[:, whole:] * self.rest[labels].sqrt()
        x = self.frame.to_images(torch.cat([vectors[:, :size], torch.zeros_like(beyond)], dim=1))
        texture = self.frame.to_images(torch.cat([noise[:, :size], beyond], dim=1))
        x = (x + _on_shape(texture, x) if drawn.shape[1] else x + texture).clamp(-1.0, 1.0)
        strength, grid = float(self.augment), None
        if strength > 0.0:
            grid = warped_grid(identity_grid(x), len(x), strength, generator)
        x = repose(x, own, drawn, grid).clamp(-1.0, 1.0)
        return stretched(x, strength, generator) if strength > 0.0 else x


def _on_shape(texture: Tensor, x: Tensor) -> Tensor:
    """Texture (N, C, H, W) moved to where images ``x`` have ink; its energy stays the same."""
    ink = ((x + 1.0) / 2.0).clamp(0.0, 1.0).mean(dim=1, keepdim=True)
    mean_square = ink.square().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-3)
    return texture * ink / mean_square.sqrt()
