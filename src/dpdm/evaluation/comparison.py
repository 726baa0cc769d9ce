"""Metrics ``fid``, ``kid``, ``prdc`` and ``is``: synthetic images against the real training set.

Frechet and kernel distances are computed in every chosen extractor's features and carry its name
(``fid`` and ``kid`` with the Inception network and with no other). Precision, recall, density and
coverage are computed in the main one's, which ``prdc_features`` names.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from dpdm.errors import RequestError
from dpdm.evaluation.checks import Images
from dpdm.evaluation.distances import Measuring
from dpdm.evaluation.features import Choice, Extractor, FeatureSet, extract, probabilities
from dpdm.evaluation.metrics.inception_score import inception_score
from dpdm.evaluation.metrics.manifold import LARGEST_K

Sets = Callable[[Extractor], tuple[FeatureSet, FeatureSet]]


def real_and_synthetic(synthetic: Images, train: Images, measuring: Measuring) -> Sets:
    """A function that gives, for an extractor, the features of the synthetic and the real images.

    Those of one extractor are held at a time.
    """
    held: dict[str, tuple[FeatureSet, FeatureSet]] = {}

    def sets(extractor: Extractor) -> tuple[FeatureSet, FeatureSet]:
        if extractor.fingerprint not in held:
            held.clear()
            found = [
                extract(extractor, images, what, store=measuring.store, progress=measuring.progress)
                for what, images in (("synthetic", synthetic), ("real", train))
            ]
            held[extractor.fingerprint] = (found[0], found[1])
        return held[extractor.fingerprint]

    return sets


def compare(
    asked: Container[str], choice: Choice, sets: Sets, measuring: Measuring
) -> dict[str, Any]:
    """The entries of ``Evaluation`` for ``fid``, ``kid`` and ``prdc``, in the chosen features."""
    result: dict[str, Any] = {}
    # The main extractor comes last, so that its features are still held for what follows.
    for extractor in reversed(choice.extractors):
        if "fid" in asked:
            value = measuring.frechet(*sets(extractor), extractor.frechet)
            result[extractor.frechet] = value
        if "kid" in asked:
            distance = measuring.kernel(*sets(extractor), extractor.kernel)
            result[extractor.kernel] = distance.value
            result[f"{extractor.kernel}_spread"] = distance.spread
    if "prdc" in asked and choice.main is not None:
        synthetic, real = sets(choice.main)
        _enough(len(synthetic.values), "synthetic")
        _enough(len(real.values), "training")
        found = measuring.manifold(synthetic, real, "neighbourhoods")
        result |= {
            "precision": found.precision,
            "recall": found.recall,
            "density": found.density,
            "coverage": found.coverage,
            "prdc_features": choice.main.name,
        }
    return result


def score(inception: Extractor, synthetic: Images, measuring: Measuring) -> dict[str, Any]:
    """The Inception score of the synthetic images: ``is`` and ``is_spread``."""
    rows = probabilities(inception, synthetic, store=measuring.store, progress=measuring.progress)
    found = inception_score(rows)
    return {"is": found.value, "is_spread": found.spread}


def bias_note(synthetic: int, train: int) -> str:
    """Frechet distances of other numbers of images are other numbers."""
    return (
        f"Frechet distances (FID and fd-...) of {synthetic:,} synthetic against {train:,} training "
        "images: the estimate is biased upwards, the more the fewer the images; compare only "
        "values of the same two numbers (the paper: 60,000 against the training set). "
        "KID has no such bias."
    )


def _enough(count: int, what: str) -> None:
    if count <= LARGEST_K:
        raise RequestError(
            f"metric prdc needs more than {LARGEST_K} images in each set; the {what} set has "
            f"{count}"
        )
