"""Do samples lie closer to the training set than fresh real images would? Measured by a hold-out.

All of it compares three sets in one space: synthetic samples, the real training images, and real
images that training never saw. Thresholds come from the hold-out alone, so that a threshold means
the same for any kind of image: of fresh real images at most ``ALLOWED`` would be near-copies.

- A sample is a near-copy where its distance to the closest record (the nearest training image) is
  at most the ``ALLOWED`` quantile of the hold-out's own such distances, and the ratio of that
  distance to the one to the nearest hold-out image is at most the same quantile of the hold-out's
  own ratios (each against the rest of the hold-out). The distance alone would accuse blurred
  samples, which are near everything; the ratio alone would not mean close.
- Membership inference: how well does the distance from a real image to the nearest sample tell
  training images from held-out ones? An AUC of 1/2 is a guess (as in arXiv 1909.03935).

A hold-out with other shares of classes than the training set would be told from it by class alone,
which is no sign of memorisation. So where classes are known, members are compared with others of
their class, and thresholds come from as many held-out images of each class as its share of the
samples.

The p-values hold for samples that are fresh real images; no evidence against memorisation follows
from a large one. A few copies among N samples are sure only where the hold-out is large: of H held
out images, a copies have chance (N / (N + H))^a at best. All of it is no substitute for the
guarantee: it sees copies, not every leak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its stats take a second to import: loaded where they are used
from numpy.typing import NDArray

Float = NDArray[np.float64]
Labels = NDArray[np.int64]

ALLOWED = 0.01
"""Share of the hold-out below each threshold."""
SIGNIFICANT = 1e-3
MATERIAL_AUC = 0.55
"""A smaller AUC raises no flag, however sure: splits of real data differ by as much."""
FEWEST_HELD_OUT = 50
"""A hold-out smaller than this says nothing about a share of one in a hundred."""


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances to the nearest image, in one space."""

    sample_to_train: Float
    """(N,), the distance to the closest record."""
    sample_to_held_out: Float
    """(N,)."""
    held_out_to_train: Float
    """(H,)."""
    held_out_to_rest: Float
    """(H,), to the nearest other image of the hold-out."""
    train_to_sample: Float
    """(T,)."""
    held_out_to_sample: Float
    """(H,)."""


@dataclass(frozen=True, eq=False)
class Classes:
    """The class of each image, by number."""

    train: Labels
    """(T,)."""
    held_out: Labels
    """(H,)."""
    nearest_real: Labels
    """(N,), of each sample's nearest real image."""
    sample: Labels | None = None
    """(N,), of samples; None where they have no labels."""


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What the distances of one space say."""

    near_copies: float
    """Share of samples that are near-copies."""
    near_copies_p: float
    """Chance of as many, or of as many nearer than every hold-out, were samples fresh real images
    (the smaller of the two, doubled)."""
    nearer_than_any_held_out: float
    """Share of samples below the smallest of the hold-out's distances and ratios: a few copies
    among many samples show here."""
    distance_threshold: float
    ratio_threshold: float
    thresholds_from: int
    """Images of the hold-out that the thresholds come from."""
    classes_matched: bool
    """Whether these have the samples' shares of classes; True where no classes are known."""
    sample_distance: float
    """Median distance of a sample to the closest record."""
    held_out_distance: float
    """The same of held-out images."""
    sample_ratio: float
    """Median ratio of the distance to training images to that to held-out ones."""
    held_out_ratio: float
    closer_to_train: float
    """Share of samples whose nearest real image is a training image (of ties, half)."""
    closer_to_train_expected: float
    """What it would be by the sizes of the two sets, or of the class's part of each, alone."""
    membership_auc: float
    membership_p: float
    """Chance of an AUC as large, were samples unrelated to which images were trained on."""
    is_near_copy: NDArray[np.bool_]
    """(N,)."""
    ratios: Float
    """(N,), for each sample."""

    @property
    def flagged(self) -> bool:
        """Whether either sign of memorisation is beyond chance."""
        membership = self.membership_p < SIGNIFICANT and self.membership_auc >= MATERIAL_AUC
        return membership or self.near_copies_p < SIGNIFICANT


def memorisation(distances: Distances, classes: Classes | None = None) -> Memorisation:
    """Compare the samples' distances with the hold-out's, at least ``FEWEST_HELD_OUT`` of them."""
    d = distances
    ratios = _ratios(d.sample_to_train, d.sample_to_held_out)
    like, matched = like_samples(classes, len(d.held_out_to_train))
    own_distances = d.held_out_to_train[like]
    own_ratios = _ratios(own_distances, d.held_out_to_rest[like])
    held_out = len(own_ratios)
    rank = max(1, int(ALLOWED * held_out))
    far, wide = _smallest(own_distances, rank), _smallest(own_ratios, rank)
    copies = (d.sample_to_train <= far) & (ratios <= wide)
    least, narrow = own_distances.min(), own_ratios.min()
    nearest_of_all = (d.sample_to_train <= least) & (ratios <= narrow)
    chances = [
        _chance_of_as_many(int(found.sum()), len(found), int((own_ratios <= limit).sum()), held_out)
        for found, limit in ((copies, wide), (nearest_of_all, narrow))
    ]
    groups = None if classes is None else (classes.train, classes.held_out)
    auc, membership_p = membership(d.train_to_sample, d.held_out_to_sample, groups)
    nearer = d.sample_to_train < d.sample_to_held_out
    level = d.sample_to_train == d.sample_to_held_out
    return Memorisation(
        near_copies=float(copies.mean()),
        near_copies_p=min(1.0, 2 * min(chances)),
        nearer_than_any_held_out=float(nearest_of_all.mean()),
        distance_threshold=far,
        ratio_threshold=wide,
        thresholds_from=held_out,
        classes_matched=matched,
        sample_distance=float(np.median(d.sample_to_train)),
        held_out_distance=float(np.median(own_distances)),
        sample_ratio=float(np.median(ratios)),
        held_out_ratio=float(np.median(own_ratios)),
        closer_to_train=float((nearer + level / 2).mean()),
        closer_to_train_expected=_expected(d, classes),
        membership_auc=auc,
        membership_p=membership_p,
        is_near_copy=copies,
        ratios=ratios,
    )


