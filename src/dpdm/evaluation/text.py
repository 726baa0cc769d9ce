"""Numbers and settings as text for people; an epsilon is never printed below its value."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpdm.promise.wording import at_most


def shape_text(shape: Sequence[int]) -> str:
    height, width, channels = shape
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    return f"{height}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{width}, {colour}"


def sentences(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = value.splitlines() if isinstance(value, str) else [str(part) for part in value]
    return tuple(part.strip() for part in parts if part.strip())


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * float(value):.1f}%"


def epsilon_text(value: Any) -> str:
    """As in ``PRIVACY.md``, rounded up: a printed epsilon is never below the true one."""
    return "none" if value is None or not math.isfinite(value) else at_most(value)


def compact(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "–"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str)
    return str(value)


def readable_key(key: str) -> str:
    text = key.replace("_", " ").strip()
    for unit in (" seconds", " bytes"):
        text = text.removesuffix(unit)
    known = {"seconds": "Time", "bytes": "Size", "dp sgd steps": "DP-SGD steps"}
    return known.get(text, text[:1].upper() + text[1:]).replace("gpu", "GPU")


def quantity(key: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if key.endswith("seconds"):
            return duration(float(value))
        if key.endswith("bytes"):
            return f"{value / 2**20:,.1f} MiB"
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return compact(value)


def duration(seconds: float) -> str:
    """0.42 s, 12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
