"""Sweeps of the package: the tables of the paper, at its scale and at that of the digits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from dpdm.config import read_yaml
from dpdm.errors import DpdmError
from dpdm.sweep.grid import Grid


@dataclass(frozen=True)
class ReadySweep:
    """A sweep of the package.

    Attributes:
        name: its file's.
        about: one line.
        grid: what it varies.
        frechet: the features of its Frechet distance, one of ``dpdm.sweep.conduct.FRECHET``.
    """

    name: str
    about: str
    grid: Grid
    frechet: str


def ready_names() -> list[str]:
    """Names of the shipped sweeps."""
    folder = resources.files("dpdm") / "sweep" / "ready"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def ready_sweep(name: str) -> ReadySweep | None:
    """A shipped sweep by name, or None where there is none.

    Raises:
        DpdmError: its file is damaged.
    """
    if name not in ready_names():
        return None
    text = (resources.files("dpdm") / "sweep" / "ready" / f"{name}.yaml").read_text("utf-8")
    values: dict[str, Any] = read_yaml(text, f"{name}.yaml")
    try:
        return ReadySweep(
            name,
            values["about"],
            Grid(
                values.get("base", ""),
                tuple(f"{key}={json.dumps(v)}" for key, v in values.get("set", {}).items()),
                {key: tuple(listed) for key, listed in values["vary"].items()},
                int(values.get("seeds", 1)),
            ),
            values.get("frechet", "auto"),
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DpdmError(f"{name}.yaml: damaged; install dpdm again") from None
