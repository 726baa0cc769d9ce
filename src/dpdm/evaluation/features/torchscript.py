"""A TorchScript file, or any module, as an extractor of features.

A network is given (n, 3, H, W), grey repeated to three channels, at the images' own size: it
resizes them itself, as the Inception network of FID does. It gets bytes, 0 to 255; one that cannot
take bytes gets float32 in [0, 1]. Where its ``forward`` knows ``return_features`` (the interface of
StyleGAN's networks), features are what it gives with that set. Opening a TorchScript file runs the
code in it: use files that you trust.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdm.errors import RequestError
from dpdm.evaluation.features.extractor import Compute, Extractor
from dpdm.evaluation.figures import as_rgb

_BATCH = 50
_RESERVED = ("inception", "pixels", "cnn")


def open_network(path: Path, name: str | None = None) -> Extractor:
    """The extractor of a TorchScript file; by default its name is the file's, without the ending.

    Raises:
        RequestError: no such file, not TorchScript, or a name that means another network.
    """
    if name is None:
        name = re.sub(r"[^a-z0-9.]+", "-", path.stem.lower()).strip("-.") or "network"
        if name in _RESERVED:
            raise RequestError(f"--features {path}: {name} names another network; rename the file")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from None
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise RequestError(
            f"{path}: not a TorchScript file ({first}); save one with torch.jit.save"
        ) from None
    return from_module(
        module, name, digest, f"the TorchScript network {path.name}, SHA-256 {digest[:12]}"
    )


def from_module(
    module: nn.Module, name: str, fingerprint: str, description: str | None = None
) -> Extractor:
    """Any module as an extractor; ``fingerprint`` must change when its weights do."""
    module.eval()
    known = _arguments(module)
    features = {"return_features": True} if "return_features" in known else {}
    # The original Inception score leaves the bias of the last layer out.
    classes = {"no_output_bias": True} if "no_output_bias" in known else {}
    return Extractor(
        name=name,
        fingerprint=network_fingerprint(fingerprint),
        description=description or f"the network {name}",
        compute=_batched(module, features, name),
        probabilities=_as_probabilities(_batched(module, classes, name)) if features else None,
    )


def network_fingerprint(own: str) -> str:
    """The fingerprint of an extractor that is a network; of a file's, ``own`` is its SHA-256."""
    return f"network {own}"


def _arguments(module: nn.Module) -> set[str]:
    forward: Any = module.forward
    if isinstance(module, torch.jit.ScriptModule):
        return {argument.name for argument in forward.schema.arguments}
    return set(inspect.signature(forward).parameters)


def _batched(module: nn.Module, options: dict[str, bool], name: str) -> Compute:
    @torch.inference_mode()
    def compute(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = []
        for start in range(0, len(images), _BATCH):
            rgb = as_rgb(images[start : start + _BATCH]).transpose(0, 3, 1, 2)
            rows.append(_run(module, torch.from_numpy(np.ascontiguousarray(rgb)), options, name))
        return torch.cat(rows).numpy()

    return compute


def _run(module: nn.Module, images: Tensor, options: dict[str, bool], name: str) -> Tensor:
    try:
        result = module(images, **options)
    except RuntimeError:  # bytes are not for every network; what fails on both says why below
        try:
            result = module(images.float() / 255, **options)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            size = "x".join(str(side) for side in images.shape[2:])
            raise RequestError(
                f"feature network {name}: fails on images of {size} ({reason}); "
                "give one that resizes them itself"
            ) from None
    if not isinstance(result, Tensor) or result.ndim < 2:
        raise RequestError(
            f"feature network {name}: must return a tensor (images, features); wrap it"
        )
    return result.flatten(1).float()


def _as_probabilities(compute: Compute) -> Compute:
    """Rows that sum to one are taken as they are; others are logits."""

    def normalised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = compute(images)
        if (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3):
            return rows
        return torch.from_numpy(rows).softmax(1).numpy()

    return normalised
