"""The downstream classifiers, trained on synthetic images only."""

from dpdm.evaluation.classifiers.kept import ClassifierStore, Kept
from dpdm.evaluation.classifiers.networks import ConvolutionalClassifier
from dpdm.evaluation.classifiers.training import (
    AVAILABLE_CLASSIFIERS,
    CLASSIFIER_NAMES,
    MINIMUM_IMAGES,
    ClassifierName,
    Images,
    Labels,
    TrainedClassifier,
    network_input,
    predict,
    recipe,
    train_classifier,
)

__all__ = [
    "AVAILABLE_CLASSIFIERS",
    "CLASSIFIER_NAMES",
    "MINIMUM_IMAGES",
    "ClassifierName",
    "ClassifierStore",
    "ConvolutionalClassifier",
    "Images",
    "Kept",
    "Labels",
    "TrainedClassifier",
    "network_input",
    "predict",
    "recipe",
    "train_classifier",
]
