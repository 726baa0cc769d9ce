"""Samples under the labels that the labeller reads from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

ROUNDS = 6

TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
_ROUNDS_OF_EM = 40


@dataclass(frozen=True)
class Reading:
    """How a labeller's logits and the class that an image was drawn for are put together.

    Attributes:
        temperature: divides the logits.
        asked_given_shown: (Y, Y), rows of sum 1: of images that show a class, what they were drawn
            for.
    """

    temperature: float
    asked_given_shown: Array

    def probabilities(self, logits: Array, asked: Labels) -> Array:
        """(n, Y): what images show, from logits (n, Y) and the classes (n,) they were drawn for."""
        shown = softmax(logits / self.temperature, axis=1)
        joint = shown * self.asked_given_shown[:, asked].T
        found: Array = joint / joint.sum(1, keepdims=True)
        return found


def fit_reading(logits: Array, asked: Labels) -> Reading:
    """The temperature and table under which what images were drawn for is most likely.

    Logits (n, Y) of images that were drawn for ``asked`` (n,). Asked labels are taken for noisy
    copies of what images show, p(asked | image) = sum_y p(y | image) p(asked | y), as in learning
    with noisy labels (Sukhbaatar et al. 2014, arXiv 1406.2080); the table by expectation
    maximisation, the temperature, since a classifier trained with noise is too sure of images that
    are unlike its own, by trial.
    """
    classes = logits.shape[1]
    drawn_for = np.eye(classes)[asked]
    best, most = None, -np.inf
    for temperature in TEMPERATURES:
        shown = softmax(logits / temperature, axis=1)
        table = 0.9 * np.eye(classes) + 0.1 / classes
        for _ in range(_ROUNDS_OF_EM):
            joint = shown * table[:, asked].T
            # One image more of each class, as the last table has it, keeps rows from vanishing.
            counts = (joint / joint.sum(1, keepdims=True)).T @ drawn_for + table
            table = counts / counts.sum(1, keepdims=True)
        likelihood = float(np.log((shown * table[:, asked].T).sum(1)).mean())
        if likelihood > most:
            best, most = Reading(temperature, table), likelihood
    assert best is not None
    return best


def draw_as_labelled(
    draw: Callable[[Labels], Images],
    read: Callable[[Images, Labels], Labels],
    wanted: Labels,
) -> Images:
    """Images (n, H, W, C), one for each of ``wanted`` (n,), in which ``read(images, drawn for)``
    finds that class.

    ``draw`` is asked for every place; an image that shows another class than it was drawn for goes
    to an open place of that class. What is still open is drawn again, up to ``ROUNDS`` times in
    all; a place that no image was found for keeps the last one drawn for it.
    """
    images: Images | None = None
    places = np.arange(len(wanted))
    for _ in range(ROUNDS):
        drawn = draw(wanted[places])
        if images is None:
            images = np.empty((len(wanted), *drawn.shape[1:]), drawn.dtype)
        asked = wanted[places]
        found = read(drawn, asked)
        open_places, unused = np.ones(len(places), bool), np.ones(len(places), bool)
        for label in np.unique(asked):
            free = np.flatnonzero(asked == label)
            shown = np.flatnonzero(found == label)[: len(free)]
            images[places[free[: len(shown)]]] = drawn[shown]
            open_places[free[: len(shown)]] = unused[shown] = False
        # What is left open takes what is left over, no image twice, until it is drawn anew.
        left_open, left_over = np.flatnonzero(open_places), np.flatnonzero(unused)
        by_class = left_open[np.argsort(asked[left_open], kind="stable")]
        images[places[by_class]] = drawn[left_over[np.argsort(asked[left_over], kind="stable")]]
        places = places[left_open]
        if not len(places):
            break
    assert images is not None
    return images
