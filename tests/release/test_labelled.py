"""Samples under the labels that a labeller reads from them."""

from __future__ import annotations

import numpy as np

from dpdm.release.labelled import ROUNDS, draw_as_labelled, fit_reading


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


def read(images: np.ndarray, asked: np.ndarray | None = None) -> np.ndarray:
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
    never = lambda images, asked=None: np.where(read(images) == 1, 0, read(images))  # noqa: E731
    wanted = np.arange(40) % 2
    images = draw_as_labelled(draw, never, wanted)
    assert made[0] <= ROUNDS * 40
    assert len(np.unique(images)) == 40
    assert (never(images)[wanted == 0] == 0).all()


def noisy_logits(shown: np.ndarray, classes: int, strength: float, seed: int) -> np.ndarray:
    """Logits of a reader who is as right as he says."""
    logits = np.random.default_rng(seed).normal(0, 1, (len(shown), classes))
    logits[np.arange(len(shown)), shown] += strength
    return strength * logits


def drawn_for(shown: np.ndarray, table: np.ndarray, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.array([random.choice(len(table), p=table[label]) for label in shown])


def test_the_fit_finds_what_images_of_a_class_were_drawn_for():
    true = np.array([[0.9, 0.1, 0, 0], [0, 1, 0, 0], [0.2, 0, 0.8, 0], [0, 0.1, 0.1, 0.8]])
    shown = np.arange(20_000) % 4
    found = fit_reading(noisy_logits(shown, 4, 2.0, 1), drawn_for(shown, true, 0))
    assert found.temperature == 1.0
    np.testing.assert_allclose(found.asked_given_shown.sum(1), 1.0)
    np.testing.assert_allclose(found.asked_given_shown, true, atol=0.03)


def test_a_reader_who_is_too_sure_is_cooled_down():
    true = 0.85 * np.eye(4) + 0.15 / 4
    shown = np.arange(8000) % 4
    logits = 3.0 * noisy_logits(shown, 4, 1.5, 1)
    assert fit_reading(logits, drawn_for(shown, true, 0)).temperature in (2.0, 3.0, 4.0)


def test_reader_and_label_asked_for_together_are_right_more_often_than_either():
    shown = np.arange(5000) % 5
    asked = drawn_for(shown, 0.87 * np.eye(5) + 0.13 / 5, 2)
    logits = noisy_logits(shown, 5, 1.5, 3)
    both = fit_reading(logits, asked).probabilities(logits, asked).argmax(1)
    alone = (logits.argmax(1) == shown).mean()
    assert (both == shown).mean() > max(alone, (asked == shown).mean()) + 0.01
