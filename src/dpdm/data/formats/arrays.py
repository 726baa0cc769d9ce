"""Reader of ``.npz`` files: ``images`` uint8 (N, H, W) or (N, H, W, C), and optional arrays.

``labels`` (N,), whole numbers or text; ``classes`` (K,), their names in label order; ``groups``
(N,), whole numbers or text that say whose image it is.

Pickled contents are never opened.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpdm.data.classes import labels_from_names, labels_from_numbers
from dpdm.data.collection import Collection
from dpdm.data.dataset import Images
from dpdm.errors import DpdmError, RequestError

_KEYS = ("images", "labels", "classes", "groups")


def read_npz(path: Path) -> Collection:
    """Read and check one file; raises RequestError for contents that are no image set."""
    arrays = _arrays(path)
    images = _images(path, arrays["images"])
    count = len(images)
    declared = _class_names(path, arrays["classes"]) if "classes" in arrays else None
    labels, classes = None, declared or ()
    if "labels" in arrays:
        values = _one_each(path, "labels", arrays["labels"], count)
        where = f"{path} ('labels')"
        if values.dtype.kind == "U":
            names = values.tolist()
            labels, classes = labels_from_names(where, names, declared, "the array 'classes'")
        else:
            labels, classes = labels_from_numbers(where, values, declared)
    groups = None
    if "groups" in arrays:
        groups = _one_each(path, "groups", arrays["groups"], count)
        if groups.dtype.kind not in "iuU":
            raise RequestError(
                f"{path}: 'groups' is {groups.dtype}; give whole numbers or text, one an image"
            )
    return Collection(path.stem, images, labels, classes, groups)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if not zipfile.is_zipfile(path):
            raise DpdmError(f"{path}: not a readable .npz file; write it again with numpy.savez")
        with np.load(path, allow_pickle=False) as archive:
            if "images" not in archive:
                keys = ", ".join(archive.files) or "nothing"
                raise RequestError(f"{path}: no array 'images' in it (it holds {keys})")
            return {key: archive[key] for key in _KEYS if key in archive}
    except DpdmError:
        raise
    except (MemoryError, OverflowError) as error:
        raise DpdmError(f"{path}: more than fits into memory, or damaged ({error})") from None
    # RuntimeError: encrypted, or packed in a way that Python does not know.
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        if "pickle" in str(error):
            raise RequestError(
                f"{path}: holds Python objects, which are not opened; save plain arrays"
            ) from None
        raise DpdmError(f"{path}: not a readable .npz file ({error}); write it again") from None
    except OSError as error:
        raise DpdmError(f"{path}: cannot be read ({error.strerror or error})") from None


def _images(path: Path, images: NDArray[Any]) -> Images:
    if images.dtype != np.uint8:
        has_nan = images.dtype.kind == "f" and bool(np.isnan(images).any())
        raise RequestError(
            f"{path}: 'images' is {images.dtype}{', some of it NaN' if has_nan else ''}; it must "
            "be uint8, 0 to 255. For floats in [0, 1]: (images * 255).round().astype('uint8')"
        )
    if images.ndim == 3:
        return images[..., None]
    if images.ndim != 4:
        raise RequestError(
            f"{path}: 'images' has shape {images.shape}; it must be (N, H, W) or (N, H, W, C)"
        )
    if not 1 <= images.shape[3] <= 4:
        hint = ""
        if 1 <= images.shape[1] <= 4:
            hint = "; it looks like (N, C, H, W): images.transpose(0, 2, 3, 1)"
        raise RequestError(
            f"{path}: 'images' has shape {images.shape}, {images.shape[3]} channels; "
            f"1 to 4 are needed{hint}"
        )
    return images


def _class_names(path: Path, names: NDArray[Any]) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise RequestError(
            f"{path}: 'classes' is {names.dtype} with shape {names.shape}; give (K,) text"
        )
    return tuple(str(name) for name in names)


def _one_each(path: Path, key: str, values: NDArray[Any], count: int) -> NDArray[Any]:
    if values.shape != (count,):
        raise RequestError(
            f"{path}: {key!r} has shape {values.shape}; it must be ({count},), one for each image"
        )
    return values
