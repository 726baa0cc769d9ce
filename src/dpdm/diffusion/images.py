"""Between stored images, uint8 (N, H, W, C), and model space, float (N, C, H, W) in [-1, 1].

x = u / 127.5 - 1, and back u = round((x + 1) * 127.5) clamped to 0..255: a round trip is exact.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpdm.diffusion.draws import Device


def to_model_space(images: NDArray[np.uint8] | Tensor, device: Device = None) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in [-1, 1] on ``device``."""
    if not isinstance(images, Tensor):
        images = torch.from_numpy(np.array(images))  # of its own: data sets are read-only
    return images.to(device).permute(0, 3, 1, 2).to(torch.float32).contiguous() / 127.5 - 1.0


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Float (N, C, H, W) to uint8 (N, H, W, C); values outside [-1, 1] are clamped."""
    pixels = ((x.detach().float() + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