def like_samples(classes: Classes | None, held_out: int) -> tuple[NDArray[np.intp], bool]:
    """The numbers of held-out images that together have the samples' shares of classes, the first
    ones of each class and as many as there can be, and whether there are ``FEWEST_HELD_OUT`` of
    them; all of them where there are not, and where no classes are known."""
    everything = np.arange(held_out)
    if classes is None or classes.sample is None:
        return everything, True
    shares = np.bincount(classes.sample) / len(classes.sample)
    there = np.bincount(classes.held_out, minlength=len(shares))
    drawn = np.flatnonzero(shares)
    size = float((there[drawn] / shares[drawn]).min())
    counts = np.floor(size * shares + 1e-9).astype(np.int64)
    if counts.sum() < FEWEST_HELD_OUT:
        return everything, False
    chosen = [np.flatnonzero(classes.held_out == one)[: counts[one]] for one in drawn]
    return np.sort(np.concatenate(chosen)), True


def membership(
    members: Float, others: Float, groups: tuple[Labels, Labels] | None = None
) -> tuple[float, float]:
    """AUC of telling members from others by a smaller distance, and its one-sided p-value.

    The p-value is that of the Mann-Whitney test, normal approximation with ties. With ``groups``,
    the classes of members and others, each is compared with those of its class: the mean of the
    classes' AUC, weighted as van Elteren's test weights them (n m / (n + m + 1) of a class with n
    members and m others; 1960). Where no class has both, nothing can be told.
    """
    if groups is None:
        auc, deviation = _mann_whitney(members, others)
    else:
        found, weights = [], []
        for one in np.intersect1d(*groups):
            mine, theirs = members[groups[0] == one], others[groups[1] == one]
            found.append(_mann_whitney(mine, theirs))
            weights.append(len(mine) * len(theirs) / (len(mine) + len(theirs) + 1))
        if not found:
            return 0.5, 1.0
        values, share = np.array(found), np.array(weights) / sum(weights)
        auc = float(share @ values[:, 0])
        deviation = float(np.sqrt(share**2 @ values[:, 1] ** 2))
    if deviation == 0:
        return auc, 1.0
    return auc, float(scipy.stats.norm.sf((auc - 0.5) / deviation))


def _mann_whitney(members: Float, others: Float) -> tuple[float, float]:
    """AUC and its standard deviation where members are others."""
    both = np.concatenate([members, others])
    ranks = scipy.stats.rankdata(both)
    n, m = len(members), len(others)
    above = ranks[n:].sum() - m * (m + 1) / 2
    auc = float(above / (n * m))
    _, repeats = np.unique(both, return_counts=True)
    total = n + m
    ties = float((repeats.astype(np.float64) ** 3 - repeats).sum()) / (total * (total - 1))
    return auc, float(np.sqrt(max(0.0, total + 1 - ties) / (12 * n * m)))


def _expected(d: Distances, classes: Classes | None) -> float:
    """The share of samples with a training image nearest, were training images held-out ones."""
    train, held_out = len(d.train_to_sample), len(d.held_out_to_train)
    if classes is None:
        return train / (train + held_out)
    most = 1 + max(classes.train.max(), classes.held_out.max())
    mine, theirs = (np.bincount(x, minlength=most) for x in (classes.train, classes.held_out))
    return float((mine / np.maximum(mine + theirs, 1))[classes.nearest_real].mean())


def _ratios(train: Float, held_out: Float) -> Float:
    """train / held_out; equal distances, both zero among them, have ratio 1."""
    result = np.full(len(train), np.inf)
    np.divide(train, held_out, out=result, where=held_out > 0)
    result[(train == 0) & (held_out == 0)] = 1.0
    return result


def _smallest(values: Float, rank: int) -> float:
    return float(np.partition(values, rank - 1)[rank - 1])


def _chance_of_as_many(found: int, samples: int, below: int, held_out: int) -> float:
    """P(at least ``found`` samples lie before the ``below``-th hold-out) in a random order of all.

    Exact for exchangeable sets: the event is that among the first found + below - 1 of them at most
    below - 1 are of the hold-out. That the threshold is itself a draw is accounted for.
    """
    if found == 0:
        return 1.0
    drawn = found + below - 1
    return float(scipy.stats.hypergeom.cdf(below - 1, samples + held_out, held_out, drawn))
