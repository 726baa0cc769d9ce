"""What the prior looks at in an image: its coefficients in its class's pose, its pose, its texture.

Features of one image follow from that image, its label and noised statistics released before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpdm.diffusion.dct import DctFrame
from dpdm.diffusion.images import to_model_space
from dpdm.diffusion.pose import measure_pose, repose
from dpdm.training.prior.shrinkage import Array, Integers

Images = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]

TEXTURE_BANDS = 4
_CHUNK, _CHUNK_VALUES, _CHUNK_STEP = 1024, 2**22, 32
"""Most images, and most values of them, that are looked at together, which bounds the memory; in
multiples of the last."""


def texture_bands(frame: DctFrame) -> list[Integers]:
    """The coefficients (P - D,) that are not modelled, split into bands of equal size."""
    beyond = np.arange(frame.size - frame.dimension)
    return [band for band in np.array_split(beyond, TEXTURE_BANDS) if len(band)]


@dataclass(frozen=True)
class PosedFeatures:
    """From images to rows (N, D + Q + G): coefficients, pose, energies of bands.

    Attributes:
        frame: the DCT and D.
        poses: (Y, Q) each class's pose, to which its images are brought; Q may be 0.
        spread: (Q,) deviations of poses within classes: a row holds deviations over these.
    """

    frame: DctFrame
    poses: Array
    spread: Array

    def __call__(self, images: Images, labels: Integers | None) -> Rows:
        """Rows of images uint8 (N, H, W, C) with labels (N,), None for all 0."""
        classes = np.zeros(len(images), np.int64) if labels is None else labels
        own = torch.from_numpy(self.poses).float()[torch.from_numpy(np.array(classes))]
        spread = torch.from_numpy(self.spread).float()
        bands = [torch.from_numpy(band) for band in texture_bands(self.frame)]

        def rows(x: Tensor, start: int) -> Tensor:
            target = own[start : start + len(x)]
            target = torch.cat([target, target.new_zeros(len(x) - len(target), target.shape[1])])
            pose = measure_pose(x, target.shape[1])
            z = self.frame.to_coefficients(repose(x, pose, target))
            rest = z[:, self.frame.dimension :].square()
            energies = [rest[:, band].sum(dim=1, keepdim=True) for band in bands]
            return torch.cat(
                [z[:, : self.frame.dimension], (pose - target) / spread, *energies], dim=1
            )

        return in_chunks(images, rows)


def pose_rows(images: Images, size: int) -> Rows:
    """Poses (N, Q) of images."""
    return in_chunks(images, lambda x, _: measure_pose(x, size))


def in_chunks(images: Images, function: Callable[[Tensor, int], Tensor]) -> Rows:
    """``function(x, start)`` over chunks of one size, the last one padded with black images.

    So an image's row is the same to the last bit whatever images come before or after it: what a
    kernel works on together divides a chunk, and all that is done to an image is done within it.
    """
    many = _CHUNK_VALUES // math.prod(images.shape[1:]) // _CHUNK_STEP * _CHUNK_STEP
    found, chunk = None, max(_CHUNK_STEP, min(_CHUNK, many))
    for start in range(0, len(images), chunk):
        part = np.zeros((chunk, *images.shape[1:]), np.uint8)
        count = len(images[start : start + chunk])
        part[:count] = images[start : start + chunk]
        rows = function(to_model_space(part), start).numpy()
        if found is None:
            found = np.empty((len(images), rows.shape[1]), rows.dtype)
        found[start : start + count] = rows[:count]
    assert found is not None
    return found
