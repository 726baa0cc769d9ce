"""Drawing from a class-conditional mixture of low-rank Gaussians over vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dpdm.diffusion.draws import normal, uniform
from dpdm.errors import RequestError


class Gaussians(Protocol):
    """The fields of a mixture of Y classes, K components and R kept directions of E numbers.

    class_weights (Y,), weights (Y, K), means (Y, K, E), basis (Y, E, R), variances (Y, R), floor
    (Y,): class y is sum_k weights_yk N(means_yk, B diag(variances) B^T + floor (I - B B^T)); or
    floor (Y, E), a variance for each number: B diag(variances) B^T + diag(floor).
    """

    class_weights: Tensor
    weights: Tensor
    means: Tensor
    basis: Tensor
    variances: Tensor
    floor: Tensor


COARSE_DIRECTIONS = 20
"""Leading directions of a class that ``detail`` leaves as they are."""


def draw_vectors(
    gaussians: Gaussians,
    labels: Tensor,
    white: int,
    generator: torch.Generator | None = None,
    detail: Tensor | None = None,
    roots: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (N, E) in two parts, one for each of ``labels`` (N,), and the labels; -1 draws the
    class.

    The first is the centre and what lies in the kept directions. The second, (N, E + white), is the
    floor's part and after it ``white`` standard normal numbers. ``detail`` (N,) scales all but the
    leading directions, and the second part. ``roots`` (Y, K, S, S): a component's covariance in the
    first S of its class's directions is A A^T of its own, in place of diag(variances).
    """
    means = gaussians.means
    device, dtype, size = means.device, means.dtype, means.shape[2]
    count, rank = labels.shape[0], gaussians.basis.shape[2]
    choices = uniform((2, count), generator=generator, device=device, dtype=dtype)
    noise = normal((count, size + white), generator=generator, device=device, dtype=dtype)
    inside = normal((count, rank), generator=generator, device=device, dtype=dtype)
    if detail is not None:
        noise *= detail[:, None]
        inside[:, COARSE_DIRECTIONS:] *= detail[:, None]
    labels = labels.to(device)
    labels = torch.where(labels < 0, _pick(gaussians.class_weights, choices[0]), labels)
    vectors = torch.empty(count, size, device=device, dtype=dtype)
    for y, rows in label_groups(labels, means.shape[0]):
        basis = gaussians.basis[y]
        chosen = _pick(gaussians.weights[y], choices[1, rows])
        outside = noise[rows, :size]
        if gaussians.floor.ndim == 1:
            outside = outside - outside @ basis @ basis.T
        noise[rows, :size] = gaussians.floor[y].sqrt() * outside
        within = gaussians.variances[y].sqrt() * inside[rows]
        if roots is not None and (own := roots.shape[3]):
            for component in range(roots.shape[1]):
                members = chosen == component
                within[members, :own] = inside[rows[members], :own] @ roots[y, component].T
        vectors[rows] = means[y, chosen] + within @ basis.T
    return vectors, noise, labels


def label_groups(labels: Tensor, classes: int) -> Iterator[tuple[int, Tensor]]:
    """Each label present with the rows that have it; -1 for every label below 0.

    Raises RequestError for a label of ``classes`` or more.
    """
    order = torch.argsort(labels, stable=True)
    present, counts = torch.unique_consecutive(labels[order], return_counts=True)
    rows = torch.split(order, counts.tolist())
    for y, group in zip(present.tolist(), rows, strict=True):
        if y >= classes:
            raise RequestError(
                f"label {y} is not a class of this prior: it has {classes}, use 0 to "
                f"{classes - 1}, or -1 for any"
            )
        yield (y if y >= 0 else -1), group


def _pick(weights: Tensor, choices: Tensor) -> Tensor:
    """Indices drawn with ``weights`` by inverting their cumulative sum at uniform ``choices``.

    An index of weight zero is never picked, also where rounding leaves the sum below a choice.
    """
    cumulative = weights.cumsum(dim=0)
    scaled = choices * cumulative[-1]
    last = torch.nonzero(weights > 0).max()
    return torch.searchsorted(cumulative, scaled, right=True).minimum(last)
