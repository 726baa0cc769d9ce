"""``prior.normalise=auto``: what kind of images these are, by noised votes of the images.

Each normalisation has a pilot, the prior with a small share of the budget. A classifier learns from
samples of each candidate, and every private image votes for those that find its class: one noised
sum. So a candidate is chosen by what its samples teach, which is what samples are for.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpdm.config import Detail
from dpdm.diffusion.posed import PosedSampler
from dpdm.privacy import NoisedSum, PrivateUnits, Session
from dpdm.training.prior.design import CANDIDATES, Candidate, PriorDesign
from dpdm.training.prior.features import Images, in_chunks
from dpdm.training.prior.fit import release_all
from dpdm.training.prior.shrinkage import Array, Integers

_SAMPLES, _SAMPLES_A_CLASS = 3000, 100
"""That a judge learns from, at least."""

_VALUES = 800
"""Most numbers that a judge sees of an image: larger images are averaged."""

_HIDDEN, _EPOCHS = 100, 30

_SURE = 2.0
"""Deviations of the noise by which votes must be behind to count as fewer."""

Judge = Callable[[Array], Integers]


@dataclass(frozen=True)
class Chosen:
    """What was chosen.

    Attributes:
        candidate: of ``CANDIDATES``.
        design: of the prior that is released now.
        votes: how many images voted for each of ``CANDIDATES``, noised.
        deviation: of that noise.
    """

    candidate: Candidate
    design: PriorDesign
    votes: tuple[float, ...]
    deviation: float

    def in_words(self) -> str:
        """The settings that were chosen, and by how many votes."""
        mine = self.votes[CANDIDATES.index(self.candidate)]
        return (
            f"{self.candidate.in_words()}, with {mine:,.0f} votes, where images as they are have "
            f"{self.votes[0]:,.0f} (noise {self.deviation:,.0f})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values: covered by the guarantee."""
        return {
            **asdict(self.candidate),
            "votes": {
                candidate.in_words(): round(votes, 1)
                for candidate, votes in zip(CANDIDATES, self.votes, strict=True)
            },
            "noise": self.deviation,
        }


def choose(
    units: PrivateUnits,
    image_shape: tuple[int, int, int],
    classes: int,
    design: PriorDesign,
    session: Session,
    seed: int,
    detail: Detail,
) -> Chosen:
    """Releases pilots and votes of ``design.choice``; arguments as for ``fit_prior``.

    Of candidates whose votes differ by no more than twice the noise, the one that says least.
    """
    choice = design.choice
    assert choice is not None
    fitted = {
        kind: release_all(units, image_shape, classes, pilot, session, seed, f"pilot ({kind})")
        # The widest rows first: what they leave takes the others in.
        for kind, pilot in reversed(choice.pilots.items())
    }
    judges = [
        taught(fitted[one.normalise].sampler(one.augment, detail, one.texture), seed)
        for one in CANDIDATES
    ]
    votes, deviation = count_votes(units, judges, choice.votes, session)
    best = int(np.flatnonzero(votes >= votes.max() - _SURE * deviation)[0])
    final = choice.finals[CANDIDATES[best].normalise]
    return Chosen(CANDIDATES[best], final, tuple(votes.tolist()), deviation)


def count_votes(
    units: PrivateUnits, judges: list[Judge], noise_multiplier: float, session: Session
) -> tuple[Array, float]:
    """How many images each judge is right of, noised: (J,), and the noise of each number.

    An image has a vector of J zeros and ones, of norm sqrt J at most.
    """
    mechanism = NoisedSum("votes for a kind of image", noise_multiplier, math.sqrt(len(judges)))
    noised = mechanism.release(units, lambda x, y: ballots(judges, x, y), session)
    return noised[0], mechanism.deviation


def ballots(judges: list[Judge], images: Images, labels: Integers | None) -> Array:
    """(N, J): 1 where a judge finds the class of an image uint8 (N, H, W, C), else 0."""
    found = in_chunks(images, lambda x, _: torch.from_numpy(_found(judges, x)))
    truth = np.zeros(len(images), np.int64) if labels is None else labels
    right: Array = (found == truth[:, None]).astype(np.float64)
    return right


def taught(sampler: PosedSampler, seed: int) -> Judge:
    """A classifier of averaged pixels with one hidden layer, trained on samples (no privacy)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    classes = len(sampler.class_weights)
    labels = torch.arange(max(_SAMPLES, _SAMPLES_A_CLASS * classes)) % classes
    generator = torch.Generator().manual_seed(seed)
    rows = np.concatenate([_averaged(part) for part in sampler.parts(labels, generator)])
    network = MLPClassifier(_HIDDEN, max_iter=_EPOCHS, random_state=seed)
    # Products this small are slower with two threads than with one, by far beside other work.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is not to converge
        network.fit(rows, labels.numpy())
    return network.predict  # type: ignore[no-any-return]


def _found(judges: list[Judge], x: Tensor) -> Array:
    rows = _averaged(x)
    found: Array = np.stack([judge(rows) for judge in judges], axis=1).astype(np.float32)
    return found


def _averaged(x: Tensor) -> Array:
    """Images (N, C, H, W) in [-1, 1] as rows of at most ``_VALUES`` numbers."""
    side = math.isqrt(_VALUES // x.shape[1])
    size = min(side, x.shape[2]), min(side, x.shape[3])
    found: Array = functional.adaptive_avg_pool2d(x, size).flatten(1).numpy()
    return found
