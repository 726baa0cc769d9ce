"""Samples, stages and trajectories as the report shows them: pictures inside the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpdm.evaluation.figures import png_bytes, sample_grid
from dpdm.evaluation.page_evaluation import classifier_title
from dpdm.evaluation.text import percent

if TYPE_CHECKING:
    from dpdm.diffusion.trajectory import Trajectory
    from dpdm.evaluation.content import ReportContent, Stage

COLUMNS = 12
STRIP = 3
STAGE_COLUMNS = 5
STAGE_ROWS = 8
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
    """The samples of one class, in strips that stand side by side or wrap."""

    label: str | None
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class StagePanel:
    """Samples of one stage and what they were worth."""

    name: str
    description: str
    picture: Picture
    accuracies: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TrajectoryView:
    """Images on their way from noise: one strip for each."""

    levels: tuple[str, ...]
    rows: tuple[tuple[str | None, Picture], ...]
    sampler: str
    steps: int
    shortcut: bool
    from_prior: bool


def picture(array: NDArray[np.uint8], alt: str) -> Picture:
    """An array as a PNG in a data URI."""
    uri = "data:image/png;base64," + base64.b64encode(png_bytes(array)).decode("ascii")
    return Picture(uri=uri, width=array.shape[1], height=array.shape[0], alt=alt)


def sample_rows(content: ReportContent) -> tuple[SampleRow, ...]:
    """A row of samples for each class; without classes, rows in the samples' order."""
    images, labels = content.images, content.labels
    if labels is None or not content.classes:
        starts = range(0, min(len(images), 6 * COLUMNS), COLUMNS)
        return tuple(
            SampleRow(None, tuple(_strips(images[start : start + COLUMNS], start, None)))
            for start in starts
        )
    return tuple(
        SampleRow(name, tuple(_strips(images[np.flatnonzero(labels == number)[:COLUMNS]], 0, name)))
        for number, name in enumerate(content.classes[:MOST_CLASSES])
    )


def _strips(images: NDArray[np.uint8], before: int, label: str | None) -> Iterator[Picture]:
    of_class = "" if label is None else f" of class {label}"
    for start in range(0, len(images), STRIP):
        part = images[start : start + STRIP]
        grid = sample_grid(part, columns=STRIP, background=None)
        first, last = before + start + 1, before + start + len(part)
        number = f"image {first}" if first == last else f"images {first} to {last}"
        yield picture(grid, f"Synthetic {number}{of_class}")


def stage_panel(stage: Stage, classes: tuple[str, ...]) -> StagePanel:
    """A few samples of a stage, with its accuracies."""
    labelled = stage.labels is not None and bool(classes)
    shown = classes[:MOST_CLASSES]
    images = stage.images if labelled else stage.images[: STAGE_COLUMNS * STAGE_ROWS]
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


def trajectory_view(found: Trajectory, classes: tuple[str, ...]) -> TrajectoryView:
    """One strip for each image of a trajectory, its frames side by side."""
    rows = []
    for index, label in enumerate(found.labels.tolist()):
        name = classes[label] if 0 <= label < len(classes) else None
        what = "an image" if name is None else f"an image of class {name}"
        strip = sample_grid(found.frames[:, index], columns=len(found.frames), background=None)
        alt = f"{len(found.frames)} frames from noise, left, to {what}, right"
        rows.append((name, picture(strip, alt)))
    return TrajectoryView(
        levels=tuple(f"{level:.2g}" for level in found.sigmas),
        rows=tuple(rows),
        sampler=found.sampler,
        steps=found.steps,
        shortcut=found.shortcut,
        from_prior=found.from_prior,
    )
