"""The list of presets with what each one costs, at once: their noise was solved before."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

from dpdm.config.loading import load_config

NOISE_FILE = "noise.json"
"""In ``presets/``: sample rate and noise multiplier by name, as ``benchmarks/preset_noise.py``
writes them and ``tests/config/test_presets.py`` holds them to the solver."""


def preset_row(name: str) -> dict[str, Any]:
    """A preset with what it costs, at the size its data set is known to have.

    Where the data is the user's own, noise and sample rate are None: `dpdm plan` gives them.
    """
    config = load_config(name)
    return {
        "name": name,
        "about": config.about,
        "epsilon": config.privacy.epsilon,
        "delta": config.privacy.delta,
        "steps": config.training.steps,
        "batch_size": config.training.batch_size,
        "views": config.views.count,
        **_solved()[name],
        "image_passes": config.image_passes,
    }


@lru_cache(maxsize=1)
def _solved() -> dict[str, dict[str, float | None]]:
    text = (resources.files("dpdm") / "presets" / NOISE_FILE).read_text("utf-8")
    solved: dict[str, dict[str, float | None]] = json.loads(text)
    return solved
