"""Weights on disk: safetensors, written whole or not at all, checked when read. Never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dpdm.errors import DpdmError, RequestError, first_few
from dpdm.replacing import replacing

_DIGEST = "dpdm.sha256"
_NAMES_SHOWN = 4


def save_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors by name, and free text by key, to one safetensors file.

    The file appears complete or not at all (``replacing``). A digest of both goes along, under the
    key ``dpdm.sha256``, and ``load_weights`` checks it.

    Raises:
        DpdmError: the file cannot be written.
    """
    path = Path(path)
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    text = dict(metadata or {})
    content = _reproducible(save(plain, {**text, _DIGEST: _digest(plain, text)}))
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise DpdmError(
            f"{path}: cannot write the weights ({error.strerror or error}); "
            "check the folder, its permissions and the space left"
        ) from error


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what ``save_weights`` wrote: (tensors by name on the CPU, metadata).

    A safetensors file of other making is read too, without the digest check.

    Raises:
        RequestError: there is no such file.
        DpdmError: the file is damaged or no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path}: no such weights file; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            # Copies: the originals are a view of the file, which may change or go away.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    digest = metadata.pop(_DIGEST, None)
    if digest is not None and digest != _digest(tensors, metadata):
        raise _damaged(path, "contents do not match their checksum")
    return tensors, metadata


@torch.no_grad()
def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "weights") -> None:
    """Copy tensors into a module's parameters and persistent buffers, all of them or none.

    ``source`` names where the tensors come from (a file) in the error. Device and floating point
    type stay the module's.

    Raises:
        DpdmError: names missing, left over or of another shape; the module is then as it was.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    differing = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("other shape", differing))
    problems = [
        f"{kind}: {', '.join(first_few(names, _NAMES_SHOWN))}" for kind, names in kinds if names
    ]
    if problems:
        raise DpdmError(
            f"{source}: does not fit the network ({'; '.join(problems)}); "
            "use the settings that it was saved with"
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _reproducible(content: bytes) -> bytes:
    """The same file with its metadata in the order of keys: the writer's order is random."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the metadata and the tensors' names, types, shapes and bytes, in key order."""
    digest = hashlib.sha256()
    digest.update(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), tuple(tensor.shape)]).encode())
        whole = tensor.clone(
            memory_format=torch.contiguous_format
        )  # a stride of 0 has no bytes to view
        digest.update(whole.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, reason: str) -> DpdmError:
    reason = " ".join(reason.split())
    return DpdmError(f"{path}: damaged or not a safetensors file ({reason}); write or copy it anew")
