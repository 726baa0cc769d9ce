"""Distances, balance and confusion as the private report shows them: text in tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dpdm.evaluation.page_evaluation import MOST_ROWS, classifier_title
from dpdm.evaluation.text import percent

_MEANINGS = {
    "precision": "synthetic images that look like real ones",
    "recall": "real images that the synthetic ones could be",
    "density": "how deep the synthetic images lie among the real ones; 1 is as deep as these",
    "coverage": "real images with a synthetic one nearby",
}


@dataclass(frozen=True)
class Measure:
    name: str
    meaning: str
    text: str


@dataclass(frozen=True)
class ClassTable:
    """One row per class: its name and a text for each column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    note: str


@dataclass(frozen=True)
class Confusion:
    """Test images by class and prediction."""

    classifier: str
    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Class, then for every prediction how many, and ``right``, ``none`` or ``wrong``."""


@dataclass(frozen=True)
class ComparisonView:
    """What the template shows of distances and classes; every entry is text."""

    measures: tuple[Measure, ...]
    features: tuple[tuple[str, str], ...]
    by_class: ClassTable | None
    worse: tuple[str, ...]


def comparison_view(evaluation: Mapping[str, Any]) -> ComparisonView | None:
    """Prepares an evaluation; None where it has neither distances nor figures of classes."""
    measures, by_class = tuple(_measures(evaluation)), _class_table(evaluation)
    if not measures and by_class is None:
        return None
    return ComparisonView(
        measures=measures,
        features=tuple((evaluation.get("features") or {}).items()),
        by_class=by_class,
        worse=tuple(
            f"Class {entry['class']} is served worse, beyond chance: {entry['by']} "
            f"{percent(entry['share'])}, all classes {percent(entry['overall'])}."
            for entry in evaluation.get("served_worse") or ()
        ),
    )


def confusion_view(evaluation: Mapping[str, Any]) -> Confusion | None:
    """``evaluation["confusion"]`` for the template; None where there is none to show."""
    found = evaluation.get("confusion")
    if not found or len(found["classes"]) > MOST_ROWS:
        return None
    rows = tuple(
        (
            name,
            tuple((f"{count:,}", _kind(row, column, count)) for column, count in enumerate(line)),
        )
        for row, (name, line) in enumerate(zip(found["classes"], found["counts"], strict=True))
    )
    return Confusion(classifier_title(found["classifier"]), tuple(found["classes"]), rows)


def _kind(row: int, column: int, count: int) -> str:
    if row == column:
        return "right"
    return "wrong" if count else "none"


def _measures(evaluation: Mapping[str, Any]) -> Iterator[Measure]:
    for key, value in evaluation.items():
        if key.endswith("_spread"):
            continue
        name = key.upper() if key in ("fid", "kid", "is") else key
        if key == "fid" or key.startswith("fd-"):
            yield Measure(name, "Frechet distance", f"{value:.4g}")
        elif key == "kid" or key.startswith("kd-"):
            text = f"{value:.3g} ± {evaluation[f'{key}_spread']:.2g}"
            yield Measure(name, "kernel distance, spread over subsets", text)
        elif key == "is":
            text = f"{value:.3g} ± {evaluation['is_spread']:.2g}"
            yield Measure(name, "Inception score, spread over splits", text)
    for key, meaning in _MEANINGS.items():
        if key in evaluation:
            value = evaluation[key]
            name = f"{key} ({evaluation['prdc_features']})"
            text = f"{value:.2f}" if key == "density" else percent(value)
            yield Measure(name, meaning, text)


_COLUMNS = {
    "asked": "Asked for",
    "predicted": "Predicted",
    "agreement": "Agree",
    "coverage": "Coverage",
    "fid": "FID",
}


def _class_table(evaluation: Mapping[str, Any]) -> ClassTable | None:
    classes: Mapping[str, Mapping[str, Any]] = evaluation.get("classes") or {}
    if not classes:
        return None
    keys = list(dict.fromkeys(key for entry in classes.values() for key in entry))
    shown = list(classes)[:MOST_ROWS]
    cut = f" The first {len(shown)} of {len(classes)} classes." if len(shown) < len(classes) else ""
    return ClassTable(
        columns=tuple(_COLUMNS.get(key, key) for key in keys),
        rows=tuple(
            (name, tuple(_cell(key, classes[name].get(key)) for key in keys)) for name in shown
        ),
        note=(
            "Predicted by a CNN that was trained on real test images; on others of these it is "
            f"right for {percent(evaluation.get('judge_accuracy'))}.{cut}"
        ),
    )


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if key in ("agreement", "coverage"):
        return percent(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
