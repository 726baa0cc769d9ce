"""The mechanisms: the only doors through which anything learnt from private data leaves.

A mechanism owns its sensitivity, its noise and its event together, so that they cannot disagree.
Adjacency is add or remove one unit. Every release first writes its event to the ledger, durably,
then draws noise, and leaves through :meth:`Session.publish`. Sums are formed and noised in float64;
their rounding moves with the data too, and clip norms keep a margin for it
(``gradients/clipping.py``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, Protocol, TypeVar

import numpy as np
import scipy.sparse
import torch

from dpdm.privacy.accounting import Event
from dpdm.privacy.gradients import ClippedSum, clip_and_sum, clip_rows
from dpdm.privacy.ledger import Ledger
from dpdm.privacy.noise import DrawnBeside, NoiseSource
from dpdm.privacy.units import (
    DOOR,
    Array,
    Contribution,
    Gradients,
    Integers,
    PrivateUnits,
    UnitGradients,
)

Released = TypeVar("Released")
Through = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]
Which = Integers | None
Weights = Array | None


class Mechanism(Protocol):
    """What a session writes down: a name and the event that the accountant composes."""

    @property
    def name(self) -> str: ...

    @property
    def event(self) -> Event: ...


@dataclass(frozen=True)
class Session:
    """What a release needs: where it is written down and where noise and samples come from.

    Without a ledger a run makes no promise (``privacy.enabled=false``): nothing is clipped, no
    noise is added, and the statement says so.
    """

    ledger: Ledger | None
    noise: NoiseSource

    @property
    def repeatable(self) -> bool:
        """Whether a step done again draws the same noise: it releases, and spends, nothing new."""
        return not self.noise.private

    def spend(self, mechanism: Mechanism, step: int) -> NoiseSource | None:
        """Writes the event down, durably, and only then hands out the noise source."""
        if self.ledger is None:
            return None
        record = self.ledger.record_once if self.repeatable else self.ledger.record
        record(mechanism.name, mechanism.event, step=step)
        return self.noise

    def publish(self, mechanism: Mechanism, step: int, value: Released) -> Released:
        """Where every noised result leaves; an attacker with full access sees what passes here."""
        return value


@dataclass(frozen=True)
class _GaussianRelease(ABC):
    """A sum over all units with Gaussian noise of ``noise_multiplier`` times its sensitivity.

    ``name`` is the mechanism's in ledger and statement; each image's vector is clipped to the
    Euclidean norm ``max_norm`` and adds to one of ``segments`` sums.
    """

    name: str
    noise_multiplier: float
    max_norm: float
    segments: int = 1

    @property
    def event(self) -> Event:
        """One Gaussian mechanism of sensitivity 1."""
        return Event(self.noise_multiplier)

    @property
    @abstractmethod
    def sensitivity(self) -> float:
        """How far one unit more or less moves all sums together, in Euclidean norm."""

    @abstractmethod
    def exact(self, vectors: Array, segments: Which = None, weights: Weights = None) -> Array:
        """The clipped and weighted sums without noise: private."""

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise."""
        return self.noise_multiplier * self.sensitivity

    def isotropic(self, normal: Array) -> Array:
        """Standard normal numbers, shaped into noise that is isotropic where the sums live."""
        return normal

    def release(
        self, units: PrivateUnits, contribution: Contribution, session: Session, step: int = 0
    ) -> Array:
        """Noised sums, one per segment, of what ``contribution`` gives for each image.

        A group adds the mean over its images, so that it weighs as much as a single image.
        """
        noise = session.spend(self, step)
        bounded = self if noise is not None else replace(self, max_norm=math.inf)
        private = units._vectors(DOOR, contribution)
        total = reduce(np.add, (bounded.exact(*block) for block in private))
        if noise is None:
            return total
        normal = noise.gaussian(total.shape, key=(self.name, step))
        return session.publish(self, step, total + self.deviation * self.isotropic(normal))


@dataclass(frozen=True)
class NoisedSum(_GaussianRelease):
    """Per-segment sums of clipped vectors: (segments, d).

    Sensitivity: an image adds one vector of norm at most C = ``max_norm`` to one segment, a group
    the mean of such: all segments together move by at most C.
    """

    @property
    def sensitivity(self) -> float:
        """The clip norm."""
        return self.max_norm

    def exact(self, vectors: Array, segments: Which = None, weights: Weights = None) -> Array:
        """The clipped and weighted sums without noise, (segments, d): private."""
        clipped = clip_rows(vectors, self.max_norm)
        images = np.arange(len(clipped))
        where = np.zeros_like(images) if segments is None else segments
        entries = np.ones(len(images)) if weights is None else weights
        shape = (self.segments, len(images))
        total: Array = scipy.sparse.csr_matrix((entries, (where, images)), shape=shape) @ clipped
        return total


