"""The privacy statement as the report shows it: the promise, its meaning, and what it rests on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpdm.evaluation.text import (
    compact,
    epsilon_text,
    factor_text,
    percent_up,
    scientific,
    sentences,
)
from dpdm.privacy.accounting import event_from_json

STATEMENT_KEYS = frozenset(
    {
        "private",
        "not_private_because",
        "epsilon",
        "delta",
        "unit",
        "adjacency",
        "accountant",
        "mechanisms",
        "noise_source",
        "covered",
        "not_covered",
        "in_words",
        "treated_as_public",
        "planned_epsilon",
        "epsilon_by_accountant",
        "attack_bounds",
        "limits",
    }
)
"""What is read of a statement, and so what the release side gets of it."""
MECHANISM_KEYS = frozenset({"name", "event", "count"})


@dataclass(frozen=True)
class StatementView:
    """A statement, prepared for the template."""

    guaranteed: bool
    epsilon: str
    delta: str
    unit: str
    in_words: tuple[str, ...]
    covered: tuple[str, ...]
    not_covered: tuple[str, ...]
    treated_as_public: tuple[str, ...]
    limits: tuple[str, ...]
    attacks: tuple[tuple[str, str], ...]
    """False alarms allowed, members found at most."""
    attacks_hardly_bounded: bool
    """Whether half of the members or more may be found at a false-alarm rate of 1%."""
    mechanisms: tuple[tuple[str, str, str], ...]
    """Name, what it does each time, how many times."""
    facts: tuple[tuple[str, str], ...]


def statement_view(statement: Mapping[str, Any]) -> StatementView:
    """Prepare a statement; one that does not say ``private: true`` makes no promise."""
    guaranteed = statement.get("private") is True
    bounds = (statement.get("attack_bounds") or {}) if guaranteed else {}
    rates = bounds.get("true_positive_rate_at_most") or ()
    return StatementView(
        guaranteed=guaranteed,
        epsilon=epsilon_text(statement.get("epsilon")) if guaranteed else "none",
        delta=scientific(statement.get("delta")) if guaranteed else "none",
        unit=str(statement.get("unit", "image")),
        in_words=sentences(statement.get("in_words")) or _in_words(statement, guaranteed),
        covered=sentences(statement.get("covered")),
        not_covered=sentences(statement.get("not_covered")),
        treated_as_public=sentences(statement.get("treated_as_public")),
        limits=sentences(statement.get("limits")),
        attacks=tuple(
            (f"{100 * row['false_positive_rate']:g}%", percent_up(row["true_positive_rate"]))
            for row in rates
        ),
        attacks_hardly_bounded=any(
            row["false_positive_rate"] <= 0.01 and row["true_positive_rate"] >= 0.5 for row in rates
        ),
        mechanisms=tuple(
            (str(use.get("name", "")), _event(use.get("event")), compact(use.get("count")))
            for use in statement.get("mechanisms") or ()
        ),
        facts=_facts(statement, guaranteed),
    )


def _in_words(statement: Mapping[str, Any], guaranteed: bool) -> tuple[str, ...]:
    if not guaranteed:
        reason = str(statement.get("not_private_because") or "").strip()
        return (reason[:1].upper() + reason[1:],) if reason else ()
    epsilon, unit = statement.get("epsilon"), statement.get("unit", "image")
    if epsilon is None or not math.isfinite(epsilon):
        return ()
    words = (
        f"Whatever may be concluded from this release: whether any one {unit} was in the "
        f"collection or not changes its probability by a factor of at most e to the epsilon, "
        f"{factor_text(epsilon)}, but for an allowance of delta."
    )
    several = "A person who appears in several images is protected less, the more images there are."
    return (words, several) if unit == "image" else (words,)


def _event(event: Any) -> str:
    if isinstance(event, Mapping):
        words = event_from_json(event).in_words()
        return words[:1].upper() + words[1:]
    return compact(event)


def _facts(statement: Mapping[str, Any], guaranteed: bool) -> tuple[tuple[str, str], ...]:
    names = {
        "unit": "Protected unit",
        "adjacency": "Neighbouring data sets",
        "accountant": "Accountant",
        "noise_source": "Noise",
    }
    facts = [
        (title, compact(statement[key]))
        for key, title in names.items()
        if statement.get(key) is not None and (guaranteed or key == "noise_source")
    ]
    by_accountant = statement.get("epsilon_by_accountant")
    if guaranteed and by_accountant:
        values = (f"{name} {epsilon_text(value)}" for name, value in by_accountant.items())
        facts.append(("Epsilon by accountant", ", ".join(values)))
    if guaranteed and statement.get("planned_epsilon") is not None:
        facts.append(("Epsilon planned", f"{statement['planned_epsilon']:g}"))
    return tuple(facts)
