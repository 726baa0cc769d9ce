"""The privacy statement as the report shows it: the promise, its meaning, and what it rests on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dpdm.evaluation.charts import rates_chart
from dpdm.evaluation.text import (
    compact,
    epsilon_text,
    sentences,
)
from dpdm.promise.wording import (
    event_in_words,
    factor_at_most,
    noun,
    percent_at_most,
    scientific,
    weak,
)

STATEMENT_KEYS = frozenset(
    {
        "private",
        "not_private_because",
        "epsilon",
        "delta",
        "unit",
        "max_images_per_unit",
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
        "this_run",
        "ledger",
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
    attacks_from_curve: bool
    """Whether these come from the mechanisms' trade-off curve, not from epsilon and delta alone."""
    attacks_chart: Markup
    attack_brief: tuple[str, str] | None
    """Members found at most, and at which rate of false alarms: the one to name first."""
    guessed: str | None
    """How often the best attacker is right at most about a unit that was in with probability
    one half."""
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
        unit=noun(str(statement.get("unit", "image"))),
        in_words=sentences(statement.get("in_words")) or _in_words(statement, guaranteed),
        covered=sentences(statement.get("covered")),
        not_covered=sentences(statement.get("not_covered")),
        treated_as_public=sentences(statement.get("treated_as_public")),
        limits=sentences(statement.get("limits")),
        attacks=tuple(_attack(row) for row in rates),
        attacks_from_curve="from" in bounds,
        attacks_chart=rates_chart(
            [(f, t) for f, t in bounds.get("curve") or ()],
            label="The most members that can be found, against the false alarms allowed",
            x_label="false alarms allowed, %",
            y_label="found, at most, %",
        ),
        attack_brief=_brief(rates),
        guessed=(
            percent_at_most((1 + bounds["advantage_at_most"]) / 2)
            if "advantage_at_most" in bounds
            else None
        ),
        attacks_hardly_bounded=bool(rates) and weak(bounds),
        mechanisms=tuple(
            (str(use.get("name", "")), _event(use.get("event")), compact(use.get("count")))
            for use in statement.get("mechanisms") or ()
        ),
        facts=_facts(statement, guaranteed),
    )


def _attack(row: Mapping[str, float]) -> tuple[str, str]:
    return f"{100 * row['false_positive_rate']:g}%", percent_at_most(row["true_positive_rate"])


def _brief(rates: Sequence[Mapping[str, float]]) -> tuple[str, str] | None:
    for row in rates:
        if row["false_positive_rate"] == 0.01:
            alarms, found = _attack(row)
            return found, alarms
    return None


def _in_words(statement: Mapping[str, Any], guaranteed: bool) -> tuple[str, ...]:
    if not guaranteed:
        reason = str(statement.get("not_private_because") or "").strip()
        return (reason[:1].upper() + reason[1:],) if reason else ()
    epsilon, unit = statement.get("epsilon"), noun(str(statement.get("unit", "image")))
    if epsilon is None or not math.isfinite(epsilon):
        return ()
    words = (
        f"Whatever may be concluded from this release: whether any one {unit} was in the "
        f"collection or not changes its probability by a factor of at most e to the epsilon, "
        f"{factor_at_most(epsilon)}, but for an allowance of delta."
    )
    several = {
        "image": "A person who appears in k images is protected less: about k times epsilon.",
        "person": "A person stands here for all images of that person, however many they are.",
    }
    return (words, several[unit]) if unit in several else (words,)


def _event(event: Any) -> str:
    if isinstance(event, Mapping):
        words = event_in_words(event)
        return words[:1].upper() + words[1:]
    return compact(event)


_UNITS = {"group": "all images of one person (group)"}


def _facts(statement: Mapping[str, Any], guaranteed: bool) -> tuple[tuple[str, str], ...]:
    names = {
        "unit": "Protected unit",
        "adjacency": "Neighbouring data sets",
        "accountant": "Accountant",
        "noise_source": "Noise",
    }
    facts = [
        (title, _UNITS.get(str(statement[key]), compact(statement[key])))
        for key, title in names.items()
        if statement.get(key) is not None and (guaranteed or key == "noise_source")
    ]
    by_accountant = statement.get("epsilon_by_accountant")
    if guaranteed and by_accountant:
        values = (f"{name} {epsilon_text(value)}" for name, value in by_accountant.items())
        facts.append(("Epsilon by accountant", ", ".join(values)))
    if guaranteed and statement.get("planned_epsilon") is not None:
        facts.append(("Epsilon planned", f"{statement['planned_epsilon']:g}"))
    if not guaranteed:
        return tuple(facts)
    if statement.get("max_images_per_unit") is not None:
        facts.append(("Images of a person in one step", f"{statement['max_images_per_unit']:g}"))
    if (own := statement.get("this_run")) is not None:
        facts.append(("Epsilon of this run alone", epsilon_text(own.get("epsilon"))))
    if (ledger := statement.get("ledger")) is not None:
        runs, budget = ledger["runs"], ledger.get("budget")
        text = f"{runs} runs on these data; epsilon is for all together" if runs > 1 else "1 run"
        if budget is not None:
            text += f"; at most epsilon {budget['epsilon']:g} at delta {budget['delta']:g} in all"
        facts.append(("Ledger", text))
    return tuple(facts)
