"""Pixels of one image file, as a function of that file alone: no rule here looks at another image.

What every kind of image becomes (DESIGN.md, privacy boundary 8: nothing is learnt from the data):

=====================  ==========================================================================
kind                   becomes
=====================  ==========================================================================
8-bit grey, RGB        unchanged
1-bit                  grey, 0 and 255
palette                RGB, whatever its colours
16-bit grey            round(v / 257)
16-bit RGB             the high byte v // 256 (Pillow's reading)
CMYK, YCbCr            RGB by Pillow's fixed conversion, colour profiles ignored
alpha, transparency    laid over black, unless 2 or 4 channels are asked for
EXIF orientation       applied
32-bit, floating, Lab  refused: such pixels have no fixed range
several frames         refused: one image a file
=====================  ==========================================================================

Grey from colour is ITU-R 601-2 luma; asked-for alpha that a file does not have is 255.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from warnings import catch_warnings, simplefilter

import numpy as np
from PIL import Image, UnidentifiedImageError

from dpdm.data.dataset import Images

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 89_478_485  # Pillow's own threshold for a suspected decompression bomb
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

_EXIF_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """This one image cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Preprocessing:
    """The fixed function from any image to the shape asked for.

    ``channels`` (1 to 4) or None for the image's own; ``image_size`` pixels a side or None for the
    image's own size; ``crop`` a centre crop in pixels before everything else (CelebA's 140).
    With ``image_size`` an image is cropped to its central square, then resized with Pillow's
    antialiased bicubic filter.
    """

    image_size: int | None = None
    channels: int | None = None
    crop: int | None = None

    def keeps(self, height: int, width: int, channels: int) -> bool:
        """Whether images of this shape come out unchanged."""
        return (
            self.channels in (None, channels)
            and (self.image_size is None or self.image_size == height == width)
            and self.crop is None
        )

    def from_array(self, pixels: Images) -> Images:
        """One (H, W, C) array to another; 2 and 4 channels are read as grey and RGB with alpha."""
        height, width, channels = pixels.shape
        if self.keeps(height, width, channels):
            return pixels
        image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        return self._finish(_with_channels(image, self.channels or channels))

    def from_bytes(self, data: bytes) -> tuple[Images, tuple[int, int]]:
        """An encoded image to its (H, W, C) array and its (height, width) before cropping.

        Raises BadImage with the reason where the bytes are no usable image.
        """
        image = _decoded(data)
        own = 1 if image.mode in ("L", "LA") else 3
        image = _with_channels(image, self.channels or own)
        return self._finish(image), (image.height, image.width)

    def _finish(self, image: Image.Image) -> Images:
        if self.crop is not None:
            image = image.crop(_central_box(image, min(self.crop, image.width, image.height)))
        if self.image_size is not None and image.size != (self.image_size, self.image_size):
            box = _central_box(image, min(image.size))
            size = (self.image_size, self.image_size)
            image = image.resize(size, Image.Resampling.BICUBIC, box=box)
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings while decoding: what matters in them is a BadImage here.

    The warning filters belong to the process, so this goes around a pool of threads, not inside
    one.
    """
    with catch_warnings():
        simplefilter("ignore", Image.DecompressionBombWarning)
        simplefilter("ignore", UserWarning)
        yield


def _central_box(image: Image.Image, side: int) -> tuple[int, int, int, int]:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return left, top, left + side, top + side


def _decoded(data: bytes) -> Image.Image:
    """The image upright, in one of the modes L, LA, RGB, RGBA."""
    if not data:
        raise BadImage("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{image.width}x{image.height} pixels, the limit is {MAX_PIXELS:,}")
            frames = getattr(image, "n_frames", 1)
            # A phone's JPEG may carry extra views (MPO); its first is the photograph.
            if frames > 1 and image.format != "MPO":
                raise BadImage(f"{frames} frames, one image a file is needed")
            image.load()
            return _upright(_eight_bit(image), image)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("damaged, or not a PNG, JPEG, WebP, BMP or TIFF image") from None
    except Image.DecompressionBombError:
        raise BadImage(f"too many pixels, the limit is {MAX_PIXELS:,}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"damaged: {reason}") from None


def _upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    turn = _TRANSPOSITIONS.get(source.getexif().get(_EXIF_ORIENTATION, 1))
    return pixels if turn is None else pixels.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if mode in ("I", "F"):
        kind = "floating-point" if mode == "F" else "32-bit"
        raise BadImage(f"{kind} pixels have no fixed range; save it with 8 or 16 bits")
    transparent = "transparency" in image.info
    if mode in ("1", "L"):
        return image.convert("LA" if transparent else "L")
    if mode in ("LA", "RGBA"):
        return image
    if mode == "La":
        return image.convert("LA")
    if mode in ("PA", "RGBa") or transparent:
        return image.convert("RGBA")
    return image.convert("RGB")


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    if channels in (1, 3) and image.mode in ("LA", "RGBA"):
        opaque = Image.new("L" if image.mode == "LA" else "RGB", image.size, 0)
        opaque.paste(image.convert(opaque.mode), mask=image.getchannel("A"))
        image = opaque
    mode = MODES[channels]
    return image if image.mode == mode else image.convert(mode)
