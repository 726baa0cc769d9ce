"""The Inception score at its extremes and against its formula."""

import numpy as np
import pytest

from dpdm.errors import RequestError
from dpdm.evaluation.metrics.inception_score import inception_score


def test_sure_and_balanced_predictions_score_the_number_of_classes():
    found = inception_score(np.tile(np.eye(10), (20, 1)))
    assert found.value == pytest.approx(10)
    assert found.spread == pytest.approx(0)


def test_predictions_that_are_all_alike_score_one():
    assert inception_score(np.tile(np.array([0.7, 0.2, 0.1]), (50, 1))).value == pytest.approx(1)


def test_the_formula_agrees_split_by_split():
    rows = np.random.default_rng(0).dirichlet(np.ones(5), 60)
    scores = []
    for part in rows.reshape(10, 6, 5):
        marginal = part.mean(0)
        divergence = [
            sum(p * np.log(p / q) for p, q in zip(r, marginal, strict=True)) for r in part
        ]
        scores.append(np.exp(np.mean(divergence)))
    found = inception_score(rows)
    assert found.value == pytest.approx(np.mean(scores))
    assert found.spread == pytest.approx(np.std(scores))


def test_fewer_images_than_splits_are_refused():
    with pytest.raises(RequestError, match="10 splits"):
        inception_score(np.ones((9, 2)) / 2)
