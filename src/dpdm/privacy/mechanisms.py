"""The mechanisms: the only doors through which anything learnt from private data leaves.

A mechanism owns its sensitivity, its noise and its event together, so that they cannot disagree.
Adjacency is add or remove one unit. Every release first writes its event to the ledger, durably,
and only then draws noise.

- ``NoisedSum``: Gaussian mechanism on a sum of clipped vectors, each unit in at most one segment.
- ``NoisedScatter``: Gaussian mechanism on a sum of outer products x x^T of clipped vectors.
- ``DpSgdStep``: Poisson-sampled Gaussian mechanism on clipped per-unit gradients
  (Abadi et al. 2016; Dockhorn et al. 2023, eq. 6 and 7).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from dpdm.privacy.accounting import Event, gaussian, poisson_sampled_gaussian
from dpdm.privacy.gradients import clip_and_sum
from dpdm.privacy.ledger import Ledger
from dpdm.privacy.noise import NoiseSource, SeededNoise

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Gradients = dict[str, torch.Tensor]

_MARGIN = 1e-9
"""Relative margin under the clip norm: float64 rounding cannot carry a clipped vector over it."""


class Mechanism(Protocol):
    """What a session writes down: a name and the event that the accountant composes."""

    @property
    def name(self) -> str: ...

    @property
    def event(self) -> Event: ...


@dataclass(frozen=True)
class Session:
    """What a release needs: where it is written down and where its noise comes from.

    Both ``None`` is a run without a promise (``privacy.enabled=false``): nothing is clipped, no
    noise is added, nothing is written, and the statement says so.
    """

    ledger: Ledger | None
    noise: NoiseSource | None

    def __post_init__(self) -> None:
        if (self.ledger is None) != (self.noise is None):
            raise ValueError("a session has both a ledger and a noise source, or neither")

    @property
    def repeatable(self) -> bool:
        """Whether a step done again draws the same noise: it releases, and spends, nothing new."""
        return self.noise is not None and not self.noise.private

    def spend(self, mechanism: Mechanism, step: int) -> NoiseSource | None:
        """Writes the event down, durably, and only then hands out the noise source."""
        if self.ledger is None or self.noise is None:
            return None
        if self.repeatable:
            self.ledger.record_once(mechanism.name, mechanism.event, step=step)
        else:
            self.ledger.record(mechanism.name, mechanism.event, step=step)
        return self.noise


def clip_rows(private_vectors: Array, max_norm: float) -> Array:
    """Rows of (N, d) scaled to norm at most ``max_norm``; rows that are not finite become zero."""
    finite = np.isfinite(private_vectors).all(axis=1, keepdims=True)
    vectors: Array = np.where(finite, private_vectors, 0.0)
    if math.isinf(max_norm):
        return vectors
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    limit = max_norm * (1.0 - _MARGIN)
    vectors *= np.minimum(1.0, limit / np.maximum(norms, limit))
    return vectors


@dataclass(frozen=True)
class _GaussianRelease(ABC):
    """A sum over all units with Gaussian noise of ``noise_multiplier`` times its sensitivity.

    Attributes:
        name: of the mechanism, in ledger and statement.
        noise_multiplier: standard deviation of the noise over the sensitivity.
        max_norm: every unit's vector is clipped to this Euclidean norm.
        segments: number of sums; a unit adds to one of them.
    """

    name: str
    noise_multiplier: float
    max_norm: float
    segments: int = 1

    @property
    def event(self) -> Event:
        """One Gaussian mechanism of sensitivity 1."""
        return gaussian(self.noise_multiplier)

    @property
    @abstractmethod
    def sensitivity(self) -> float:
        """How far one unit more or less moves all sums together, in Euclidean norm."""

    @abstractmethod
    def exact(self, private_vectors: Array, private_segments: Integers | None = None) -> Array:
        """The clipped sums without noise: private."""

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise."""
        return self.noise_multiplier * self.sensitivity

    def isotropic(self, normal: Array) -> Array:
        """Standard normal numbers, shaped into noise that is isotropic where the sums live."""
        return normal

    def release(
        self,
        private_vectors: Array,
        session: Session,
        private_segments: Integers | None = None,
        step: int = 0,
    ) -> Array:
        """Noised sums, one per segment, of vectors (N, d).

        ``private_segments`` (N,) says to which of the sums each unit adds; None is the only one.
        """
        noise = session.spend(self, step)
        if noise is None:
            return replace(self, max_norm=math.inf).exact(private_vectors, private_segments)
        total = self.exact(private_vectors, private_segments)
        normal = noise.gaussian(total.shape, key=(self.name, step))
        return total + self.deviation * self.isotropic(normal)


@dataclass(frozen=True)
class NoisedSum(_GaussianRelease):
    """Per-segment sums of clipped vectors: (segments, d).

    Sensitivity: a unit adds one vector of norm at most ``max_norm`` to one segment, so all segments
    together move by at most ``max_norm``.
    """

    @property
    def sensitivity(self) -> float:
        """The clip norm."""
        return self.max_norm

    def exact(self, private_vectors: Array, private_segments: Integers | None = None) -> Array:
        """The clipped sums without noise, (segments, d): private."""
        clipped = clip_rows(private_vectors, self.max_norm)
        if private_segments is None:
            whole: Array = clipped.sum(axis=0, keepdims=True)
            return whole
        units = len(clipped)
        membership = scipy.sparse.csr_matrix(
            (np.ones(units), (private_segments, np.arange(units))), shape=(self.segments, units)
        )
        total: Array = np.asarray(membership.dot(clipped), dtype=np.float64)
        return total


