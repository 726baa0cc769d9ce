"""What a loss holds besides its arguments: what tells it from another, and rows of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

_DEPTH = 6
_NONE = (nn.Module, nn.Parameter, str, bytes, type, ModuleType, CodeType)


def parts_of(loss: Any) -> tuple[Any, ...]:
    """Of a ``partial``, a method or a function: its code, and arguments, object, closure, defaults
    that it holds."""
    if isinstance(loss, partial):
        return loss.func, loss.args, loss.keywords
    if isinstance(loss, MethodType):
        return loss.__func__, loss.__self__
    held = []
    for cell in loss.__closure__ or ():
        with suppress(ValueError):  # empty so far
            held.append(cell.cell_contents)
    return loss.__code__, held, loss.__defaults__, loss.__kwdefaults__


def holds_rows(loss: Any, rows: int) -> bool:
    """Whether a loss holds something with ``rows`` entries or more, which it may read row by row.

    Looked for in arguments of a ``partial``, closure, defaults, global variables that a function
    names, attributes of an object, and containers of these. Modules are none: their parameters and
    buffers do not go by rows.
    """
    seen = set[int]()

    def found(value: Any, depth: int) -> bool:
        if id(value) in seen or isinstance(value, _NONE):
            return False
        seen.add(id(value))
        if isinstance(value, Tensor | np.ndarray):
            return value.ndim > 0 and len(value) >= rows
        if isinstance(value, list | tuple | dict | set | range) and len(value) >= rows:
            return True
        return depth > 0 and any(found(inner, depth - 1) for inner in _inner(value))

    return found(loss, _DEPTH)


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value
    elif isinstance(value, partial | MethodType | FunctionType):
        yield from parts_of(value)
        if isinstance(value, FunctionType):
            names = _names(value.__code__)
            yield from (value.__globals__[name] for name in names if name in value.__globals__)
    else:
        yield from getattr(value, "__dict__", {}).values()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # a function within
            yield from _names(constant)
