"""Models that come with the program, by name: ``zoo:mnist-eps10``.

Each is a release folder in ``dpdm/zoo/``; beside it a card, ``NAME.json``, says what it was
measured to be worth, and ``NAME.png`` shows samples. ``benchmarks/zoo.py`` makes them of the runs
of ``benchmarks/recipes.py``.
"""

from __future__ import annotations

import difflib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from dpdm.errors import RequestError

PREFIX = "zoo:"


def zoo_names() -> tuple[str, ...]:
    """The names, without ``zoo:``, in alphabetical order."""
    return tuple(sorted(card.stem for card in zoo_root().glob("*.json")))


def zoo_release(name: str) -> Path:
    """The release folder of a model, given without ``zoo:``.

    Raises:
        RequestError: there is none of that name; the message has those that there are.
    """
    names = zoo_names()
    if name in names:
        return zoo_root() / name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
    known = ", ".join(PREFIX + known for known in names) or "none"
    raise RequestError(f"{PREFIX}{name}: no such model; this version has {known}{hint}")


def zoo_cards() -> dict[str, dict[str, Any]]:
    """By name: data, licence, epsilon, delta, accuracy in percent, and how it was made."""
    root = zoo_root()
    return {name: json.loads((root / f"{name}.json").read_text("utf-8")) for name in zoo_names()}


def zoo_root() -> Path:
    """Where they lie."""
    return Path(str(resources.files("dpdm") / "zoo"))
