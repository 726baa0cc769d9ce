"""What was promised to the people in the data: one dictionary, and its text for people.

The dictionary is ``release/privacy.json``, the text ``release/PRIVACY.md``, after the questions of
NIST SP 800-226: what is protected, from whom, by how much, by which mechanisms, and what is not.
Epsilon is computed from the mechanisms that ran and from nothing else. Nothing in a statement comes
from private data, except the data set's size where it says that this is treated as public.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

import dpdm
from dpdm.privacy.accounting import (
    ACCOUNTANTS,
    ADJACENCY,
    Accountant,
    Event,
    epsilon,
    event_from_json,
)

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)

_COVERED = (
    "The model's weights, its configuration and this statement.",
    "Every sample drawn from the model, however many, with any sampler, labels and seed.",
    "Everything computed from these without looking at the private data again, by anyone, with any "
    "other knowledge and at any time.",
)
_NOT_COVERED = (
    "The private side of the run: checkpoints, ledger, training losses, evaluation on real data "
    "and its report.",
    "Other releases from the same data: each has its own epsilon and delta, and they add up.",
    "What is true of a unit because it is true of people in general: it can be learnt without that "
    "unit.",
    "The facts listed as treated as public, and that the data set was used at all.",
)
_LIMITS = (
    "Noise and sums are floating-point numbers, not the real numbers of the proof; the published "
    "attacks on that difference (Mironov 2012; Jin et al. 2022) are not ruled out.",
    "The machine that trained, its operator and the operating system's random generator are "
    "trusted.",
    "The settings (numbers of steps, clipping norms, network) are taken to be chosen without "
    "looking at the private data; trying several settings on it is several releases.",
    "Epsilon is an upper bound from a proof, not a measurement.",
)


def build_statement(
    events: Iterable[tuple[str, Event, int]],
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
) -> dict[str, Any]:
    """The statement of a run: JSON values, no infinity, no NaN.

    Args:
        events: (mechanism, event, count) that ran: ``ledger.counted_events()``.
        delta: the probability with which the promise may fail.
        accountant: computes ``epsilon``; the other one's value is given beside it.
        unit: what is protected, such as ``image``.
        noise_source: the description of the noise.
        enabled: False where the run had neither clipping nor noise.
        seeded: whether the noise came from a chosen seed.
        planned_epsilon: the budget the noise was chosen for.
        image_shape: (H, W, C).
        classes: number of classes, 0 for none.
        public_size: the number of units that fixed the sample rate.
        public_size_declared: False where it is the exact count rather than a declaration.

    Returns:
        The keys of INTERFACE.md (private, epsilon, delta, unit, adjacency, accountant, mechanisms,
        noise_source, covered, not_covered) and more. Where there is no promise ``private`` is false
        and ``not_private_because`` says why; ``epsilon`` is then None, except with a chosen seed,
        where it is what the same run would have spent with secret noise.

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
    statement: dict[str, Any] = {
        "private": private,
        "not_private_because": reason,
        "epsilon": spent,
        "delta": delta,
        "unit": unit,
        "adjacency": ADJACENCY,
        "accountant": accountant,
        "mechanisms": [
            {"name": name, "event": event.to_json(), "count": count}
            for name, event, count in listed
        ],
        "noise_source": noise_source,
        "covered": list(_COVERED) if private else [],
        "not_covered": list(_NOT_COVERED)
        if private
        else ["Everything: nothing that comes from this run is protected."],
        "treated_as_public": _public_facts(
            image_shape, classes, public_size, public_size_declared, unit
        ),
        "planned_epsilon": planned_epsilon if enabled else None,
        "epsilon_by_accountant": by_accountant,
        "attack_bounds": None,
        "limits": list(_LIMITS) if private else [],
        "software": f"dpdm {dpdm.__version__}",
    }
    if private and spent is not None:
        statement["attack_bounds"] = attack_bounds(spent, delta)
    return statement


