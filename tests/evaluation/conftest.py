"""Real digits as stand-ins for synthetic ones, and a report with something in every part."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dpdm.diffusion.trajectory import Trajectory
from dpdm.evaluation import ReportContent, Stage
from dpdm.evaluation.closeness import Space, measure_memorisation
from dpdm.evaluation.distances import Measuring
from dpdm.evaluation.features import PIXELS
from dpdm.evaluation.store import Store

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Collection:
    """The part of a Dataset that evaluation reads."""

    private_images: np.ndarray
    private_labels: np.ndarray | None
    classes: tuple[str, ...] = DIGITS

    @property
    def shape(self) -> tuple[int, ...]:
        return self.private_images.shape[1:]


@pytest.fixture(autouse=True)
def _no_network_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds an Inception network of this machine."""
    monkeypatch.delenv("DPDM_DATA", raising=False)
    monkeypatch.setenv("DPDM_CACHE", str(tmp_path / "no-cache"))


@pytest.fixture(scope="session")
def digits() -> tuple[Collection, Collection]:
    """scikit-learn's digits as uint8 (N, 8, 8, 1): 1,437 to train on, 360 to test."""
    data = load_digits()
    images = np.round(data.images * 255 / 16).astype(np.uint8)[..., None]
    labels = data.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    return Collection(x, y), Collection(x_test, y_test)


@pytest.fixture
def statement() -> dict[str, Any]:
    return {
        "private": True,
        "epsilon": 9.9987,
        "delta": 1e-4,
        "unit": "image",
        "adjacency": "add or remove one unit",
        "accountant": "pld",
        "mechanisms": [{"name": "dp-sgd step", "event": "PoissonSampled(0.36)", "count": 250}],
        "noise_source": "operating system",
        "covered": ["The weights."],
        "not_covered": ["The folder private/."],
        "in_words": ["One image changes little."],
        "treated_as_public": ["The number of images."],
    }


@pytest.fixture
def audit() -> dict[str, Any]:
    """What ``dpdm privacy audit --json`` prints, of an audit that found nothing wrong."""
    return {
        "epsilon_lower_bound": 3.31,
        "epsilon_claimed": 10.0,
        "delta": 1e-4,
        "confidence": 0.95,
        "canaries": [
            {
                "kind": "gradient-space",
                "count": 1000,
                "included": 493,
                "guesses": 200,
                "correct": 198,
                "epsilon_lower_bound": 3.31,
            }
        ],
        "checks": [{"name": "noise is fresh", "passed": True, "seen": "two draws differ"}],
        "access": ["every value that left a mechanism"],
    }


@pytest.fixture(scope="session")
def comparison(digits: tuple[Collection, Collection]) -> dict[str, Any]:
    """The entries of an evaluation that come from features: samples that are half copies."""
    train, test = digits
    noise = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1)).astype(np.uint8)
    images = np.concatenate([train.private_images[:100], noise])
    spaces = [Space(PIXELS, np.arange(len(test.private_images)))]
    found = measure_memorisation(
        images, train.private_images, test.private_images, spaces, Measuring(Store())
    )
    return {
        "fid": 12.345,
        "kid": 0.0123,
        "kid_spread": 0.0009,
        "fd-net": 3.21,
        "precision": 0.75,
        "recall": 0.5,
        "density": 0.91,
        "coverage": 0.875,
        "prdc_features": "inception",
        "features": {"inception": "the network of FID", "net": "another"},
        "classes": {
            "0": {"asked": 20, "predicted": 25, "agreement": 0.95, "coverage": 0.8, "fid": 20.5},
            "1": {"asked": 0, "predicted": 3},
        },
        "judge_accuracy": 0.97,
        "served_worse": [{"class": "8", "by": "coverage", "share": 0.4, "overall": 0.8}],
        "confusion": {
            "classifier": "cnn",
            "classes": list(DIGITS),
            "counts": (35 * np.eye(10, dtype=int) + np.eye(10, k=3, dtype=int)).tolist(),
        },
        "memorisation": found,
    }


@pytest.fixture
def content(digits: tuple[Collection, Collection], statement: dict[str, Any]) -> ReportContent:
    images, labels = digits[0].private_images[:200], digits[0].private_labels[:200]
    return ReportContent(
        title="Synthetic digits",
        preset="digits",
        statement=statement,
        images=images,
        labels=labels,
        classes=DIGITS,
        sample_count=5000,
        trajectory=Trajectory(
            frames=np.stack([255 - images[:2], images[:2] // 2, images[:2]]),
            sigmas=(79.6, 1.234, 0.0),
            labels=labels[:2],
            sampler="heun",
            steps=20,
            shortcut=False,
        ),
        stages=(
            Stage("Prior alone", "Samples of the mixture.", images, labels, {"mlp": 0.938}),
            Stage("After DP-SGD", "Samples of the network.", images, labels, {"mlp": 0.951}),
        ),
        history=tuple(
            {"step": step, "loss": 1 / (step + 1), "epsilon": 0.1 * step, "phase": "DP-SGD"}
            for step in range(50)
        ),
        evaluation={
            "accuracy": {"lr": 0.912, "mlp": 0.951, "cnn": 0.938},
            "accuracy_spread": {"mlp": 0.004},
            "per_class": {"mlp": {"0": 0.99, "8": 0.87}},
            "synthetic_images": 5000,
            "test_images": 360,
            "seeds": 3,
            "notes": ["The test set was read once."],
        },
        cost={"seconds": 217.0, "image_passes": 1234567, "device": "cpu"},
        config={"privacy.epsilon": 10.0, "data.spec": "digits"},
    )
