"""What the report's template shows, prepared: numbers as text, samples as pictures, charts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dpdm.errors import RequestError
from dpdm.evaluation.charts import line_chart
from dpdm.evaluation.figures import png_bytes, sample_grid
from dpdm.evaluation.page_audit import AuditView, audit_view
from dpdm.evaluation.page_comparison import (
    ComparisonView,
    Confusion,
    comparison_view,
    confusion_view,
)
from dpdm.evaluation.page_evaluation import (
    AccuracyRow,
    PerClass,
    accuracy_rows,
    classifier_title,
    evaluation_scope,
    per_class_table,
)
from dpdm.evaluation.page_memorisation import MemorisationView, memorisation_view
from dpdm.evaluation.page_statement import StatementView, statement_view
from dpdm.evaluation.text import (
    compact,
    percent,
    quantity,
    readable_key,
    sentences,
    shape_text,
)

if TYPE_CHECKING:
    from dpdm.evaluation.content import ReportContent, Stage

COLUMNS = 12
STAGE_COLUMNS = 5
MOST_CLASSES = 40
"""Rows of samples beyond this are left out, and the page says so."""


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page."""

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class SampleRow:
    """The samples of one class, in two halves that stand side by side or, on a phone, stacked."""

    label: str | None
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class StagePanel:
    name: str
    description: str
    picture: Picture
    accuracies: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chart:
    title: str
    svg: Markup


@dataclass(frozen=True)
class Page:
    """Everything that the template reads."""

    private: bool
    title: str
    preset: str
    subtitle: str
    statement: StatementView
    labelled: bool
    samples: tuple[SampleRow, ...]
    sample_count: str
    samples_note: str
    sample_shape: str
    accuracies: tuple[AccuracyRow, ...]
    per_class: PerClass | None
    confusion: Confusion | None
    comparison: ComparisonView | None
    memorisation: MemorisationView | None
    evaluation_notes: tuple[str, ...]
    evaluation_scope: str
    stages: tuple[StagePanel, ...]
    charts: tuple[Chart, ...]
    audit: AuditView | None
    cost: tuple[tuple[str, str], ...]
    config: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def build_page(content: ReportContent, *, private: bool) -> Page:
    """Prepare the content for the template; see ``render_report``, which decides what is in it."""
    if len(content.images) == 0:
        raise RequestError("the report has no samples to show; sample at least one image first")
    count = content.sample_count if content.sample_count is not None else len(content.images)
    labelled = content.labels is not None and bool(content.classes)
    shape = shape_text(content.images.shape[1:])
    of_classes = f" of {len(content.classes)} classes" if labelled else ""
    evaluation = content.evaluation or {}
    shown = min(len(content.classes), MOST_CLASSES)
    return Page(
        private=private,
        title=content.title,
        preset=content.preset,
        subtitle=f"{count:,} synthetic images{of_classes}, {shape}",
        statement=statement_view(content.statement),
        labelled=labelled,
        samples=_sample_rows(content),
        sample_count=f"{count:,}",
        samples_note=(
            f"The first {shown} of {len(content.classes)} classes."
            if labelled and shown < len(content.classes)
            else ""
        ),
        sample_shape=f"({count}, {', '.join(str(side) for side in content.images.shape[1:])})",
        accuracies=accuracy_rows(evaluation),
        per_class=per_class_table(evaluation),
        confusion=confusion_view(evaluation),
        comparison=comparison_view(evaluation),
        memorisation=(
            memorisation_view(evaluation["memorisation"]) if "memorisation" in evaluation else None
        ),
        evaluation_notes=sentences(evaluation.get("notes")),
        evaluation_scope=evaluation_scope(evaluation),
        stages=tuple(_stage_panel(stage, content.classes) for stage in content.stages),
        charts=_charts(content.history),
        audit=None if content.audit is None else audit_view(content.audit),
        cost=tuple(
            (readable_key(key), quantity(key, value))
            for key, value in content.cost.items()
            if value is not None
        ),
        config=_config_groups(content.config),
    )


def picture(array: NDArray[np.uint8], alt: str) -> Picture:
    """An array as a PNG in a data URI."""
    uri = "data:image/png;base64," + base64.b64encode(png_bytes(array)).decode("ascii")
    return Picture(uri=uri, width=array.shape[1], height=array.shape[0], alt=alt)


def _sample_rows(content: ReportContent) -> tuple[SampleRow, ...]:
    images, labels = content.images, content.labels
    if labels is None or not content.classes:
        starts = range(0, min(len(images), 6 * COLUMNS), COLUMNS)
        return tuple(_sample_row(images[start : start + COLUMNS], None) for start in starts)
    return tuple(
        _sample_row(images[np.flatnonzero(labels == number)[:COLUMNS]], name)
        for number, name in enumerate(content.classes[:MOST_CLASSES])
    )


def _sample_row(images: NDArray[np.uint8], label: str | None) -> SampleRow:
    half = COLUMNS // 2
    pictures = []
    for part in (images[:half], images[half:]):
        if len(part):
            what = "synthetic image" if len(part) == 1 else "synthetic images"
            of_class = "" if label is None else f" of class {label}"
            grid = sample_grid(part, columns=half, background=None)
            pictures.append(picture(grid, f"{len(part)} {what}{of_class}"))
    return SampleRow(label=label, pictures=tuple(pictures))


def _stage_panel(stage: Stage, classes: tuple[str, ...]) -> StagePanel:
    labelled = stage.labels is not None and bool(classes)
    shown = classes[:MOST_CLASSES]
    images = stage.images if labelled else stage.images[: STAGE_COLUMNS * 8]
    grid = sample_grid(images, stage.labels, shown, STAGE_COLUMNS, background=None)
    rows = f", a row for each class: {', '.join(shown)}" if labelled else ""
    return StagePanel(
        name=stage.name,
        description=stage.description,
        picture=picture(grid, f"Samples of the stage {stage.name}{rows}"),
        accuracies=tuple(
            (classifier_title(name), percent(value))
            for name, value in (stage.accuracy or {}).items()
        ),
    )


def _charts(history: Sequence[Mapping[str, Any]]) -> tuple[Chart, ...]:
    charts = []
    phases = dict.fromkeys(str(entry.get("phase", "training")) for entry in history)
    for phase in phases:
        entries = [entry for entry in history if str(entry.get("phase", "training")) == phase]
        label = f"Loss against step, {phase}"
        svg = line_chart(_series(entries, "loss"), label=label, x_label="step", y_label="loss")
        charts.append(Chart(f"Loss, {phase}", svg))
    svg = line_chart(
        _series(history, "epsilon"),
        label="Epsilon spent against step",
        x_label="step",
        y_label="epsilon",
    )
    charts.append(Chart("Epsilon spent", svg))
    return tuple(chart for chart in charts if chart.svg)


def _series(entries: Iterable[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [
        (float(entry["step"]), float(entry[key])) for entry in entries if entry.get(key) is not None
    ]


def _config_groups(
    config: Mapping[str, Any],
) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    groups: dict[str, list[tuple[str, str]]] = {}
    for key, value in config.items():
        group, _, rest = key.partition(".")
        groups.setdefault(group if rest else "general", []).append((rest or group, compact(value)))
    return tuple((name, tuple(entries)) for name, entries in groups.items())
