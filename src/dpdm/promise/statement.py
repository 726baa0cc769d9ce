"""What was promised to the people in the data, as one dictionary: ``release/privacy.json``.

It follows the questions of NIST SP 800-226 (2025): what is protected, from whom, by how much, by
which mechanisms, and what is not. Epsilon is computed from the mechanisms that ran and from nothing
else. Nothing in a statement comes from private data, except the data set's size where it says that
this is treated as public. Its text for people is in ``wording.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import dpdm
from dpdm.privacy.accounting import ACCOUNTANTS, ADJACENCY, Accountant, Event, epsilon
from dpdm.promise.attack import attack_bounds, privacy_curve

Use = tuple[str, Event, int]
"""(mechanism, event, how often it ran), as ``ledger.counted_events()`` lists them."""

_COVERED = (
    "The model's weights, its configuration and this statement.",
    "Every sample drawn from the model, however many, with any sampler, labels and seed.",
    "Everything computed from these without looking at the private data again, by anyone, with any "
    "other knowledge and at any time.",
)
_NOT_COVERED = (
    "The private side of the run: checkpoints, ledger, training losses, evaluation on real data "
    "and its report.",
    "What is true of a unit because it is true of people in general: it can be learnt without that "
    "unit.",
    "The facts listed as treated as public, and that the data set was used at all.",
)
_OTHER_RELEASES = (
    "Other releases from the same data: each has its own epsilon and delta, and they add up."
)
_RELEASES_OUTSIDE = (
    "Releases from the same data that are not in this ledger: each has its own epsilon and delta, "
    "and they add up with these."
)
_LIMITS = (
    "Noise and sums are floating-point numbers, not the real numbers of the proof; the published "
    "attacks on that difference (Mironov 2012; Jin et al. 2022) are not ruled out; noise that sums "
    "several draws (privacy.noise_draws) makes them harder.",
    "The machine that trained, its operator and the operating system's random generator are "
    "trusted.",
    "Epsilon is an upper bound from a proof, not a measurement; it holds if the program does what "
    "the proof assumes.",
)
_SETTINGS = (
    "The settings (numbers of steps, clipping norms, network) are taken to be chosen without "
    "looking at the private data; trying several settings on it is several releases."
)
_SETTINGS_IN_LEDGER = (
    "The settings (numbers of steps, clipping norms, network) are taken to be chosen without "
    "looking at the private data, or by runs that are in this ledger."
)
_LIMITS_BY_UNIT = {
    "image": "A person who appears in k images is protected only by about k times epsilon, with a "
    "delta that grows faster than that; to protect persons, train with privacy.unit=group.",
    "group": "Who is one person is what the data's group column says: a person under two names in "
    "it counts as two, and one who is seen in the images of another is not protected there.",
}


def build_statement(
    events: Iterable[Use],
    *,
    delta: float,
    accountant: Accountant,
    unit: str,
    noise_source: str,
    enabled: bool,
    seeded: bool,
    planned_epsilon: float,
    image_shape: Sequence[int],
    classes: int,
    public_size: int,
    public_size_declared: bool,
    max_images_per_unit: int | None = None,
    pretrained_on: str | None = None,
    this_run: Iterable[Use] | None = None,
    runs: int = 1,
    budget: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """The statement of a run: JSON values, no infinity, no NaN.

    Args:
        events: all that ran on the data by the ledger, of every run in it up to this release.
        delta: the probability with which the promise may fail.
        accountant: computes ``epsilon``; the other one's value is given beside it.
        unit: what is protected: ``image``, or ``group`` for all images of one person.
        noise_source: the description of the noise.
        enabled: False where the run had neither clipping nor noise.
        seeded: whether the noise came from a chosen seed.
        planned_epsilon: the budget this run's noise was chosen for.
        image_shape: (H, W, C).
        classes: number of classes, 0 for none.
        public_size: the number of units that fixed the sample rate.
        public_size_declared: False where it is the exact count rather than a declaration.
        max_images_per_unit: the most images of a group that one training step draws.
        pretrained_on: public images that the network saw before the private ones, or None.
        this_run: those of ``events`` that are this run's, where the ledger holds several runs.
        runs: the number of runs in the ledger, this one with them.
        budget: (epsilon, delta) that all of the ledger's runs share, if one was set.

    Returns:
        The keys of INTERFACE.md (private, epsilon, delta, unit, adjacency, accountant, mechanisms,
        noise_source, covered, not_covered) and more. Where there is no promise ``private`` is false
        and ``not_private_because`` says why; ``epsilon`` is then None, except with a chosen seed,
        where it is what the same run would have spent with secret noise. ``attack_bounds`` has the
        keys of :func:`dpdm.promise.attack.attack_bounds`, and ``from``.

    Raises:
        RequestError: a delta outside (0, 1), an unknown accountant.
    """
    listed = list(events)
    counted = [(event, count) for _, event, count in listed]
    by_accountant = {
        name: _finite(epsilon(counted, delta, name)) if enabled else None for name in ACCOUNTANTS
    }
    spent = by_accountant[accountant]
    reason = _not_private_because(enabled, seeded, spent, delta)
    private = reason is None
    shared = this_run is not None or runs > 1 or budget is not None
    statement: dict[str, Any] = {
        "private": private,
        "not_private_because": reason,
        "epsilon": spent,
        "delta": delta,
        "unit": unit,
        "max_images_per_unit": max_images_per_unit,
        "adjacency": ADJACENCY,
        "accountant": accountant,
        "mechanisms": _uses(listed),
        "noise_source": noise_source,
        "covered": list(_COVERED) if private else [],
        "not_covered": [*_NOT_COVERED, _RELEASES_OUTSIDE if shared else _OTHER_RELEASES]
        if private
        else ["Everything: nothing that comes from this run is protected."],
        "treated_as_public": _public_facts(
            image_shape, classes, public_size, public_size_declared, unit, pretrained_on
        ),
        "planned_epsilon": planned_epsilon if enabled else None,
        "epsilon_by_accountant": by_accountant,
        "attack_bounds": None,
        "limits": [
            *([_LIMITS_BY_UNIT[unit]] if unit in _LIMITS_BY_UNIT else []),
            *_LIMITS,
            _SETTINGS_IN_LEDGER if shared else _SETTINGS,
        ]
        if private
        else [],
        "software": f"dpdm {dpdm.__version__}",
    }
    if this_run is not None:
        own = list(this_run)
        own_epsilon = epsilon([(event, count) for _, event, count in own], delta, accountant)
        statement["this_run"] = {"epsilon": _finite(own_epsilon), "mechanisms": _uses(own)}
    if shared:
        statement["ledger"] = {
            "runs": runs,
            "budget": None if budget is None else {"epsilon": budget[0], "delta": budget[1]},
        }
    if private and spent is not None:
        statement["attack_bounds"] = {
            "from": "trade-off curve",
            **attack_bounds([*privacy_curve(counted), (spent, delta)]),
        }
    return statement


def _uses(listed: Iterable[Use]) -> list[dict[str, Any]]:
    return [
        {"name": name, "event": event.to_json(), "count": count} for name, event, count in listed
    ]


def _not_private_because(
    enabled: bool, seeded: bool, spent: float | None, delta: float
) -> str | None:
    if not enabled:
        return "privacy was switched off; the model was trained without clipping and noise."
    if seeded:
        return (
            "the noise came from a chosen seed, so the run can be reproduced, and whoever knows "
            "the seed can subtract the noise."
        )
    if spent is None:
        return f"no finite epsilon can be shown at delta = {delta:g} for what was spent."
    return None


def _public_facts(
    shape: Sequence[int],
    classes: int,
    size: int,
    declared: bool,
    unit: str,
    pretrained_on: str | None,
) -> list[str]:
    height, width, channels = shape
    facts = [
        f"The image size: {height} x {width} pixels, {channels} channel{'s' * (channels != 1)}.",
        f"The number of classes, {classes}, and their names."
        if classes
        else "That the images have no classes.",
        "Every setting of the run (its configuration).",
    ]
    if pretrained_on is not None:
        facts.append(f"What the network was pretrained on: {pretrained_on}.")
    units = {"group": "groups (persons)"}.get(unit, f"{unit}s")
    if declared:
        return [*facts, f"The declared number of {units}, {size} (data.public_size)."]
    return [
        *facts,
        f"The exact number of {units} in the data set, {size}: none was declared "
        "(data.public_size), so the sample rate was computed from it. Who knows all units but one "
        "learns from it whether that one is in the data.",
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
