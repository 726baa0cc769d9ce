"""Memorisation on points whose truth is known: copies are flagged, fresh draws are not."""

import itertools
from math import comb

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from dpdm.evaluation.metrics import memorisation as module
from dpdm.evaluation.metrics.memorisation import (
    Classes,
    Distances,
    membership,
    memorisation,
)
from dpdm.evaluation.metrics.neighbours import nearest


def draw(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 10))


def measured(samples, train, held_out, classes=None):
    def near(one, other):
        own = 0 if one is other else None
        return np.sqrt(nearest(one, other, 1, own=own).squared[:, 0])

    return memorisation(
        Distances(
            near(samples, train),
            near(samples, held_out),
            near(held_out, train),
            near(held_out, held_out),
            near(train, samples),
            near(held_out, samples),
        ),
        classes,
    )


TRAIN, HELD_OUT = draw(1000, 1), draw(400, 2)


@pytest.mark.parametrize("seed", range(3, 23))
def test_fresh_draws_are_not_flagged(seed):
    found = measured(draw(500, seed), TRAIN, HELD_OUT)
    assert not found.flagged
    assert found.near_copies <= 0.03
    assert found.closer_to_train == pytest.approx(found.closer_to_train_expected, abs=0.08)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_copies_with_noise_are_flagged(noise):
    found = measured(TRAIN[:500] + noise * draw(500, 3), TRAIN, HELD_OUT)
    assert found.flagged
    assert found.near_copies > 0.99
    assert found.membership_auc > 0.7


@pytest.mark.parametrize("copies", [30, 100])
def test_a_few_copies_among_fresh_draws_are_flagged_and_pointed_at(copies):
    samples = np.concatenate([TRAIN[:copies] + 0.01 * draw(copies, 3), draw(1000, 4)])
    found = measured(samples, TRAIN, HELD_OUT)
    assert found.flagged
    assert found.is_near_copy[:copies].all()
    assert set(np.argsort(found.ratios)[:copies]) == set(range(copies))


def test_two_copies_among_a_thousand_are_pointed_at_though_no_test_can_be_sure_of_them():
    samples = np.concatenate([draw(1000, 4), TRAIN[:2] + 0.01 * draw(2, 3)])
    found = measured(samples, TRAIN, HELD_OUT)
    assert set(np.argsort(found.ratios)[:2]) == {1000, 1001}
    assert not found.flagged


def test_samples_that_are_near_everything_are_not_copies():
    # Drawn with a third of the spread, they lie nearer to training points than real ones do.
    found = measured(draw(500, 3) / 3, TRAIN, HELD_OUT)
    assert found.sample_distance < found.held_out_distance
    assert not found.flagged


def test_copies_of_the_hold_out_are_not_copies_of_training_images():
    found = measured(HELD_OUT.copy(), TRAIN, HELD_OUT)
    assert found.near_copies == 0
    assert not found.flagged


def test_repeated_real_images_leave_every_figure_defined():
    # Ratios 0/0 and x/0: the hold-out repeats itself and the training set.
    train, held_out = np.repeat(TRAIN[:50], 4, 0), np.repeat(TRAIN[:60], 2, 0)
    found = measured(draw(100, 5), train, held_out)
    assert not np.isnan(found.ratios).any()
    assert 0 <= found.near_copies_p <= 1


@pytest.mark.parametrize(("n", "m", "below"), [(4, 3, 1), (4, 3, 2), (5, 4, 4)])
def test_the_chance_of_as_many_is_that_of_all_orders(n, m, below):
    """Against a count of every order of n samples and m held-out images."""
    # How many samples come before the below-th hold-out, in each order.
    orders = itertools.combinations(range(n + m), m)
    counts = [places[below - 1] - (below - 1) for places in orders]
    assert len(counts) == comb(n + m, m)
    for found in range(n + 1):
        exact = np.mean([count >= found for count in counts])
        assert module._chance_of_as_many(found, n, below, m) == pytest.approx(exact)


def test_membership_is_the_mann_whitney_test():
    draws = np.random.default_rng(0)
    members, others = draws.integers(0, 9, 80) * 0.5, draws.integers(1, 10, 50) * 0.5
    auc, p = membership(members, others)
    expected = mannwhitneyu(
        members, others, alternative="less", use_continuity=False, method="asymptotic"
    )
    assert auc == pytest.approx(1 - expected.statistic / (80 * 50))
    assert p == pytest.approx(expected.pvalue)


def test_membership_of_equal_distances_is_a_guess():
    assert membership(np.ones(5), np.ones(7)) == (0.5, 1.0)


def two_kinds(first, second, seed):
    """``first`` and ``second`` points of two classes, the second ten times as spread."""
    points = draw(first + second, seed)
    points[first:] = 5 + 10 * points[first:]
    return points, np.repeat([0, 1], [first, second])


def of_classes(samples, train, held_out):
    """Each a pair of points and classes."""
    (x, own), (real, mine), (rest, theirs) = samples, train, held_out
    near, other = nearest(x, real, 1), nearest(x, rest, 1)
    closer = near.squared[:, 0] <= other.squared[:, 0]
    closest = np.where(closer, mine[near.indices[:, 0]], theirs[other.indices[:, 0]])
    return measured(x, real, rest, Classes(mine, theirs, closest, own))


@pytest.mark.parametrize("seed", range(10))
def test_a_hold_out_with_other_shares_of_classes_is_no_sign_of_memorisation(seed):
    train, held_out = two_kinds(900, 60, 100 + seed), two_kinds(200, 200, 200 + seed)
    samples = two_kinds(700, 50, 300 + seed)
    assert measured(samples[0], train[0], held_out[0]).membership_p < 1e-6
    found = of_classes(samples, train, held_out)
    assert not found.flagged
    assert found.classes_matched
    assert found.thresholds_from == 200 + 200 * 50 // 700
    assert found.membership_auc == pytest.approx(0.5, abs=0.08)
    assert found.closer_to_train == pytest.approx(found.closer_to_train_expected, abs=0.08)


def test_copies_are_flagged_with_classes_as_well():
    train, held_out = two_kinds(900, 60, 1), two_kinds(200, 200, 2)
    copies = train[0] + 0.01 * draw(960, 3), train[1]
    found = of_classes(copies, train, held_out)
    assert found.flagged
    assert found.membership_auc > 0.7
    assert found.near_copies > 0.99


def test_where_classes_cannot_be_matched_all_of_the_hold_out_counts_and_it_is_said():
    train, held_out = two_kinds(900, 60, 1), two_kinds(200, 1, 2)
    found = of_classes(two_kinds(100, 100, 3), train, held_out)
    assert not found.classes_matched
    assert found.thresholds_from == 201


def test_membership_within_classes_is_van_elterens_test():
    members, others = draw(80, 1)[:, 0], draw(60, 2)[:, 0]
    groups = np.arange(80) % 2, np.arange(60) % 3  # class 2 has no members
    auc, p = membership(members, others, groups)
    parts, weights, variances = [], [], []
    for one in (0, 1):
        a, b = members[groups[0] == one], others[groups[1] == one]
        parts.append(mannwhitneyu(b, a).statistic / (len(a) * len(b)))
        weights.append(len(a) * len(b) / (len(a) + len(b) + 1))
        variances.append((len(a) + len(b) + 1) / (12 * len(a) * len(b)))
    share = np.array(weights) / sum(weights)
    assert auc == pytest.approx(share @ parts)
    assert p == pytest.approx(norm.sf((auc - 0.5) / np.sqrt(share**2 @ variances)))
    assert membership(members, others, (groups[0], groups[1] + 2)) == (0.5, 1.0)
