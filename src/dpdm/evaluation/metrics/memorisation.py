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
    """What it would be by the sizes of the two sets alone."""
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


def memorisation(distances: Distances) -> Memorisation:
    """Compare the samples' distances with the hold-out's, at least ``FEWEST_HELD_OUT`` of them."""
    d = distances
    train, held_out = len(d.train_to_sample), len(d.held_out_to_train)
    ratios = _ratios(d.sample_to_train, d.sample_to_held_out)
    own_ratios = _ratios(d.held_out_to_train, d.held_out_to_rest)
    rank = max(1, int(ALLOWED * len(own_ratios)))
    far, wide = _smallest(d.held_out_to_train, rank), _smallest(own_ratios, rank)
    copies = (d.sample_to_train <= far) & (ratios <= wide)
    least, narrow = d.held_out_to_train.min(), own_ratios.min()
    nearest_of_all = (d.sample_to_train <= least) & (ratios <= narrow)
    chances = [
        _chance_of_as_many(int(found.sum()), len(found), int((own_ratios <= limit).sum()), held_out)
        for found, limit in ((copies, wide), (nearest_of_all, narrow))
    ]
    auc, membership_p = membership(d.train_to_sample, d.held_out_to_sample)
    nearer = d.sample_to_train < d.sample_to_held_out
    level = d.sample_to_train == d.sample_to_held_out
    return Memorisation(
        near_copies=float(copies.mean()),
        near_copies_p=min(1.0, 2 * min(chances)),
        nearer_than_any_held_out=float(nearest_of_all.mean()),
        distance_threshold=far,
        ratio_threshold=wide,
        sample_distance=float(np.median(d.sample_to_train)),
        held_out_distance=float(np.median(d.held_out_to_train)),
        sample_ratio=float(np.median(ratios)),
        held_out_ratio=float(np.median(own_ratios)),
        closer_to_train=float((nearer + level / 2).mean()),
        closer_to_train_expected=train / (train + held_out),
        membership_auc=auc,
        membership_p=membership_p,
        is_near_copy=copies,
        ratios=ratios,
    )


def membership(members: Float, others: Float) -> tuple[float, float]:
    """AUC of telling members from others by a smaller distance, and its one-sided p-value.

    The p-value is that of the Mann-Whitney test, normal approximation with ties.
    """
    both = np.concatenate([members, others])
    ranks = scipy.stats.rankdata(both)
    n, m = len(members), len(others)
    above = ranks[n:].sum() - m * (m + 1) / 2
    auc = float(above / (n * m))
    _, repeats = np.unique(both, return_counts=True)
    total = n + m
    ties = float((repeats.astype(np.float64) ** 3 - repeats).sum()) / (total * (total - 1))
    deviation = np.sqrt((total + 1 - ties) / (12 * n * m))
    if deviation == 0:
        return auc, 1.0
    return auc, float(scipy.stats.norm.sf((auc - 0.5) / deviation))


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
