"""What the report's templates show, prepared: numbers as text, samples as pictures, charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dpdm.errors import RequestError
from dpdm.evaluation.charts import line_chart
from dpdm.evaluation.page_audit import AuditView, audit_view
from dpdm.evaluation.page_baseline import BaselineView, baseline_view
from dpdm.evaluation.page_beside import BesideView, beside_view
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
    evaluation_scope,
    per_class_table,
)
from dpdm.evaluation.page_memorisation import MemorisationView, memorisation_view
from dpdm.evaluation.page_pictures import (
    MOST_CLASSES,
    SampleRow,
    StagePanel,
    TrajectoryView,
    sample_rows,
    stage_panel,
    trajectory_view,
)
from dpdm.evaluation.page_statement import StatementView, statement_view
from dpdm.evaluation.text import (
    compact,
    quantity,
    readable_key,
    sentences,
    shape_text,
)

if TYPE_CHECKING:
    from dpdm.evaluation.content import ReportContent


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
    trajectory: TrajectoryView | None
    accuracies: tuple[AccuracyRow, ...]
    beside: BesideView | None
    per_class: PerClass | None
    confusion: Confusion | None
    baseline: BaselineView | None
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
        samples=sample_rows(content),
        sample_count=f"{count:,}",
        samples_note=(
            f"The first {shown} of {len(content.classes)} classes."
            if labelled and shown < len(content.classes)
            else ""
        ),
        sample_shape=f"({count}, {', '.join(str(side) for side in content.images.shape[1:])})",
        trajectory=(
            None
            if content.trajectory is None
            else trajectory_view(content.trajectory, content.classes)
        ),
        accuracies=accuracy_rows(evaluation),
        beside=beside_view(content),
        per_class=per_class_table(evaluation),
        confusion=confusion_view(evaluation),
        baseline=baseline_view(evaluation),
        comparison=comparison_view(evaluation),
        memorisation=(
            memorisation_view(evaluation["memorisation"]) if "memorisation" in evaluation else None
        ),
        evaluation_notes=sentences(evaluation.get("notes")),
        evaluation_scope=evaluation_scope(evaluation),
        stages=tuple(stage_panel(stage, content.classes) for stage in content.stages),
        charts=_charts(content.history, content.statement.get("planned_epsilon")),
        audit=None if content.audit is None else audit_view(content.audit),
        cost=tuple(
            (readable_key(key), quantity(key, value))
            for key, value in content.cost.items()
            if value is not None
        ),
        config=_config_groups(content.config),
    )


def _charts(history: Sequence[Mapping[str, Any]], planned: float | None) -> tuple[Chart, ...]:
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
        level=None if planned is None else (planned, f"planned: {planned:g}"),
        from_zero=True,
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