@dataclass(frozen=True)
class NoisedScatter(_GaussianRelease):
    """Per-segment sums of outer products x x^T of clipped vectors: (segments, d, d), symmetric.

    Sensitivity: x x^T has Frobenius norm |x|^2, so all segments together move by at most
    ``max_norm**2`` in the space of symmetric matrices. The noise is a standard Gaussian in an
    orthonormal basis of that space: off-diagonal entries have 1/sqrt 2 of the diagonal's deviation.
    """

    @property
    def sensitivity(self) -> float:
        """The square of the clip norm."""
        return self.max_norm**2

    def exact(self, private_vectors: Array, private_segments: Integers | None = None) -> Array:
        """The clipped scatter matrices without noise, (segments, d, d): private."""
        clipped = clip_rows(private_vectors, self.max_norm)
        if private_segments is None:
            return (clipped.T @ clipped)[None]
        parts = [clipped[private_segments == segment] for segment in range(self.segments)]
        return np.stack([part.T @ part for part in parts])

    def isotropic(self, normal: Array) -> Array:
        """Symmetric matrices from (segments, d, d) normal numbers: upper triangle and diagonal."""
        upper = np.triu(normal, 1) / math.sqrt(2.0)
        symmetric: Array = upper + upper.transpose(0, 2, 1) + normal * np.eye(normal.shape[-1])
        return symmetric


UnitGradients = Callable[[Integers], tuple[torch.Tensor, Gradients]]
"""Unit indices (microbatch,) -> losses (microbatch,), per-unit gradients (microbatch, *shape)."""


@dataclass(frozen=True)
class PrivateStepStatistics:
    """What a step saw of the private data: never leaves the private side."""

    private_units: int
    private_loss: float
    private_clipped_share: float
    private_nonfinite_units: int


@dataclass(frozen=True)
class DpSgdStep:
    """One step of DP-SGD: Poisson sample, clip per unit, sum, add noise once, divide by a constant.

    Sensitivity: each sampled unit adds a gradient of norm at most ``max_grad_norm`` over all
    parameters together. Noise: ``noise_multiplier * max_grad_norm`` on every entry of the sum. The
    divisor ``expected_units`` is public and fixed; neither the realised batch nor the size of the
    private data enters it. Units of a padded microbatch have weight zero.
    """

    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float
    expected_units: float
    microbatch: int
    name: str = "DP-SGD step"

    @property
    def event(self) -> Event:
        """One Poisson-sampled Gaussian mechanism."""
        return poisson_sampled_gaussian(self.sample_rate, self.noise_multiplier)

    def release(
        self,
        private_unit_count: int,
        unit_gradients: UnitGradients,
        parameters: Gradients,
        session: Session,
        step: int,
    ) -> tuple[Gradients, PrivateStepStatistics]:
        """The noised mean gradient of step number ``step``.

        Args:
            private_unit_count: units in the private data; each is drawn with ``sample_rate``.
            unit_gradients: losses and per-unit gradients for a full microbatch of unit indices.
            parameters: name -> tensor of the shape of each gradient (its values are not used).
            session: the ledger and the noise source.
            step: number of the step, for the ledger and for reproducible noise.

        Returns:
            name -> noised sum / ``expected_units``, and statistics that must stay private.
        """
        noise = session.spend(self, step)
        source = noise or SeededNoise(0)
        chosen = np.flatnonzero(
            source.poisson_mask(private_unit_count, self.sample_rate, key=("poisson", step))
        )
        total = {
            name: torch.zeros_like(like, dtype=torch.float32) for name, like in parameters.items()
        }
        loss, clipped, nonfinite = 0.0, 0.0, 0
        max_norm = self.max_grad_norm if noise else math.inf
        for start in range(0, len(chosen), self.microbatch):
            units = chosen[start : start + self.microbatch]
            padding = self.microbatch - len(units)
            losses, gradients = unit_gradients(
                np.concatenate([units, np.repeat(units[:1], padding)])
            )
            weights = torch.ones(self.microbatch, device=losses.device)
            weights[len(units) :] = 0.0
            part = clip_and_sum(gradients, max_norm, weights)
            for name, value in part.sums.items():
                total[name] += value
            used = slice(0, len(units))
            loss += float(losses[used].nan_to_num(0.0, 0.0, 0.0).sum())
            clipped += float((part.norms[used] > max_norm).sum())
            nonfinite += int(part.nonfinite[used].sum())
        if noise:
            self._add_noise(total, noise, step)
        for value in total.values():
            value /= self.expected_units
        count = max(len(chosen), 1)
        return total, PrivateStepStatistics(len(chosen), loss / count, clipped / count, nonfinite)

    def _add_noise(self, total: Gradients, noise: NoiseSource, step: int) -> None:
        size = sum(value.numel() for value in total.values())
        flat = noise.gaussian((size,), key=(self.name, step))
        flat *= self.noise_multiplier * self.max_grad_norm
        start = 0
        for value in total.values():
            part = torch.from_numpy(flat[start : start + value.numel()]).reshape(value.shape)
            value += part.to(device=value.device, dtype=value.dtype)
            start += value.numel()