def attack_bounds(epsilon: float, delta: float) -> dict[str, Any]:
    """How well any attacker can tell whether one given unit was in the data.

    From (epsilon, delta) alone (Kairouz, Oh, Viswanath 2015): at a false-positive rate f the
    true-positive rate is at most min(e^epsilon f + delta, 1 - e^-epsilon (1 - delta - f)), and the
    difference of the two rates, the advantage, at most (e^epsilon - 1 + 2 delta) / (e^epsilon + 1).
    Keys: ``advantage_at_most``, ``true_positive_rate_at_most`` (list of {"false_positive_rate":,
    "true_positive_rate":}).
    """
    shrink = math.exp(-epsilon)

    def true_positives(f: float) -> float:
        grown = (f / shrink if shrink > 0 else math.inf) + delta
        return max(f, min(grown, 1 - shrink * (1 - delta - f), 1.0))

    return {
        "advantage_at_most": min((1 - shrink + 2 * delta * shrink) / (1 + shrink), 1.0),
        "true_positive_rate_at_most": [
            {"false_positive_rate": f, "true_positive_rate": true_positives(f)}
            for f in FALSE_POSITIVE_RATES
        ],
    }


def first_line(statement: Mapping[str, Any]) -> str:
    """The promise in one sentence, or ``NOT PRIVATE`` and why."""
    if not statement["private"]:
        return f"NOT PRIVATE: {statement['not_private_because']}"
    return (
        f"This release is differentially private: epsilon = {_up(statement['epsilon'])} at delta = "
        f"{statement['delta']:g} for every {statement['unit']} in the data."
    )


def render_text(statement: Mapping[str, Any]) -> str:
    """The statement in a few lines, for a terminal."""
    lines = [first_line(statement)]
    if statement["private"]:
        lines += [f"Neighbouring data sets: {statement['adjacency']}."]
    lines += [
        f"{use['name']}: {use['count']} x {event_from_json(use['event']).in_words()}."
        for use in statement["mechanisms"]
    ]
    lines += [f"Noise: {statement['noise_source']}."]
    planned, spent = statement["planned_epsilon"], statement["epsilon"]
    if planned is not None and spent is not None and spent < 0.995 * planned:
        lines += [f"Planned was epsilon {planned:g}; less was spent."]
    return "\n".join(lines)


def render_markdown(statement: Mapping[str, Any]) -> str:
    """The statement as ``PRIVACY.md``, for a privacy officer."""
    sections = [first_line(statement), "# Privacy statement"]
    if statement["private"]:
        sections += ["## What is promised", _promise(statement)]
        sections += ["## What epsilon means", _meaning(statement)]
    elif statement["epsilon"] is not None:
        sections += [
            f"With noise that nobody can reproduce, the same run would have spent epsilon = "
            f"{_up(statement['epsilon'])} at delta = {statement['delta']:g}. With this noise it "
            "promises nothing."
        ]
    sections += ["## What touched the private data", _mechanism_table(statement)]
    if statement["private"] and statement["mechanisms"]:
        sections += [_spending(statement)]
    sections += ["## Where the noise came from", _sentence(statement["noise_source"])]
    for title, key in (
        ("What is treated as public", "treated_as_public"),
        ("What is covered", "covered"),
        ("What is not covered", "not_covered"),
        ("Limits and assumptions", "limits"),
    ):
        if statement[key]:
            sections += [f"## {title}", "\n".join(f"- {line}" for line in statement[key])]
    sections += [f"Computed by {statement['software']} from the ledger of the mechanisms that ran."]
    return "\n\n".join(sections) + "\n"


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
    shape: Sequence[int], classes: int, size: int, declared: bool, unit: str
) -> list[str]:
    height, width, channels = shape
    facts = [
        f"The image size: {height} x {width} pixels, {channels} channel{'s' * (channels != 1)}.",
        f"The number of classes, {classes}, and their names."
        if classes
        else "That the images have no classes.",
        "Every setting of the run (its configuration).",
    ]
    if declared:
        return [*facts, f"The declared number of units, {size} (data.public_size)."]
    return [
        *facts,
        f"The exact size of the data set, {size} {unit}s: none was declared (data.public_size), so "
        "the sample rate was computed from it. Who knows all units but one learns from it "
        "whether that one is in the data.",
    ]


