"""What is varied: ``--vary`` in, the cells of the grid out.

A cell is one combination of values with one seed. Cells that differ only in how they sample share a
training: the private data is used once for all of them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpdm.config import Config, flatten, load_config, read_yaml
from dpdm.errors import RequestError

PRESET = "preset"
"""Varied in place of a configuration key: the base of a cell, by a preset's name."""

SETTINGS = "settings"
"""Likewise: the sampler settings of a cell, by name (``sampling.alternatives``)."""

ALTERNATIVES = "sampling.alternatives"
"""The key of the sampler settings that have a name."""

_ALIASES = {"sampler": "sampling.sampler"}
_REFUSED = {
    "training.seed": "--seeds N repeats every cell with seeds of its own",
    "privacy.unit": "what cells of different units spend does not add up; sweep each on its own",
    "privacy.ledger": "one ledger holds what all cells spend; give it with --set",
    ALTERNATIVES: f"vary {SETTINGS}=NAME,NAME, by the names that the configuration gives them",
    "name": "a run's name changes nothing that could be measured",
    "about": "a run's description changes nothing that could be measured",
}
_REFUSED_SECTIONS = {
    "data": "cells on different data cannot be compared; sweep each data set into its own --out",
    "evaluation": "cells that are measured differently cannot be compared; use --set",
}
_LONGEST_NAME = 120

Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Grid:
    """A request.

    Attributes:
        source: a preset or a configuration file; unused where ``preset`` is varied.
        settings: ``key=value`` for every cell.
        vary: for each key, in the order of the table's columns, its values.
        seeds: repeats of every cell; they are numbered on from ``training.seed``.
    """

    source: str
    settings: tuple[str, ...]
    vary: Mapping[str, tuple[Any, ...]]
    seeds: int

    @property
    def sources(self) -> tuple[str, ...]:
        """The presets or files on which cells are based."""
        return tuple(str(name) for name in self.vary.get(PRESET, (self.source,)))


@dataclass(frozen=True)
class Cell:
    """One combination of values with one seed.

    Attributes:
        values: (key, value) of everything that is varied, as the configuration holds it.
        seed: its ``training.seed``.
        config: all of its settings.
        training: the same with the sampling of the base: what cells that share a training share.
    """

    values: Values
    seed: int
    config: Config
    training: Config

    @property
    def name(self) -> str:
        """What it is called in tables, messages and results."""
        return _name(self.values, self.seed)

    @property
    def training_name(self) -> str:
        """The folder of its training."""
        return _name(self.training_values, self.seed)

    @property
    def sampling_name(self) -> str:
        """Which of the samplings of its training it is; "" where sampling is not varied."""
        return _name([pair for pair in self.values if _is_sampling(pair[0])])

    @property
    def training_values(self) -> Values:
        """The values that its training depends on."""
        return tuple(pair for pair in self.values if not _is_sampling(pair[0]))


def parse_vary(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """``views.count=1,2`` to key and values; values are a YAML list without its brackets.

    So a value that is itself a list has its own: ``network.multipliers=[1,1],[1,2,2]``.

    Raises:
        RequestError: no key, no value, a key given twice.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        shown = f"--vary {' '.join(text.split())}"
        key, separator, listed = text.partition("=")
        key = _ALIASES.get(key.strip(), key.strip())
        values = read_yaml(f"[{listed}]", shown) if separator and key else None
        if not isinstance(values, list) or not values:
            raise RequestError(f"{shown}: expected key=value,value, for example views.count=1,4")
        if key in found:
            raise RequestError(f"{shown}: {key} is given twice; give all of its values at once")
        found[key] = tuple(values)
    return found


def expand(grid: Grid) -> tuple[Cell, ...]:
    """Every cell, all of the first seed before the next; equal ones once.

    Raises:
        RequestError: a key that is unknown or may not be varied, a value that is wrong.
    """
    for key in grid.vary:
        why = _REFUSED.get(key) or _REFUSED_SECTIONS.get(key.partition(".")[0])
        if why is not None:
            raise RequestError(f"--vary {key}: {why}")
    cells: dict[str, Cell] = {}
    for number in range(grid.seeds):
        for values in itertools.product(*grid.vary.values()):
            cell = _cell(grid, dict(zip(grid.vary, values, strict=True)), number)
            cells.setdefault(cell.name, cell)
    return tuple(cells.values())


def base_of(grid: Grid, source: str) -> Config:
    """The settings from which the cells of a source depart."""
    return load_config(source, grid.settings)


def _cell(grid: Grid, values: Mapping[str, Any], number: int) -> Cell:
    source = str(values.get(PRESET, grid.source))
    base = base_of(grid, source)
    seed = base.training.seed + number
    changes = [] if SETTINGS not in values else _alternative(base, source, values[SETTINGS])
    keys = [key for key in values if key not in (PRESET, SETTINGS)]
    changes += [(key, values[key]) for key in keys]
    config = load_config(
        source,
        [*grid.settings, *(_setting(*change) for change in changes), f"training.seed={seed}"],
    )
    flat = flatten(config)
    for key in keys:
        if key not in flat:
            raise RequestError(f"--vary {key}: is not a key with a value; `dpdm presets NAME`")
    return Cell(
        tuple((key, flat.get(key, value)) for key, value in values.items()),
        seed,
        config,
        config.model_copy(update={"sampling": base.sampling}),
    )


def _alternative(base: Config, source: str, name: Any) -> list[tuple[str, Any]]:
    """The named sampler settings of a configuration as (key, value)."""
    known = base.sampling.alternatives
    if name not in known:
        raise RequestError(
            f"--vary {SETTINGS}={name}: {source} has no sampling.alternatives of that name; it "
            f"has: {', '.join(known) or 'none'}"
        )
    return list(flatten(known[name], "sampling.").items())


def _setting(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value, default=str)}"


def _is_sampling(key: str) -> bool:
    return key == SETTINGS or key.startswith("sampling.")


def value_text(value: Any) -> str:
    """A value as people write it: 10, 0.2, true, null, v, [1,2]."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _name(values: Sequence[tuple[str, Any]], seed: int | None = None) -> str:
    """``views.count=8_seed=0``: what differs, fit for the name of a folder."""
    parts = [f"{key}={value_text(value)}" for key, value in values]
    whole = "_".join(parts if seed is None else [*parts, f"seed={seed}"])
    name = re.sub(r"[^\w.=+\-]", "-", whole)
    if name == whole and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}~{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