@dataclass(frozen=True)
class NoisedScatter(_GaussianRelease):
    """Per-segment sums of outer products x x^T of clipped vectors: (segments, d, d), symmetric.

    Sensitivity: x x^T has Frobenius norm |x|^2, so all segments together move by at most C^2. The
    noise is a standard Gaussian in an orthonormal basis of the symmetric matrices: off-diagonal
    entries have 1/sqrt 2 of the diagonal's deviation.
    """

    @property
    def sensitivity(self) -> float:
        """The square of the clip norm."""
        return self.max_norm**2

    def exact(self, vectors: Array, segments: Which = None, weights: Weights = None) -> Array:
        """The clipped and weighted scatter matrices without noise, (segments, d, d): private."""
        clipped = clip_rows(vectors, self.max_norm)
        if weights is not None:
            clipped *= np.sqrt(weights)[:, None]
        if segments is None:
            return (clipped.T @ clipped)[None]
        parts = (clipped[segments == segment] for segment in range(self.segments))
        return np.stack([part.T @ part for part in parts])

    def isotropic(self, normal: Array) -> Array:
        """Symmetric matrices from (segments, d, d) normal numbers: upper triangle and diagonal."""
        upper = np.triu(normal, 1) / math.sqrt(2.0)
        symmetric: Array = upper + upper.transpose(0, 2, 1) + normal * np.eye(normal.shape[-1])
        return symmetric


@dataclass(frozen=True)
class PrivateStepStatistics:
    """What a step saw of the private data: never leaves the private side."""

    private_units: int
    private_loss: float
    private_clipped_share: float
    private_nonfinite_units: int


@dataclass(frozen=True)
class DpSgdStep:
    """A step of DP-SGD (Abadi et al. 2016; Dockhorn et al. 2023, eq. 6, 7): sample, clip per unit,
    sum, add noise once, divide by a constant.

    Sensitivity: a sampled unit adds a gradient of norm at most ``max_grad_norm`` over all
    parameters together. Noise: ``noise_multiplier * max_grad_norm`` on every entry of the sum. The
    divisor ``expected_units`` is public; neither the realised batch nor the data's size enters it.
    Units that pad a microbatch have weight zero; of a group, ``images_per_unit`` images take part.
    """

    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float
    expected_units: float
    microbatch: int
    images_per_unit: int = 1
    name: str = "DP-SGD step"

    @property
    def event(self) -> Event:
        """One Poisson-sampled Gaussian mechanism."""
        return Event(self.noise_multiplier, self.sample_rate)

    def release(
        self,
        units: PrivateUnits,
        unit_gradients: UnitGradients,
        parameters: Gradients,
        session: Session,
        step: int,
        through: Through = map,
    ) -> tuple[Gradients, PrivateStepStatistics]:
        """The noised mean gradient of a step: name -> noised sum / ``expected_units``, float32.

        ``unit_gradients`` gives losses and gradients of a full microbatch of units, ``parameters``
        the names and shapes of the gradients. ``through`` is ``map``, or does several microbatches
        at a time; they are added up in order. The statistics beside it stay private.
        """
        noise: NoiseSource | DrawnBeside | None = session.spend(self, step)
        if isinstance(noise, NoiseSource):
            size = sum(parameter.numel() for parameter in parameters.values())
            noise = DrawnBeside(noise, size, key=(self.name, step))
        count, rate = units._count(DOOR), self.sample_rate
        chosen = np.flatnonzero(
            session.noise.poisson_mask(count, rate, key=(f"sample of {self.name}", step))
        )
        total = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items()}
        max_norm = self.max_grad_norm if noise else math.inf

        def clipped(start: int) -> tuple[torch.Tensor, ClippedSum]:
            part = chosen[start : start + self.microbatch]
            padded = np.concatenate([part, np.repeat(part[:1], self.microbatch - len(part))])
            random = partial(session.noise.gaussian, key=(f"images of {self.name}", step, start))
            how = (self.images_per_unit, random, unit_gradients)
            losses, gradients = units._gradients(DOOR, padded, *how)
            weights = torch.ones(self.microbatch, device=losses.device)
            weights[len(part) :] = 0.0
            result = clip_and_sum(gradients, max_norm, weights)
            return losses[: len(part)], result._replace(norms=result.norms[: len(part)])

        loss, beyond, nonfinite = 0.0, 0.0, 0
        for losses, result in through(clipped, range(0, len(chosen), self.microbatch)):
            for name, value in result.sums.items():
                total[name] += value
            loss += float(losses.nan_to_num(0.0, 0.0, 0.0).sum())
            beyond += float((result.norms > max_norm).sum())
            nonfinite += int(result.nonfinite.sum())
        if noise:
            self._add_noise(total, noise, step)
        mean = {name: (value / self.expected_units).float() for name, value in total.items()}
        sampled = max(len(chosen), 1)
        seen = PrivateStepStatistics(len(chosen), loss / sampled, beyond / sampled, nonfinite)
        return session.publish(self, step, mean), seen

    def _add_noise(self, total: Gradients, noise: NoiseSource | DrawnBeside, step: int) -> None:
        sizes = [value.numel() for value in total.values()]
        flat = noise.gaussian(sum(sizes), key=(self.name, step))
        flat *= self.noise_multiplier * self.max_grad_norm
        moved = torch.from_numpy(flat).to(next(iter(total.values())).device)
        for value, part in zip(total.values(), torch.split(moved, sizes), strict=True):
            value += part.view(value.shape)
