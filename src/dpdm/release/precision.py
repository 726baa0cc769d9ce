"""Where a network computes: device, precision of its matrix products, layout of its weights."""

from __future__ import annotations

import torch
from torch import nn

from dpdm.config import Precision
from dpdm.diffusion.denoiser import Denoiser
from dpdm.errors import RequestError


def resolve_device(device: str | torch.device | None) -> torch.device:
    """``auto`` is a GPU where there is one; None is the CPU.

    Raises:
        RequestError: no device of that name, or none that dpdm computes on, or it is not there.
    """
    there = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if there else "cpu")
    try:
        found = torch.device(device or "cpu")
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise RequestError(f"--device {device}: use auto, cpu or cuda")
    if found.type == "cuda" and not there:
        raise RequestError(f"--device {device}: no CUDA device is available; use auto or cpu")
    return found


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """What the network runs in under autocast; None for the precision of its weights, float32.

    ``auto`` is bfloat16 where the device has instructions for it, float32 elsewhere: emulated it is
    slower.
    """
    low = _computes_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return torch.bfloat16 if low else None


def place(denoiser: nn.Module, device: torch.device) -> None:
    """Moves a denoiser. On a GPU the channels of its network's weights lie innermost, as the matrix
    units read them, and activations follow."""
    denoiser.to(device)
    if isinstance(denoiser, Denoiser):
        innermost = device.type == "cuda"
        layout = torch.channels_last if innermost else torch.contiguous_format
        denoiser.network.to(memory_format=layout)  # type: ignore[call-overload]


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    ask = getattr(torch.cpu, "get_capabilities", None)  # absent from older versions of torch
    capabilities = ask() if ask else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
