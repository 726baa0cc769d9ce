"""The evaluation as the report shows it: accuracies, their spread, and the class served worst."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpdm.evaluation.text import percent

MOST_ROWS = 40

_CLASSIFIERS = {
    "lr": ("Logistic regression", "on pixels"),
    "mlp": ("MLP", "one hidden layer of 100"),
    "cnn": ("CNN", "three convolutions"),
    "resnet": ("ResNet", "six residual blocks"),
    "wrn": ("Wide ResNet", "three wide residual blocks"),
}


@dataclass(frozen=True)
class AccuracyRow:
    name: str
    detail: str
    text: str
    percent: float
    spread: str | None


@dataclass(frozen=True)
class PerClass:
    """Accuracy within each class: one column per classifier, one row per class."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    weakest: str


def accuracy_rows(evaluation: Mapping[str, Any]) -> tuple[AccuracyRow, ...]:
    """One row per classifier of ``evaluation["accuracy"]``."""
    spreads = evaluation.get("accuracy_spread") or {}
    rows = []
    for name, value in (evaluation.get("accuracy") or {}).items():
        title, detail = _CLASSIFIERS.get(name, (name, ""))
        spread = f"± {100 * spreads[name]:.1f}" if name in spreads else None
        rows.append(AccuracyRow(title, detail, percent(value), 100 * float(value), spread))
    return tuple(rows)


def per_class_table(evaluation: Mapping[str, Any]) -> PerClass | None:
    """``evaluation["per_class"]`` as a table; of more than 40 classes, the 40 served worst."""
    per_class: Mapping[str, Mapping[str, float]] = evaluation.get("per_class") or {}
    if not per_class:
        return None
    best = max(per_class, key=lambda name: evaluation.get("accuracy", {}).get(name, 0.0))
    labels = list(per_class[best])
    weakest = min(labels, key=lambda label: per_class[best][label])
    if len(labels) > MOST_ROWS:
        labels = sorted(labels, key=lambda label: per_class[best][label])[:MOST_ROWS]
    rows = tuple(
        (label, tuple(percent(per_class[name].get(label)) for name in per_class))
        for label in labels
    )
    sentence = (
        f"Served worst by the {classifier_title(best)}: class {weakest}, "
        f"{percent(per_class[best][weakest])}."
    )
    return PerClass(
        columns=tuple(classifier_title(name) for name in per_class),
        rows=rows,
        weakest=sentence,
    )


def evaluation_scope(evaluation: Mapping[str, Any]) -> str:
    """What the numbers were measured on, in a sentence; empty where that is not recorded."""
    synthetic, test = evaluation.get("synthetic_images"), evaluation.get("test_images")
    if synthetic is None or test is None:
        return ""
    seeds = int(evaluation.get("seeds", 1))
    return (
        f"Trained on {synthetic:,} synthetic images, tested on {test:,} real ones, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}."
    )


def classifier_title(name: str) -> str:
    """The name of a classifier for people."""
    return _CLASSIFIERS.get(name, (name, ""))[0]
