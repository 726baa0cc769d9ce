"""Our figures beside those of baselines and of the paper: plots that are tables, marks by shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpdm.evaluation.page_evaluation import classifier_title
from dpdm.evaluation.published import SOURCE, Published, published_figures
from dpdm.evaluation.text import epsilon_text, percent

if TYPE_CHECKING:
    from dpdm.evaluation.content import ReportContent

OURS, EARLIER, BASELINE, PAPER, PAPER_BASELINE = "●", "○", "■", "△", "□"
"""Marks of a plot: these samples, earlier stages, our DP-SGD, the paper's samples, its DP-SGD."""


@dataclass(frozen=True)
class Mark:
    """One row of a plot: who, how much, and where that lies from 0 (left) to 100."""

    name: str
    shape: str
    text: str
    place: float


@dataclass(frozen=True)
class Plot:
    """A measure by several methods, over one axis that all plots of a view share."""

    title: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class BesideView:
    """What the template shows; ``axis`` is the text of both ends."""

    plots: tuple[Plot, ...]
    axis: tuple[str, str]
    fid: Plot | None
    fid_axis: tuple[str, str]
    notes: tuple[str, ...]


_Row = tuple[str, str, Mapping[str, float], float | None]


def beside_view(content: ReportContent) -> BesideView | None:
    """The figures of ``content.evaluation`` beside all others there are; None without others."""
    evaluation = content.evaluation or {}
    epsilon = _epsilon(content.statement)
    published = published_figures(content.data, epsilon) if epsilon is not None else ()
    rows = list(_rows(content, evaluation, published))
    if len(rows) < 2 or not evaluation.get("accuracy"):
        return None
    lowest = min(value for _, _, accuracy, _ in rows for value in accuracy.values())
    low = max(0.0, math.floor(10 * lowest - 0.2) / 10)
    plots = tuple(
        Plot(
            classifier_title(key),
            tuple(
                Mark(name, shape, percent(values[key]), 100 * (values[key] - low) / (1 - low))
                for name, shape, values, _ in rows
                if key in values
            ),
        )
        for key in evaluation["accuracy"]
    )
    distances = [(name, shape, fid) for name, shape, _, fid in rows if fid is not None]
    most = max((fid for _, _, fid in distances), default=0.0)
    return BesideView(
        plots=tuple(plot for plot in plots if len(plot.marks) > 1),
        axis=(f"{100 * low:.0f}%", "100%"),
        fid=None
        if len(distances) < 2 or "fid" not in evaluation
        else Plot(
            "FID",
            tuple(
                Mark(name, shape, f"{fid:.4g}", 100 * fid / most) for name, shape, fid in distances
            ),
        ),
        fid_axis=("0", f"{most:.4g}"),
        notes=tuple(_notes(evaluation, published)),
    )


def _epsilon(statement: Mapping[str, Any]) -> float | None:
    value = statement.get("epsilon") if statement.get("private") is True else None
    return None if value is None else float(value)


def _rows(
    content: ReportContent, evaluation: Mapping[str, Any], published: tuple[Published, ...]
) -> Iterator[_Row]:
    """Who, mark, accuracy by classifier, FID."""
    yield "These images", OURS, evaluation.get("accuracy") or {}, evaluation.get("fid")
    for stage in content.stages[:-1]:
        if stage.accuracy:
            yield stage.name, EARLIER, stage.accuracy, None
    baseline = evaluation.get("baseline")
    if baseline:
        name = f"DP-SGD on real images, ε\N{NO-BREAK SPACE}{epsilon_text(baseline['epsilon'])}"
        yield name, BASELINE, baseline["accuracy"], None
    for row in published:
        shape = PAPER if row.fid is not None else PAPER_BASELINE
        name = f"Paper: {row.method}, ε\N{NO-BREAK SPACE}{row.epsilon:g}"
        yield name, shape, row.accuracy, row.fid


def _notes(evaluation: Mapping[str, Any], published: tuple[Published, ...]) -> Iterator[str]:
    if evaluation.get("baseline"):
        yield (
            "DP-SGD on real images: the same classifiers, trained here on the real images under "
            "differential privacy, without synthetic ones."
        )
    if published:
        tables = " and ".join(dict.fromkeys(row.table for row in published))
        yield (
            f"Paper: published, not measured here. {SOURCE}, {tables}, at its epsilon "
            f"{published[0].epsilon:g} and delta 1e-5, on its own split and with its own training."
        )
