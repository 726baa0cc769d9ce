"""What per-unit gradients come as, and as few matrices for a GPU, where every call has its price.

A large gradient is taken as (U, entries) in the order in which it lies in memory; the small ones,
which are most of them and next to nothing together, become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_SMALL = 2**12
"""Entries of a gradient that is copied together with others."""

_TOGETHER = ""
"""The name of the small ones' part, which no parameter has."""


class OuterProducts(NamedTuple):
    """Per-unit gradients of a linear map, not multiplied out: unit u's is sum_m left_um right_um^T.

    Attributes:
        left: (U, M, a), inputs of the map.
        right: (U, M, b), gradients of the loss with respect to its outputs.
    """

    left: Tensor
    right: Tensor


PerUnit = Tensor | OuterProducts
"""(U, *shape) of a parameter, or its factors."""


def packs(gradient: Tensor) -> bool:
    """Whether a gradient is packed, or left as it is."""
    return gradient.is_cuda


class _Place(NamedTuple):
    part: str
    entries: slice
    order: tuple[int, ...]  # dimensions of the parameter from the outermost in memory
    sizes: tuple[int, ...]  # in that order


class Packed:
    """Gradients in ``parts``, each (U, *shape), its factors, or one or several as (U, entries).

    What is found for a part and has its shape without U is taken apart by ``by_name``.
    """

    def __init__(self, gradients: Mapping[str, PerUnit]) -> None:
        self.parts: dict[str, PerUnit] = {}
        self._places: dict[str, _Place | None] = {}  # None for what was left as it is
        small, begins = list[Tensor](), 0
        for name, gradient in gradients.items():
            if not isinstance(gradient, Tensor) or not packs(gradient):
                self.parts[name], self._places[name] = gradient, None
                continue
            order = tuple(sorted(range(1, gradient.ndim), key=gradient.stride, reverse=True))
            turned = gradient.permute(0, *order)
            rows = turned.reshape(len(gradient), -1)
            part, place, entries = name, slice(None), rows.shape[1]
            if entries < _SMALL:
                part, place = _TOGETHER, slice(begins, begins + entries)
                small.append(rows)
                begins += entries
            else:
                self.parts[name] = rows
            order = tuple(d - 1 for d in order)
            self._places[name] = _Place(part, place, order, tuple(turned.shape[1:]))
        if small:
            self.parts[_TOGETHER] = torch.cat(small, dim=1)

    def by_name(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was found for each of ``parts``, by the names and in the shapes of the gradients."""
        taken = dict[str, Tensor]()
        for name, place in self._places.items():
            if place is None:
                taken[name] = found[name]
                continue
            own = found[place.part][place.entries].view(place.sizes)
            back = sorted(range(len(place.order)), key=place.order.__getitem__)
            taken[name] = own.permute(back).contiguous()
        return taken
