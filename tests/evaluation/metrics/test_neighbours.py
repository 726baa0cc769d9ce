"""Neighbours in blocks: equal to the naive definitions, copies and ties among them."""

import numpy as np
import pytest

from dpdm.errors import RequestError
from dpdm.evaluation.metrics import neighbours
from dpdm.evaluation.metrics.neighbours import inside_balls, nearest


@pytest.fixture(params=[(1024, 8192), (3, 5)], ids=["one block", "many blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(neighbours, "_QUERIES", request.param[0])
    monkeypatch.setattr(neighbours, "_REFERENCES", request.param[1])


def all_squared(one, other):
    return ((one[:, None].astype(float) - other[None].astype(float)) ** 2).sum(-1)


def grey(count, seed, levels=4):
    """Vectors of few levels: full of ties, copies among them."""
    return np.random.default_rng(seed).integers(0, levels, (count, 3)).astype(np.uint8)


def spread_out(count, seed):
    return np.random.default_rng(seed).normal(100, 1, (count, 12)).astype(np.float32)


@pytest.mark.parametrize("draw", [grey, spread_out])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.usefixtures("blocks")
def test_the_nearest_are_those_of_the_naive_definition(draw, k):
    queries, references = draw(40, 0), draw(60, 1)
    found = nearest(queries, references, k)
    squared = all_squared(queries, references)
    np.testing.assert_array_equal(found.squared, np.sort(squared, 1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(squared, found.indices, 1), found.squared)


@pytest.mark.parametrize("draw", [grey, spread_out])
@pytest.mark.usefixtures("blocks")
def test_a_point_is_not_its_own_neighbour_but_its_copy_is(draw):
    points = draw(50, 0)
    points[7] = points[31]
    squared = all_squared(points, points)
    np.fill_diagonal(squared, np.inf)
    found = nearest(points, points, 4, own=0)
    np.testing.assert_array_equal(found.squared, np.sort(squared, 1)[:, :4])
    part = nearest(points[20:], points, 4, own=20)
    np.testing.assert_array_equal(part.squared, found.squared[20:])
    assert found.squared[7, 0] == 0
    assert 7 not in found.indices[7]


def test_of_equal_distances_the_lower_index_comes_first():
    references = np.array([[2.0], [1.0], [-1.0], [1.0]])
    assert nearest(np.zeros((1, 1)), references, 3).indices.tolist() == [[1, 2, 3]]


def test_a_copy_far_from_the_origin_has_distance_zero():
    # The float32 product alone would be off by about the norm squared times 1e-7.
    references = np.random.default_rng(0).normal(1e4, 1, (300, 50))
    found = nearest(references[::-1], references, 1)
    assert (found.squared == 0).all()
    assert found.indices[:, 0].tolist() == list(range(299, -1, -1))


@pytest.mark.parametrize("draw", [grey, spread_out])
@pytest.mark.usefixtures("blocks")
def test_balls_hold_what_the_naive_definition_says(draw):
    points, centres = draw(40, 0), draw(60, 1)
    radii = nearest(centres, centres, 5, own=0).squared[:, [2, 4]]
    found = inside_balls(points, centres, radii)
    within = all_squared(points, centres)[:, :, None] <= radii[None]
    np.testing.assert_array_equal(found.holding, within.sum(1))
    np.testing.assert_array_equal(found.reached, within.any(0))


def test_a_point_on_the_rim_is_inside():
    # 0.1 + 0.2: a distance that rounds; the ball is given the same distance as its radius.
    centres = np.array([[0.1, 0.2], [7.0, 9.0]])
    points = np.array([[0.7, 1.1]])
    radius = nearest(points, centres, 1).squared
    found = inside_balls(points, centres, np.array([radius[0], [1e-9]]))
    assert found.holding.tolist() == [[1]]
    assert found.reached[:, 0].tolist() == [True, False]


def test_progress_ends_with_the_last_query():
    seen = []
    nearest(grey(2000, 0), grey(30, 1), 1, progress=lambda *at: seen.append(at))
    assert seen == [(1024, 2000), (2000, 2000)]


@pytest.mark.parametrize(("own", "enough"), [(None, 4), (0, 3)])
def test_too_few_references_are_refused(own, enough):
    points = grey(4, 0)
    assert nearest(points, points, enough, own=own).squared.shape == (4, enough)
    with pytest.raises(RequestError, match="give more images"):
        nearest(points, points, enough + 1, own=own)


@pytest.mark.parametrize("own", [None, 0])
def test_a_copy_is_found_among_many_that_nearly_are_one(own):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, 12288).astype(np.uint8)
    nearly = np.repeat(image[None], 40, 0)
    nearly[np.arange(40), random.integers(0, 12288, 40)] ^= 1
    others = random.integers(0, 256, (100, 12288)).astype(np.uint8)
    references = np.concatenate([image[None], others, nearly, image[None]])
    found = nearest(references[:1], references if own == 0 else references[1:], 2, own=own)
    assert found.squared.tolist() == [[0.0, 1.0]]
    assert found.indices[0, 0] == 140 + (own == 0)
