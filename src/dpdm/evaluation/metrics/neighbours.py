"""Nearest neighbours and balls around points, in blocks: 60,000 against 60,000 in bounded memory.

Distances of all pairs come from float32 matrix products of centred blocks. Whatever is decided or
returned is computed again in float64 from the differences themselves wherever rounding could
matter, so that copies have distance zero and ties are ties. Vectors may be of any real type; bytes
are converted block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpdm.errors import RequestError

Vectors = NDArray[Any]
Progress = Callable[[int, int], None]

_QUERIES, _REFERENCES = 1024, 8192
_SPARE = 8
"""Candidates kept beyond k; where float32 rounding could push a true neighbour out even of these,
all that are near enough are looked at."""
_EXACT_BYTES = 1 << 26


class Neighbours(NamedTuple):
    """The k nearest, nearest first; of equal distances the one with the lower index first."""

    squared: NDArray[np.float64]
    """Squared Euclidean distances, (N, k)."""
    indices: NDArray[np.int64]
    """Which references, (N, k)."""


def nearest(
    queries: Vectors,
    references: Vectors,
    k: int,
    *,
    own: int | None = None,
    progress: Progress | None = None,
) -> Neighbours:
    """The k nearest of ``references`` (M, d) for each of ``queries`` (N, d).

    own: the queries are references[own : own + N], and no point is its own neighbour; an equal one
    at another place is. progress: called with (queries done, queries in all).
    Raises RequestError where there are fewer than k references to choose from.
    """
    others = len(references) - (own is not None)
    if others < k:
        raise RequestError(
            f"{k} nearest neighbours among {len(references)} images: give more images"
        )
    centre = _centre(references)
    keep = min(k + _SPARE, others)
    squared = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), np.int64)
    for start, block in _blocks(queries, _QUERIES, centre):
        norms = block.square().sum(1)
        best = torch.empty((len(block), 0))
        where = torch.empty((len(block), 0), dtype=torch.int64)
        for first, part in _blocks(references, _REFERENCES, centre):
            distances = _squared(block, norms, part)
            if own is not None:
                _leave_out_itself(distances, own + start, first)
            best = torch.cat([best, distances], 1)
            places = torch.arange(first, first + len(part)).expand(len(block), -1)
            where = torch.cat([where, places], 1)
            best, order = best.topk(min(keep, best.shape[1]), largest=False)
            where = where.gather(1, order)
        stop = start + len(block)
        chosen = _nearest_exactly(queries[start:stop], references, where.numpy(), k)
        squared[start:stop], indices[start:stop] = chosen
        # A reference nearer than the k-th has no larger a float32 distance than this, and is among
        # the candidates unless the last of them has a smaller one.
        kth = torch.from_numpy(chosen[0][:, -1])
        limits = kth + _tolerance(queries) * (3 * norms + 2 * kth)
        unsure = torch.nonzero((kth > 0) & (best[:, -1] <= limits))[:, 0]
        if keep < others and len(unsure):
            itself = None if own is None else unsure + own + start
            for row, (near, exactly) in zip(
                (unsure + start).tolist(),
                _all_within(queries, references, unsure + start, limits[unsure], itself, centre),
                strict=True,
            ):
                by_distance = np.lexsort((near, exactly))[:k]
                squared[row], indices[row] = exactly[by_distance], near[by_distance]
        if progress is not None:
            progress(stop, len(queries))
    return Neighbours(squared, indices)


class Inside(NamedTuple):
    """What lies in which balls; R radii for each centre."""

    holding: NDArray[np.int64]
    """How many balls hold each point, (N, R)."""
    reached: NDArray[np.bool_]
    """Whether each ball holds any point, (M, R)."""


def inside_balls(
    points: Vectors,
    centres: Vectors,
    squared_radii: NDArray[np.float64],
    *,
    progress: Progress | None = None,
) -> Inside:
    """Which of ``points`` (N, d) lie in closed balls around ``centres`` (M, d).

    squared_radii: (M, R), R radii for every centre. A point whose distance equals the radius is
    inside.
    """
    middle = _centre(centres)
    count = squared_radii.shape[1]
    holding = np.zeros((len(points), count), np.int64)
    reached = np.zeros((len(centres), count), np.bool_)
    tolerance = _tolerance(points)
    for start, block in _blocks(points, _QUERIES, middle):
        norms = block.square().sum(1)
        for first, part in _blocks(centres, _REFERENCES, middle):
            distances = _squared(block, norms, part).numpy()
            margin = tolerance * (norms[:, None] + part.square().sum(1)).numpy()
            for radius in range(count):
                limits = squared_radii[first : first + len(part), radius]
                within = distances <= limits
                rows, columns = np.nonzero(np.abs(distances - limits) <= margin)
                exact = _exact(points, centres, rows + start, columns + first)
                within[rows, columns] = exact <= limits[columns]
                holding[start : start + len(block), radius] += within.sum(1)
                reached[first : first + len(part), radius] |= within.any(0)
        if progress is not None:
            progress(start + len(block), len(points))
    return Inside(holding, reached)


def _tolerance(vectors: Vectors) -> float:
    """Of a float32 squared distance, over both squared norms: generous against the rounding of a
    product of this length."""
    return 2.0**-22 * float(np.sqrt(vectors.shape[1]))


def _all_within(
    queries: Vectors,
    references: Vectors,
    rows: Tensor,
    limits: Tensor,
    itself: Tensor | None,
    centre: Tensor,
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For some queries, which references have a float32 distance up to a limit, and their exact
    ones; ``itself`` is the reference that a query may not have."""
    points = torch.from_numpy(queries[rows.numpy()].astype(np.float32)) - centre
    norms = points.square().sum(1)
    found: list[list[int]] = [[] for _ in rows]
    for first, part in _blocks(references, _REFERENCES, centre):
        near = _squared(points, norms, part) <= limits[:, None]
        for row, column in torch.nonzero(near).tolist():
            if itself is None or first + column != itself[row]:
                found[row].append(first + column)
    results = []
    for row, columns in zip(rows.tolist(), found, strict=True):
        where = np.asarray(columns, np.int64)
        results.append((where, _exact(queries, references, np.full(len(where), row), where)))
    return results


