"""Samples under the labels that the labeller reads from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

ROUNDS = 6


def draw_as_labelled(
    draw: Callable[[Labels], Images], read: Callable[[Images], Labels], wanted: Labels
) -> Images:
    """Images (n, H, W, C), one for each of ``wanted`` (n,), in which ``read`` finds that class.

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
        asked, found = wanted[places], read(drawn)
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
