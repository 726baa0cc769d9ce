"""Classes served worse: named beyond chance, and not by chance."""

import numpy as np
import pytest

from dpdm.evaluation.metrics.classes import served_worse


def test_a_class_far_below_the_others_is_named_with_the_whole():
    shares = {"a": (0.95, 1000), "b": (0.96, 1000), "c": (0.80, 200)}
    (worse,) = served_worse(shares)
    assert worse.name == "c"
    assert worse.share == 0.80
    assert worse.overall == pytest.approx((0.95 + 0.96 + 0.80 / 5) / 2.2)


def test_the_worst_comes_first():
    shares = {"a": (0.5, 500), "b": (0.99, 5000), "c": (0.3, 500)}
    assert [worse.name for worse in served_worse(shares)] == ["c", "a"]


def test_a_few_images_prove_nothing():
    assert served_worse({"a": (0.95, 1000), "b": (0.5, 2)}) == ()
    assert served_worse({"a": (0.5, 10)}) == ()
    assert served_worse({}) == ()


def test_classes_served_alike_are_rarely_named():
    draws = np.random.default_rng(0)
    named = sum(
        bool(served_worse({str(c): (h / 200, 200) for c, h in enumerate(hits)}))
        for hits in draws.binomial(200, 0.9, (1000, 10))
    )
    assert named <= 65  # 5% of 1,000, and three standard deviations
