"""What a report can show, private and public facts alike; ``report`` says which side gets what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dpdm.diffusion.trajectory import Trajectory

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stage:
    """Samples of one stage of a run, for example the prior alone, to be seen beside the others."""

    name: str
    description: str
    images: Images
    """uint8 (N, H, W, C)."""
    labels: Labels | None = None
    accuracy: Mapping[str, float] | None = None
    """Accuracy on real test images by classifier, as in ``Evaluation``; private."""


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Everything a report can show. ``release_part`` says which fields the release side gets."""

    title: str
    """Heading of both versions; must come from public facts, and from no path or file name."""
    preset: str
    """Name of the preset or config; shown in both versions."""
    statement: Mapping[str, Any]
    """As ``dpdm privacy statement --json`` prints it; optionally with ``in_words``, text or a list
    of paragraphs, in place of the report's own words for epsilon."""
    images: Images
    """Released samples, uint8 (N, H, W, C); the first dozen of each class are shown."""
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    sample_count: int | None = None
    """Number of images in ``samples.npz``; None: as many as given here."""
    trajectory: Trajectory | None = None
    """Images on their way from noise, drawn from the release's model alone; in both versions."""
    data: str = ""
    """Title of the real data set, by which published figures are found; private."""
    stages: tuple[Stage, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    """One mapping per recorded step: ``step``, ``loss``, ``epsilon`` (None where nothing is
    spent), ``phase``; private, because the losses are."""
    evaluation: Mapping[str, Any] | None = None
    """As ``dpdm.evaluation.Evaluation``, and ``baseline`` where classifiers were trained with
    DP-SGD on the real images (``epsilon``, ``accuracy``); private."""
    audit: Mapping[str, Any] | None = None
    """As ``dpdm privacy audit --json`` prints it; private."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    """Name to value, for example ``seconds``, ``image_passes``, ``device``; keys that end in
    ``seconds`` are shown as durations and those in ``bytes`` as sizes; private."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key to value, every one of them; private, because it names files."""
