"""Pictures of samples: grids by class as arrays, and PNG files of arrays."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpdm.errors import RequestError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def sample_grid(
    images: Images,
    labels: Labels | None = None,
    classes: tuple[str, ...] = (),
    columns: int = 10,
    *,
    scale: int | None = None,
    gap: int | None = None,
    background: int | None = 255,
) -> Images:
    """Samples as one picture: a row per class, ``columns`` wide, each class's first images.

    images: uint8 (N, H, W, C); labels: int (N,) into ``classes``. Without labels or classes the
    images fill the rows in their order. A class with fewer images leaves the rest of its row empty.
    scale: every pixel becomes scale x scale of them, so that tiny images stay crisp (None:
    ``crisp_scale``). gap: pixels between images (None: a twentieth of an image). background: grey
    value of gaps, or None for transparent ones. Returns uint8 (H', W', 3), or (H', W', 4) where
    transparent.

    Raises RequestError where there is nothing to show or columns is below 1.
    """
    if len(images) == 0 or columns < 1:
        raise RequestError(
            f"a grid of {len(images)} images in {columns} columns shows nothing; "
            "give at least one of each"
        )
    rows = [part[:columns] for part in _rows(len(images), labels, len(classes), columns)]
    tiles = as_rgb(images)
    if scale is None:
        scale = crisp_scale(images.shape[1], images.shape[2])
    height, width = tiles.shape[1] * scale, tiles.shape[2] * scale
    if gap is None:
        gap = max(1, round(max(height, width) / 20))
    grid = np.zeros(
        (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 4), dtype=np.uint8
    )
    if background is not None:
        grid[..., :3] = background
    for row, members in enumerate(rows):
        for column, member in enumerate(members):
            top, left = row * (height + gap), column * (width + gap)
            tile = tiles[member].repeat(scale, axis=0).repeat(scale, axis=1)
            grid[top : top + height, left : left + width, :3] = tile
            grid[top : top + height, left : left + width, 3] = 255
    return grid if background is None else grid[..., :3].copy()


def _rows(count: int, labels: Labels | None, classes: int, columns: int) -> list[NDArray[np.intp]]:
    if labels is None or classes == 0:
        return [np.arange(start, min(start + columns, count)) for start in range(0, count, columns)]
    return [np.flatnonzero(labels == number) for number in range(classes)]


def crisp_scale(height: int, width: int) -> int:
    """Enlargement that lets the pixels of a tiny image be seen: 160 pixels a side, or none.

    Images of 48 pixels and more are left as they are: smooth scaling shows them better.
    """
    side = max(height, width)
    return 1 if side >= 48 else -(-160 // side)


def as_rgb(images: Images) -> Images:
    """Images for the eye: uint8 (N, H, W, C) -> (N, H, W, 3).

    One channel is grey, three are RGB; of two only the first is shown, of four the first three.
    """
    return images[..., :3] if images.shape[-1] >= 3 else images[..., :1].repeat(3, axis=-1)


def png_bytes(array: Images) -> bytes:
    """A PNG file of a picture, uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[-1] == 3 and (array == array[..., :1]).all():
        array = array[..., 0]  # grey pictures stored as such are a third of the size
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