def _promise(statement: Mapping[str, Any]) -> str:
    unit = statement["unit"]
    lines = [
        f"- Unit: what is protected is each single {unit}.",
        f"- Adjacency: {statement['adjacency']}. The promise compares the data with the same data "
        f"plus or minus any one {unit}.",
        f"- Epsilon: {_up(statement['epsilon'])}. Whatever may be concluded from the release, "
        f"adding or removing one {unit} changes its probability by a factor of at most "
        f"{_factor(statement['epsilon'])} (e^epsilon), in either direction.",
        f"- Delta: {statement['delta']:g}. An allowance added to that: the probability by which "
        "the factor may be missed.",
    ]
    if unit == "image":
        lines += [
            "- A person who appears in several images is protected less: for k images, think of k "
            "times epsilon."
        ]
    return "\n".join(lines)


def _mechanism_table(statement: Mapping[str, Any]) -> str:
    if not statement["mechanisms"]:
        return (
            "No mechanism ran: nothing was computed from private data."
            if statement["private"]
            else "Training read the private data directly; no mechanism stood between."
        )
    rows = ["| mechanism | what it does each time | times |", "|---|---|---|"]
    for use in statement["mechanisms"]:
        name, what = use["name"].replace("|", "/"), event_from_json(use["event"]).in_words()
        rows += [f"| {name} | {what} | {use['count']} |"]
    return "\n".join(rows)


def _spending(statement: Mapping[str, Any]) -> str:
    names = {"pld": "privacy loss distributions (PLD)", "rdp": "Renyi divergences (RDP)"}
    chosen = statement["accountant"]
    other, bound = next(
        (name, value)
        for name, value in statement["epsilon_by_accountant"].items()
        if name != chosen
    )
    beside = "none" if bound is None else f"epsilon {_up(bound)}"
    return (
        f"Together they spend epsilon {_up(statement['epsilon'])} at delta {statement['delta']:g} "
        f"by {names[chosen]}; by {names[other]} the bound is {beside}. Planned was epsilon "
        f"{statement['planned_epsilon']:g}. Steps that were done again after an interruption are "
        "counted again."
    )


def _meaning(statement: Mapping[str, Any]) -> str:
    bounds, unit = statement["attack_bounds"], statement["unit"]
    rows = [
        "| false alarms allowed | members found, at most |",
        "|---|---|",
        *(
            f"| {row['false_positive_rate']:.1%} | {_up_percent(row['true_positive_rate'])} |"
            for row in bounds["true_positive_rate_at_most"]
        ),
    ]
    text = (
        f"An attacker who knows everything but whether one given {unit} was in the data, and looks "
        "at the release, can be right about that only so often, whatever the method:\n\n"
        + "\n".join(rows)
        + "\n\nThe share of members found exceeds the share of false alarms by at most "
        f"{_up(100 * bounds['advantage_at_most'])} percentage points. These follow from epsilon "
        "and delta alone; they hold for the worst case, not the usual one."
    )
    if bounds["true_positive_rate_at_most"][1]["true_positive_rate"] > 0.5:
        text += (
            " At this epsilon the worst case allows a nearly sure guess: the proof alone is weak "
            "protection against an attacker who knows almost everything."
        )
    return text


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _up(value: float, digits: int = 4) -> str:
    """Rounded up, so that what is printed is never less than what was spent."""
    rounded = Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(value))
    return f"{float(rounded):g}"


def _up_percent(value: float) -> str:
    return f"{_up(100 * value)}%"


def _factor(value: float) -> str:
    factor = math.exp(min(value, 700.0))
    return f"{math.ceil(factor):,}" if 20 < factor < 1e9 else _up(factor, 3)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
