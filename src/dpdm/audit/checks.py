"""Checks beside the bound: of the noise, the sampling and the sensitivity, each with its name.

The auditor knows which canaries are in the data. A check that fails names the fault; with none,
all of them pass with probability above 1 - 1e-5.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from scipy.stats import chi2

from dpdm.audit.attack import Statistic, Witness
from dpdm.audit.canaries import Array
from dpdm.privacy import DpSgdStep, NoiseSource, PrivateUnits, Session
from dpdm.privacy.mechanisms import Mechanism

_LEVEL = 1e-6
_DEVIATIONS = 5.5
"""Beyond so many standard deviations a value that should be normal is none (4e-8)."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what should hold.
        passed: whether it does.
        seen: what was seen, one clause.
    """

    name: str
    passed: bool
    seen: str


def all_checks(witness: Witness, noise: NoiseSource) -> list[Check]:
    """Every check that what was seen allows."""
    checks = [noise_is_fresh(noise)]
    checks += [sensitivity_holds(mechanism) for mechanism in witness.mechanisms.values()]
    checks += [
        _scale(f"{name}: noise as claimed, and nothing else", squares, freedom)
        for name, squares, freedom in witness.residuals
    ]
    return checks + (_step_checks(witness) if witness.steps else [])


def noise_is_fresh(noise: NoiseSource) -> Check:
    """The same draw of the same source in the same state, twice, gives different numbers."""
    first, second = (copy.deepcopy(noise).gaussian(16, key=("audit", 0)) for _ in range(2))
    same = int((first == second).sum())
    return Check("noise cannot be drawn again", same == 0, f"{same} of 16 numbers came twice")


class _Silence(NoiseSource):
    """No noise, and every unit in every sample."""

    private, source = True, "none"

    def _words(self, key: object) -> NoReturn:
        raise NotImplementedError

    def gaussian(self, shape: int | tuple[int, ...], *, key: object) -> Array:
        return np.zeros(shape)

    def poisson_mask(
        self, n: int, rate: float, *, key: object
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.ones(n, np.bool_)


@dataclass(frozen=True)
class _Rehearsal(Session):
    """A session that writes nothing down and adds nothing."""

    def spend(self, mechanism: Mechanism, step: int) -> NoiseSource | None:
        return _Silence()


def sensitivity_holds(mechanism: Statistic | DpSgdStep) -> Check:
    """Without noise, one unit more moves what is released by no more than the noise is scaled to.

    Tried on one unit against two and on eight against nine, well within the clip norm and beyond.
    """
    generator = np.random.default_rng(0)
    worst = max(
        _moved(mechanism, length * generator.standard_normal((count, 8)))
        for count in (2, 9)
        for length in (1e-3, 1e6)
    )
    return Check(
        f"{mechanism.name}: one unit moves the release no further than the clip norm",
        worst <= 1 + 1e-6,
        f"{worst:.6g} times as far at most",
    )


def _moved(mechanism: Statistic | DpSgdStep, vectors: Array) -> float:
    session = _Rehearsal(None, _Silence())
    less, more = (
        _released(mechanism, PrivateUnits(torch.from_numpy(rows)), session)
        for rows in (vectors[:-1], vectors)
    )
    return float(np.linalg.norm(more - less))


def _released(mechanism: Statistic | DpSgdStep, units: PrivateUnits, session: Session) -> Array:
    """What leaves, over the mechanism's sensitivity."""
    if not isinstance(mechanism, DpSgdStep):
        value = mechanism.release(units, lambda rows, _: rows.numpy(), session)
        return value / mechanism.sensitivity

    def gradients(rows: torch.Tensor, _: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return torch.zeros(len(rows)), {"entry": rows}

    like = {"entry": torch.zeros(8)}
    value = mechanism.release(units, gradients, like, session, 0)[0]["entry"].double().numpy()
    return np.asarray(value * (mechanism.expected_units / mechanism.max_grad_norm))


def _step_checks(witness: Witness) -> list[Check]:
    mechanism = witness.steps[0].mechanism
    q, sigma, steps = mechanism.sample_rate, mechanism.noise_multiplier, len(witness.steps)
    seen = np.stack([view.coordinates for view in witness.steps]).astype(np.float64)
    blanks = seen[:, witness.canaries.count :] / sigma
    inside = seen[:, : witness.canaries.count][:, witness.canaries.included] - q
    members, variance = inside.shape[1], q * (1 - q) + sigma**2
    checks = [
        _scale(f"{mechanism.name}: noise as claimed", float((blanks**2).sum()), blanks.size),
        _normal(
            f"{mechanism.name}: a unit is in a step with the sample rate",
            float(inside.sum() / math.sqrt(inside.size * variance)),
        ),
    ]
    if steps < 2:
        return checks
    together = blanks @ blanks.T / blanks.shape[1]
    pairs = np.abs(together[np.triu_indices(steps, 1)])
    # Bernstein's inequality for sums of products of two normals, over all pairs.
    rarity = math.log(2 * len(pairs) / _LEVEL) / blanks.shape[1]
    most = math.sqrt(2 * rarity) + rarity
    checks.append(
        Check(
            f"{mechanism.name}: each step has noise of its own",
            bool(pairs.max() < most),
            f"correlation of two steps' noise at most {pairs.max():.2f}",
        )
    )
    # A canary's total over independent steps; its square's variance needs the fourth cumulant.
    totals = (inside.sum(axis=0) ** 2 / (steps * variance) - 1).sum()
    fourth = q * (1 - q) * (1 - 6 * q * (1 - q)) / variance**2
    checks.append(
        _normal(
            f"{mechanism.name}: each step has a sample of its own",
            float(totals / math.sqrt(members * (2 + fourth / steps))),
        )
    )
    return checks


def _scale(name: str, squares: float, freedom: int) -> Check:
    rare = 2 * min(chi2.cdf(squares, freedom), chi2.sf(squares, freedom))
    seen = f"{math.sqrt(squares / freedom):.4g} times the claimed deviation, {freedom} values"
    return Check(name, bool(rare >= _LEVEL), seen)


def _normal(name: str, deviations: float) -> Check:
    return Check(
        name,
        abs(deviations) < _DEVIATIONS,
        f"{deviations:+.1f} standard deviations from what is expected",
    )
