"""Memorisation as the private report shows it: a verdict, its figures, and the closest pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpdm.evaluation.text import percent


@dataclass(frozen=True)
class SpaceView:
    """The figures of one space: (what, of the samples, of fresh real images)."""

    name: str
    rows: tuple[tuple[str, str, str], ...]
    origin: str


@dataclass(frozen=True)
class PairView:
    """A sample, its nearest training image and its nearest held-out image, in one picture."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str


@dataclass(frozen=True)
class MemorisationView:
    """What the template shows of memorisation."""

    verdict: str
    alarm: bool
    spaces: tuple[SpaceView, ...]
    pairs: tuple[PairView, ...]


def memorisation_view(found: Mapping[str, Any]) -> MemorisationView:
    """Prepares ``evaluation["memorisation"]``; pairs without a picture are left out."""
    return MemorisationView(
        verdict=str(found["verdict"]),
        alarm=bool(found["flagged"]),
        spaces=tuple(_space(name, entry) for name, entry in found["spaces"].items()),
        pairs=tuple(_pair(pair) for pair in found["pairs"] if "picture" in pair),
    )


def _space(name: str, entry: Mapping[str, Any]) -> SpaceView:
    return SpaceView(
        name=name,
        rows=(
            (
                f"Near-copies of training images (p = {entry['near_copies_p']:.2g})",
                percent(entry["near_copies"]),
                "1% at most",
            ),
            (
                "Distance to the nearest training image, median",
                _number(entry["distance_median"]),
                _number(entry["distance_median_held_out"]),
            ),
            (
                "That distance over the one to the nearest held-out image, median",
                _number(entry["ratio_median"]),
                _number(entry["ratio_median_held_out"]),
            ),
            (
                "Nearest real image is a training image",
                percent(entry["closer_to_train"]),
                percent(entry["closer_to_train_expected"]),
            ),
            (
                f"Membership inference, AUC (p = {entry['membership_p']:.2g})",
                f"{entry['membership_auc']:.3f}",
                "0.5",
            ),
        ),
        origin=(
            f"Near-copy: distance of at most {_number(entry['distance_threshold'])} and ratio "
            f"of at most {_number(entry['ratio_threshold'])}. Both come from "
            f"{entry.get('thresholds_from', entry['held_out_images']):,} images of the hold-out of "
            f"{entry['held_out_images']:,}: {entry['threshold_origin']}."
        ),
    )


def _pair(pair: Mapping[str, Any]) -> PairView:
    width, height = pair["picture_size"]
    distance, other = _number(pair["distance"]), _number(pair["held_out_distance"])
    return PairView(
        uri=f"data:image/png;base64,{pair['picture']}",
        width=int(width),
        height=int(height),
        alt=(
            f"Three images: sample {pair['synthetic']}, training image {pair['train']} at distance "
            f"{distance}, and the nearest held-out image at distance {other}"
        ),
        caption=(
            f"{distance} to training, {other} to held-out"
            f"{': near-copy' if pair['near_copy'] else ''}"
        ),
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
