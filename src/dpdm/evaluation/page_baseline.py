"""An evaluation's baseline as the private report shows it: text in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpdm.evaluation.page_evaluation import classifier_title
from dpdm.evaluation.text import percent
from dpdm.promise.wording import at_most


@dataclass(frozen=True)
class BaselineView:
    """What the template shows beside the accuracies; every entry is text."""

    epsilon: str
    delta: str
    composed: str
    ledgers: str
    rows: tuple[tuple[str, str, str, str], ...]
    """Classifier, on synthetic images, with DP-SGD on real ones, difference in points."""


def baseline_view(evaluation: Mapping[str, Any]) -> BaselineView | None:
    """``evaluation["baseline"]`` for the template; None where there is none."""
    found = evaluation.get("baseline")
    if not found:
        return None
    own, spread = evaluation.get("accuracy") or {}, evaluation.get("accuracy_spread") or {}
    return BaselineView(
        epsilon=f"{found['epsilon']:g}",
        delta=f"{found['delta']:g}",
        composed=at_most(found["epsilon_composed"]),
        ledgers=str(found["ledgers"]),
        rows=tuple(
            (
                classifier_title(name),
                _cell(own.get(name), spread.get(name)),
                _cell(value, (found.get("accuracy_spread") or {}).get(name)),
                f"{100 * (own[name] - value):+.1f}" if name in own else "–",
            )
            for name, value in found["accuracy"].items()
        ),
    )


def _cell(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return percent(value) if spread is None else f"{percent(value)} ± {100 * spread:.1f}"
