"""What synthetic images are worth, and the pages that say so: metrics, figures, the report."""

from dpdm.evaluation.checks import AVAILABLE_METRICS
from dpdm.evaluation.classifiers import CLASSIFIER_NAMES
from dpdm.evaluation.content import ReportContent, Stage
from dpdm.evaluation.evaluate import (
    DEFAULT_METRICS,
    Evaluation,
    ProgressCallback,
    added,
    evaluate,
    without_pictures,
)
from dpdm.evaluation.figures import png_bytes, sample_grid
from dpdm.evaluation.report import release_part, render_report

__all__ = [
    "AVAILABLE_METRICS",
    "CLASSIFIER_NAMES",
    "DEFAULT_METRICS",
    "Evaluation",
    "ProgressCallback",
    "ReportContent",
    "Stage",
    "added",
    "evaluate",
    "png_bytes",
    "release_part",
    "render_report",
    "sample_grid",
    "without_pictures",
]