def _centre(vectors: Vectors) -> Tensor:
    """The mean, taken off both sides: it costs float32 products the fewest digits."""
    total = np.zeros(vectors.shape[1])
    for start in range(0, len(vectors), _REFERENCES):
        total += vectors[start : start + _REFERENCES].sum(0, dtype=np.float64)
    return torch.from_numpy((total / len(vectors)).astype(np.float32))


def _blocks(vectors: Vectors, size: int, centre: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(vectors), size):
        block = vectors[start : start + size].astype(np.float32)
        yield start, torch.from_numpy(block) - centre


def _squared(queries: Tensor, norms: Tensor, references: Tensor) -> Tensor:
    offsets = norms[:, None] + references.square().sum(1)
    return torch.addmm(offsets, queries, references.T, alpha=-2)


def _leave_out_itself(distances: Tensor, start: int, first: int) -> None:
    own = torch.arange(start, start + len(distances)) - first
    rows = torch.nonzero((own >= 0) & (own < distances.shape[1]))[:, 0]
    distances[rows, own[rows]] = torch.inf


def _nearest_exactly(
    queries: Vectors, references: Vectors, candidates: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rows = np.repeat(np.arange(len(queries)), candidates.shape[1])
    squared = _exact(queries, references, rows, candidates.reshape(-1)).reshape(candidates.shape)
    order = np.lexsort((candidates, squared), axis=1)[:, :k]
    return np.take_along_axis(squared, order, 1), np.take_along_axis(candidates, order, 1)


def _exact(
    queries: Vectors,
    references: Vectors,
    rows: NDArray[np.intp],
    columns: NDArray[np.int64] | NDArray[np.intp],
) -> NDArray[np.float64]:
    """Squared distances of pairs, (P,); two vectors give the same bits either way round."""
    result = np.empty(len(rows))
    size = max(1, _EXACT_BYTES // (8 * queries.shape[1]))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        difference = queries[rows[part]].astype(np.float64) - references[columns[part]]
        result[part] = np.square(difference, out=difference).sum(1)
    return result
