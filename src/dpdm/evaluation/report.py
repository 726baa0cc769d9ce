"""The report: one self-contained HTML page about a run, with a private and a release version.

The release version is rendered from ``release_part`` of the content, which copies only what the
guarantee covers. What is private never reaches the template, whatever the template says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from dpdm.evaluation.page import build_page
from dpdm.evaluation.page_statement import MECHANISM_KEYS, STATEMENT_KEYS

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
    stages: tuple[Stage, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    """One mapping per recorded step: ``step``, ``loss``, ``epsilon`` (None where nothing is
    spent), ``phase``; private, because the losses are."""
    evaluation: Mapping[str, Any] | None = None
    """As ``dpdm.evaluation.Evaluation``; private."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    """Name to value, for example ``seconds``, ``image_passes``, ``device``; keys that end in
    ``seconds`` are shown as durations and those in ``bytes`` as sizes; private."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key to value, every one of them; private, because it names files."""


def release_part(content: ReportContent) -> ReportContent:
    """The part of the content that the guarantee covers: a copy by name of what is allowed.

    A field, or a key of the statement, that is not named here stays behind.
    """
    statement: dict[str, Any] = {
        key: value for key, value in content.statement.items() if key in STATEMENT_KEYS
    }
    if "mechanisms" in statement:
        statement["mechanisms"] = [
            {key: value for key, value in mechanism.items() if key in MECHANISM_KEYS}
            for mechanism in statement["mechanisms"]
        ]
    return ReportContent(
        title=content.title,
        preset=content.preset,
        statement=statement,
        images=content.images,
        labels=content.labels,
        classes=content.classes,
        sample_count=content.sample_count,
    )


def render_report(content: ReportContent, *, private: bool) -> str:
    """The report as one HTML page that loads nothing: styles, pictures and charts are inside it.

    private: False gives the version for ``release/``, made from ``release_part`` alone; True gives
    the whole, under a banner that it is not covered by the guarantee.
    Raises RequestError where there are no samples to show.
    """
    environment = Environment(
        loader=PackageLoader("dpdm.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = build_page(content if private else release_part(content), private=private)
    return environment.get_template("report.html.j2").render(page=page)
