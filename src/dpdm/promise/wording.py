"""The statement for people: a few lines for a terminal, and ``PRIVACY.md`` for a privacy officer.

Made from the dictionary of ``statement.py`` alone, also one that an older version wrote. Numbers
are rounded towards the weaker promise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

from dpdm.privacy.accounting import event_from_json

WEAK = 0.5
"""Where more members than this may be found at 1% false alarms, the text calls the bound weak."""

_ACCOUNTANTS = {"pld": "privacy loss distributions (PLD)", "rdp": "Renyi divergences (RDP)"}
_TRUST = (
    "- Who is trusted: whoever holds the data and runs the program (the central model). Who "
    "receives the release is not trusted: they may know everything else and have any computer."
)


def noun(unit: str) -> str:
    """What a unit is called in a sentence: a group is a person."""
    return "person" if unit == "group" else unit


def first_line(statement: Mapping[str, Any]) -> str:
    """The promise in one sentence, or ``NOT PRIVATE`` and why."""
    if not statement["private"]:
        return f"NOT PRIVATE: {statement['not_private_because']}"
    whole = ", with all images of that person" if statement["unit"] == "group" else ""
    return (
        f"This release is differentially private: epsilon = {at_most(statement['epsilon'])} at "
        f"delta = {at_most(statement['delta'])} for every {noun(statement['unit'])} in the "
        f"data{whole}."
    )


def event_in_words(event: Mapping[str, Any]) -> str:
    """One clause for people: what was drawn, and how much noise; ``event`` as its JSON."""
    read = event_from_json(event)
    noise = f"Gaussian noise of {at_least(read.noise_multiplier, 5)} times the sensitivity"
    if read.sample_rate == 1:
        return f"{noise}, on all units"
    return f"{noise}, on a Poisson sample with rate {at_most(read.sample_rate, 5)}"


def render_text(statement: Mapping[str, Any]) -> str:
    """The statement in a few lines, for a terminal."""
    lines = [first_line(statement)]
    if statement["private"]:
        lines += [f"Neighbouring data sets: {statement['adjacency']}."]
    lines += [
        f"{use['name']}: {use['count']} x {event_in_words(use['event'])}."
        for use in statement["mechanisms"]
    ]
    lines += [f"Noise: {statement['noise_source']}."]
    own, ledger = statement.get("this_run"), statement.get("ledger")
    if own is not None and own["epsilon"] is not None:
        lines += [f"This run alone spent epsilon {at_most(own['epsilon'])}."]
    if ledger is not None and ledger["runs"] > 1:
        lines += [f"All of this is for {ledger['runs']} runs that share one ledger."]
    planned, spent = statement["planned_epsilon"], (own or statement)["epsilon"]
    if planned is not None and spent is not None and spent < 0.995 * planned:
        lines += [f"Planned was epsilon {at_most(planned)}; less was spent."]
    return "\n".join(lines)


def render_markdown(statement: Mapping[str, Any]) -> str:
    """The statement as ``PRIVACY.md``."""
    sections = [first_line(statement), "# Privacy statement"]
    if statement["private"]:
        sections += ["## What is promised", _promise(statement)]
        sections += ["## What an attacker could achieve", _attackers(statement)]
    elif statement["epsilon"] is not None:
        sections += [
            f"With noise that nobody can reproduce, the same run would have spent epsilon = "
            f"{at_most(statement['epsilon'])} at delta = {at_most(statement['delta'])}. With this "
            "noise it promises nothing."
        ]
    sections += ["## What touched the private data", _mechanisms(statement)]
    if statement["private"] and statement["mechanisms"]:
        sections += [_spending(statement)]
    if statement.get("ledger") is not None:
        sections += ["## The ledger", _ledger(statement)]
    sections += ["## Where the noise came from", _sentence(statement["noise_source"])]
    for title, key in (
        ("What is treated as public", "treated_as_public"),
        ("What is covered", "covered"),
        ("What is not covered", "not_covered"),
        ("Limits and assumptions", "limits"),
    ):
        if statement[key]:
            sections += [f"## {title}", "\n".join(f"- {line}" for line in statement[key])]
    sections += ["## How to check this", _CHECK]
    sections += [f"Computed by {statement['software']} from the ledger of the mechanisms that ran."]
    return "\n\n".join(sections) + "\n"


_CHECK = (
    "`dpdm privacy statement FOLDER` compares every file of the release with the SHA-256 hashes in "
    "`privacy.json`, names those that were changed since, and prints the seal, a hash over the "
    "statement and those hashes. There is no secret key in it: whoever rewrites all files can "
    "rewrite the seal too, so compare it with the seal that the sender told you another way."
)


def _promise(statement: Mapping[str, Any]) -> str:
    unit, one = statement["unit"], noun(statement["unit"])
    most = statement.get("max_images_per_unit")
    lines = [f"- Unit: what is protected is each single {one}."]
    if unit == "group":
        lines = [
            "- Unit: all images of one person (group): those with the same name in the data's "
            "group column. They are protected together, however many they are: in everything that "
            "is computed a person counts once, with the mean over their images."
        ]
        if most is not None:
            lines[0] += (
                f" One training step looks at no more than {most} image{'s' * (most != 1)} of a "
                "person, drawn at random."
            )
    lines += [
        f"- Adjacency: {statement['adjacency']}. The promise compares the data with the same data "
        f"plus or minus any one {one}{' and all their images' if unit == 'group' else ''}.",
        f"- Epsilon: {at_most(statement['epsilon'])}. Whatever may be concluded from the release, "
        f"adding or removing one {one} changes its probability by a factor of at most "
        f"{factor_at_most(statement['epsilon'])} (e^epsilon), in either direction.",
        f"- Delta: {at_most(statement['delta'])}. An allowance added to that: a probability may "
        "lie beyond the factor by at most this much.",
    ]
    if unit == "image":
        lines += [
            "- A person who appears in several images is protected less: for k images, think of k "
            "times epsilon."
        ]
    return "\n".join([*lines, _TRUST])


def _attackers(statement: Mapping[str, Any]) -> str:
    bounds, one = statement["attack_bounds"], noun(statement["unit"])
    found = bounds["true_positive_rate_at_most"]
    rows = [
        "| false alarms allowed | members found, at most |",
        "|---|---|",
        *(
            f"| {row['false_positive_rate']:.1%} | {percent_at_most(row['true_positive_rate'])} |"
            for row in found
        ),
    ]
    if "from" in bounds:
        origin = (
            "These limits come from the trade-off curve of the mechanisms below: what they "
            "guarantee at every epsilon at once, not only at the one stated above. They hold for "
            "every attacker and every method; who knows less can do less."
        )
    else:
        origin = (
            "These follow from epsilon and delta alone; they hold for the worst case, not the "
            "usual one."
        )
    several = (statement.get("ledger") or {}).get("runs", 1) > 1
    seen = "everything that the runs in the ledger released" if several else "the release"
    text = (
        f"An attacker who knows everything but whether one given {one} was in the data looks at "
        f"{seen} and says 'was in' or 'was not in'. Members found: the share of those who were in "
        "the data of whom the attacker says so. False alarms: the share of those who were not of "
        "whom the attacker says 'was in' all the same. Who allows fewer false alarms finds fewer "
        "members:\n\n" + "\n".join(rows) + "\n\n"
        "A guess without looking finds the same share of members as it raises false alarms. No "
        "method brings the share of members found above the share of false alarms by more than "
        f"{at_most(100 * bounds['advantage_at_most'])} percentage points, however many false "
        f"alarms are allowed. {origin}"
    )
    if weak(bounds):
        text += (
            " At this epsilon the worst case allows a nearly sure guess: the proof alone is weak "
            "protection against an attacker who knows almost everything."
        )
    return text


def weak(bounds: Mapping[str, Any]) -> bool:
    """Whether the bounds leave half of the members or more to be found at 1% false alarms."""
    return any(
        row["false_positive_rate"] <= 0.01 and row["true_positive_rate"] >= WEAK
        for row in bounds["true_positive_rate_at_most"]
    )


def _mechanisms(statement: Mapping[str, Any]) -> str:
    if not statement["mechanisms"]:
        return (
            "No mechanism ran: nothing was computed from private data."
            if statement["private"]
            else "Training read the private data directly; no mechanism stood between."
        )
    rows = ["| mechanism | what it does each time | times |", "|---|---|---|"]
    sampled = False
    for use in statement["mechanisms"]:
        event = event_from_json(use["event"])
        name, what = use["name"].replace("|", "/"), event_in_words(use["event"])
        rows += [f"| {name} | {what} | {use['count']} |"]
        sampled = sampled or event.sample_rate < 1
    one = noun(statement["unit"])
    legend = (
        f"Each adds up numbers computed from the units and publishes the sum with noise. The "
        f"sensitivity is the most by which one {one} can move the sum; it is enforced by clipping."
    )
    if sampled:
        legend += (
            f" On a Poisson sample, each {one} takes part with the stated probability, "
            "independently of all others and anew each time."
        )
    return "\n".join(rows) + "\n\n" + legend


def _spending(statement: Mapping[str, Any]) -> str:
    chosen = statement["accountant"]
    other, bound = next(
        (name, value)
        for name, value in statement["epsilon_by_accountant"].items()
        if name != chosen
    )
    beside = "none" if bound is None else f"epsilon {at_most(bound)}"
    text = (
        f"Together they spend epsilon {at_most(statement['epsilon'])} at delta "
        f"{at_most(statement['delta'])}, added up by {_ACCOUNTANTS[chosen]}; by "
        f"{_ACCOUNTANTS[other]}, another way of proof, the bound is {beside}. Steps that were done "
        "again after an interruption are counted again."
    )
    own, planned = statement.get("this_run"), statement["planned_epsilon"]
    if own is None or own["mechanisms"] == statement["mechanisms"]:
        return f"{text} Planned was epsilon {at_most(planned)}."
    alone = "no finite epsilon" if own["epsilon"] is None else f"epsilon {at_most(own['epsilon'])}"
    rows = [
        f"| {use['name'].replace('|', '/')} | {event_in_words(use['event'])} | {use['count']} |"
        for use in own["mechanisms"]
    ]
    return (
        f"{text}\n\nOf these, the run that made this release did the following, which alone spends "
        f"{alone}; planned for it was epsilon {at_most(planned)}.\n\n"
        + "\n".join(["| mechanism | what it does each time | times |", "|---|---|---|", *rows])
    )


def _ledger(statement: Mapping[str, Any]) -> str:
    ledger = statement["ledger"]
    runs, budget = ledger["runs"], ledger["budget"]
    text = "Every use of the data is written to a ledger before its result exists. "
    if runs > 1:
        text += (
            f"{runs} runs on these data share it, and the epsilon above is for all of them "
            "together: for one who sees everything that any of them released up to this release. "
        )
    else:
        text += "One run is in it: the one that made this release. "
    if budget is not None:
        text += (
            "No run may start or go on that would bring it above epsilon "
            f"{at_most(budget['epsilon'])} at delta {at_most(budget['delta'])} in all. "
        )
    return f"{text}What runs later on these data spends more, and a later statement says so."


def at_most(value: float, digits: int = 4) -> str:
    """An epsilon or another bound as text, never less than it is."""
    return f"{_figures(value, digits, ROUND_CEILING):g}"


def at_least(value: float, digits: int = 4) -> str:
    """What is left of a budget, or was shown by an attack, never more than it is."""
    return f"{_figures(value, digits, ROUND_FLOOR):g}"


def _figures(value: float, digits: int, rounding: str) -> float:
    return float(Context(prec=digits, rounding=rounding).create_decimal(repr(float(value))))


def percent_at_most(value: float) -> str:
    """A share that is an upper bound, never printed below what it is: 0.27181 as 27.2%."""
    return f"{at_most(round(100 * value, 9), 3)}%"


def factor_at_most(epsilon: float) -> str:
    """e to the epsilon, rounded up: 1.23, 2.72, 22,027, 2.7 × 10⁴³."""
    power = epsilon / math.log(10)
    if power < 6:
        value = math.exp(epsilon)
        return f"{math.ceil(value):,}" if value >= 100 else f"{math.ceil(100 * value) / 100:.2f}"
    exponent = math.floor(power)
    tenths = math.ceil(10 ** (1 + power - exponent))
    return _power_of_ten(tenths / 10, exponent) if tenths < 100 else _power_of_ten(1, exponent + 1)


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power_of_ten(mantissa: float, exponent: int) -> str:
    power = f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    return power if mantissa == 1 else f"{mantissa:g} × {power}"


def scientific(value: Any) -> str:
    """A delta, rounded up: 1e-05 as 10⁻⁵, 2.5e-06 as 2.5 × 10⁻⁶."""
    if value is None or not math.isfinite(value) or value <= 0:
        return "none" if value is None else f"{value:g}"
    mantissa, exponent = f"{_figures(value, 4, ROUND_CEILING):e}".split("e")
    return _power_of_ten(float(mantissa), int(exponent))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
