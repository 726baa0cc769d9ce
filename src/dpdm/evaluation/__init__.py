"""What synthetic images are worth, and the pages that say so: metrics, figures, the report."""

from dpdm.evaluation.baselines import Baseline, baseline_note
from dpdm.evaluation.checks import AVAILABLE_METRICS
from dpdm.evaluation.classification import Selection
from dpdm.evaluation.classifiers import AVAILABLE_CLASSIFIERS, CLASSIFIER_NAMES
from dpdm.evaluation.content import ReportContent, Stage
from dpdm.evaluation.evaluate import (
    DEFAULT_METRICS,
    Evaluation,
    added,
    evaluate,
    without_pictures,
)
from dpdm.evaluation.figures import png_bytes, sample_grid
from dpdm.evaluation.progress import ProgressCallback
from dpdm.evaluation.report import release_part, render_report

__all__ = [
    "AVAILABLE_CLASSIFIERS",
    "AVAILABLE_METRICS",
    "CLASSIFIER_NAMES",
    "DEFAULT_METRICS",
    "Baseline",
    "Evaluation",
    "ProgressCallback",
    "ReportContent",
    "Selection",
    "Stage",
    "added",
    "baseline_note",
    "evaluate",
    "png_bytes",
    "release_part",
    "render_report",
    "sample_grid",
    "without_pictures",
]
