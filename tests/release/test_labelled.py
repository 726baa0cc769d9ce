"""Samples under the labels that a labeller reads from them."""

from __future__ import annotations

import numpy as np

from dpdm.release.labelled import ROUNDS, draw_as_labelled


def drawing(wrong: float, seed: int = 0):
    """A source of images that show another class than was asked for in a share of cases.

    An image is (1, 1, 1): its class in the ones, a running number in the tens.
    """
    random, made = np.random.default_rng(seed), [0]

    def draw(labels: np.ndarray) -> np.ndarray:
        shown = np.where(
            random.random(len(labels)) < wrong, random.integers(0, 4, len(labels)), labels
        )
        numbers = made[0] + np.arange(len(labels))
        made[0] += len(labels)
        return (10 * numbers + shown).astype(np.int64).reshape(-1, 1, 1, 1)

    return draw, made


def read(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0] % 10


def test_every_label_is_found_in_its_image_and_no_image_comes_twice():
    draw, made = drawing(0.4)
    wanted = np.random.default_rng(1).integers(0, 4, 2000)
    images = draw_as_labelled(draw, read, wanted)
    assert np.array_equal(read(images), wanted)
    assert len(np.unique(images)) == 2000
    assert made[0] < 2.2 * 2000


def test_images_that_show_another_wanted_class_are_used_for_it():
    draw, made = drawing(0.0)
    swapped = lambda labels: draw(3 - labels)  # noqa: E731
    wanted = np.arange(400) % 4
    assert np.array_equal(read(draw_as_labelled(swapped, read, wanted)), wanted)
    assert made[0] == 400


def test_a_single_class_is_drawn_again_until_it_is_seen():
    draw, _ = drawing(0.5)
    wanted = np.full(100, 2)
    assert (read(draw_as_labelled(draw, read, wanted)) == 2).mean() > 0.97


def test_where_a_class_is_never_seen_drawing_ends_and_no_image_comes_twice():
    draw, made = drawing(0.0)
    never = lambda images: np.where(read(images) == 1, 0, read(images))  # noqa: E731
    wanted = np.arange(40) % 2
    images = draw_as_labelled(draw, never, wanted)
    assert made[0] <= ROUNDS * 40
    assert len(np.unique(images)) == 40
    assert (never(images)[wanted == 0] == 0).all()
