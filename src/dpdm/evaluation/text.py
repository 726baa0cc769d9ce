"""Numbers and settings as text for people; an epsilon is never printed below its value."""

import json
import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
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


def percent_up(value: float) -> str:
    """A share that is an upper bound, rounded up to a tenth of a percent: 0.2718 as 27.2%."""
    exact = Decimal(repr(100 * float(value))).quantize(Decimal("1e-9"))
    return f"{exact.quantize(Decimal('0.1'), ROUND_CEILING):f}".removesuffix(".0") + "%"


def factor_text(epsilon: float) -> str:
    """e to the epsilon, rounded up: 1.23, 2.72, 22,027, 2.7 × 10⁴³."""
    if epsilon > 700:
        return "beyond any use"
    value = math.exp(epsilon)
    if value >= 1e6:
        exponent = math.floor(math.log10(value))
        return scientific(math.ceil(value / 10 ** (exponent - 1)) * 10.0 ** (exponent - 1))
    return f"{math.ceil(value):,}" if value >= 100 else f"{math.ceil(100 * value) / 100:.2f}"


def epsilon_text(value: Any) -> str:
    """As in ``PRIVACY.md``, rounded up: a printed epsilon is never below the true one."""
    return "none" if value is None or not math.isfinite(value) else at_most(value)


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def scientific(value: Any) -> str:
    """1e-05 as 10⁻⁵, 2.5e-06 as 2.5 × 10⁻⁶."""
    if value is None or not math.isfinite(value) or value <= 0:
        return "none" if value is None else f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if mantissa == "1" else f"{mantissa} × {power}"


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
