"""What images are compared by: networks and pixels as extractors of features."""

from dpdm.evaluation.features.choice import Choice, choose
from dpdm.evaluation.features.extractor import Extractor, FeatureSet, extract, probabilities
from dpdm.evaluation.features.inception import INCEPTION_ABSENT, find_inception
from dpdm.evaluation.features.pixels import PIXELS

__all__ = [
    "INCEPTION_ABSENT",
    "PIXELS",
    "Choice",
    "Extractor",
    "FeatureSet",
    "choose",
    "extract",
    "find_inception",
    "probabilities",
]
