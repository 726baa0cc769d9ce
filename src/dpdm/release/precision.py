"""The precision of the network's matrix products on a device."""

from __future__ import annotations

import torch

from dpdm.config import Precision


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """What the network runs in under autocast; None for the precision of its weights, float32.

    ``auto`` is bfloat16 where the device has instructions for it, float32 elsewhere: emulated it is
    slower.
    """
    low = _computes_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return torch.bfloat16 if low else None


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    ask = getattr(torch.cpu, "get_capabilities", None)  # absent from older versions of torch
    capabilities = ask() if ask else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
