"""What a promise per unit cannot be given for: modules refused by their type, at every call.

A layer that computes statistics over the batch lets one unit change another unit's loss, so that
clipping per-unit gradients bounds nothing (DESIGN.md, "The privacy boundary", rule 5). A layer that
stores statistics of the data in its buffers releases them without noise (rule 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from dpdm.errors import RequestError

_MIXES = "computes statistics over the batch, so that one unit changes another's loss"


class UnsupportedModuleError(RequestError):
    """A module whose per-unit gradients cannot be had, or that lets units influence each other.

    Attributes:
        paths: the dotted paths of the offending submodules, as in ``named_modules`` ("" is the
        module itself).
    """

    def __init__(self, message: str, paths: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


class NoRule(Exception):
    """Internal: a parameter is used without a per-unit rule, so another path must be taken."""

    def __init__(self, names: Iterable[str], use: str) -> None:
        self.names = tuple(names)
        self.use = use
        super().__init__(": ".join(filter(None, (", ".join(self.names), use))))


def described(module: nn.Module, path: str) -> str:
    """A submodule for a message: its dotted path and its type."""
    kind = type(module.get_submodule(path)).__name__
    return f"{path} ({kind})" if path else f"the module itself ({kind})"


def refused(module: nn.Module, reasons: Mapping[str, str]) -> UnsupportedModuleError:
    """One error that names every offending submodule: path -> what is wrong and what to do."""
    named = "; ".join(f"{described(module, path)} {reason}" for path, reason in reasons.items())
    return UnsupportedModuleError(
        f"no promise per unit can be given for this module: {named}", reasons
    )


def refuse_by_type(module: nn.Module) -> None:
    """Raise UnsupportedModuleError that names every submodule whose type alone rules it out."""
    reasons = {
        path: reason
        for path, submodule in module.named_modules()
        if (reason := _reason(submodule)) is not None
    }
    if reasons:
        raise refused(module, reasons)


def _reason(module: nn.Module) -> str | None:
    if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
        return "is not initialised yet: call it once on an example before training"
    if isinstance(module, _BatchNorm):
        return f"{_MIXES}: replace it by GroupNorm"
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return (
            "keeps running statistics of the data in its buffers: "
            "set track_running_stats=False or replace it by GroupNorm"
        )
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        if module.max_norm is not None:
            return "renormalises its weights by what the batch looks up: set max_norm=None"
        if module.scale_grad_by_freq:
            return "scales a gradient by counts over the batch: set scale_grad_by_freq=False"
    return None
