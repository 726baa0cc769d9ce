"""What synthetic images are worth, and the pages that say so: classifiers, figures, the report."""

from dpdm.evaluation.classifiers import CLASSIFIER_NAMES
from dpdm.evaluation.content import ReportContent, Stage
from dpdm.evaluation.evaluate import AVAILABLE_METRICS, Evaluation, ProgressCallback, evaluate
from dpdm.evaluation.figures import png_bytes, sample_grid
from dpdm.evaluation.report import release_part, render_report

__all__ = [
    "AVAILABLE_METRICS",
    "CLASSIFIER_NAMES",
    "Evaluation",
    "ProgressCallback",
    "ReportContent",
    "Stage",
    "evaluate",
    "png_bytes",
    "release_part",
    "render_report",
    "sample_grid",
]
