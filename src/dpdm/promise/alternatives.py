"""What `dpdm privacy plan` answers: the missing number, by both accountants, and what else the same
promise allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpdm.errors import RequestError
from dpdm.privacy.accounting import ACCOUNTANTS, Accountant, Event, require_sample_rate
from dpdm.privacy.accounting import epsilon as spent
from dpdm.promise.planning import (
    MAXIMUM_STEPS,
    check_delta,
    check_steps,
    noise_multiplier_for,
    sample_rate_within,
    steps_within,
)

VIEWS = (1, 4, 8, 32)
_SAME_EPOCHS = (0.25, 0.5, 2.0, 4.0)  # factors of the sample rate
_SAME_NOISE = (0.5, 2.0)


def plan(
    *,
    delta: float,
    sample_rate: float | None = None,
    steps: int | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    accountant: Accountant = "pld",
    public_size: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Solves for the one of epsilon, noise multiplier, steps and sample rate that is not given.

    ``public_size`` is the declared number of units N; with it, ``batch_size`` B may stand for the
    sample rate B / N.

    Returns:
        What `dpdm privacy plan --json` prints: ``epsilon``, ``delta``, ``noise_multiplier``,
        ``sample_rate``, ``steps``, ``accountant`` (what is given is repeated; what is solved for
        spends no more than epsilon); ``solved_for``; ``public_size`` and ``batch_size`` (rounded
        down) or None; ``by_accountant``, each accountant's four numbers, or None where it has no
        solution; ``same_epsilon``, see :func:`same_epsilon`; ``views``, a list of ``views`` (K) and
        ``image_passes_per_unit``, the expected number of views of a unit over the whole run, which
        costs no privacy.

    Raises:
        RequestError: not exactly one of the four left out, values that make no promise, a request
            that nothing meets.
    """
    if batch_size is not None:
        if public_size is None or sample_rate is not None:
            raise RequestError(
                "privacy plan: a batch size stands for the sample rate batch size / public size; "
                "give it with the public size and without a sample rate"
            )
        sample_rate = batch_size / max(public_size, 1)
    if public_size is not None:
        if public_size < 1:
            raise RequestError(f"public size {public_size}: must be at least 1")
        check_delta(delta, public_size)
    given: dict[str, float | None] = {
        "epsilon": epsilon,
        "noise_multiplier": noise_multiplier,
        "steps": steps,
        "sample_rate": sample_rate,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        raise RequestError(
            "privacy plan: leave out exactly one of epsilon, noise multiplier, steps and sample "
            f"rate, to be solved for; left out: {', '.join(missing).replace('_', ' ') or 'none'}"
        )
    unknown = missing[0]
    solved = _solve(unknown, given, delta, accountant)
    by_accountant: dict[str, dict[str, float] | None] = {}
    for name in ACCOUNTANTS:
        try:
            by_accountant[name] = (
                solved if name == accountant else _solve(unknown, given, delta, name)
            )
        except RequestError:
            by_accountant[name] = None
    rate, count = solved["sample_rate"], int(solved["steps"])
    if _batch(rate, public_size) == 0:
        raise RequestError(
            f"sample rate {rate:g} of {public_size} units is less than one unit per step; use more "
            "noise, fewer steps or a larger epsilon"
        )
    return {
        "epsilon": solved["epsilon"],
        "delta": float(delta),
        "noise_multiplier": solved["noise_multiplier"],
        "sample_rate": rate,
        "steps": count,
        "accountant": accountant,
        "solved_for": unknown,
        "public_size": public_size,
        "batch_size": _batch(rate, public_size),
        "by_accountant": by_accountant,
        "same_epsilon": same_epsilon(solved, delta, accountant, public_size),
        "views": [{"views": k, "image_passes_per_unit": k * rate * count} for k in VIEWS],
    }


def same_epsilon(
    chosen: Mapping[str, float], delta: float, accountant: Accountant, public_size: int | None
) -> list[dict[str, Any]]:
    """Other sample rates with the epsilon of ``chosen`` (its four numbers), and ``chosen`` first.

    A quarter, half, twice and four times its sample rate with the same number of epochs (sample
    rate times steps), solved for the noise multiplier; half and twice with the same noise
    multiplier, solved for the steps. Left out are rates above 1 and what nothing meets.

    Each is a dictionary of ``keeps`` ("all", "epochs" or "noise_multiplier"), ``sample_rate``,
    ``batch_size`` (with a ``public_size``, else None), ``steps``, ``epochs``, ``noise_multiplier``,
    ``noise_of_mean``: the standard deviation of one step's noise in each coordinate of the mean
    gradient over the clip norm, noise multiplier / batch size (None without a ``public_size``);
    and ``noise_of_mean_times_units``: the same times the number of units.
    """
    target, noise = chosen["epsilon"], chosen["noise_multiplier"]
    rate, steps = chosen["sample_rate"], int(chosen["steps"])
    rows = [_row("all", rate, steps, noise, public_size)]

    def rates(factors: tuple[float, ...]) -> list[float]:
        whole = [_whole_batches(rate * factor, public_size) for factor in factors]
        return [other for other in whole if 0 < other <= 1 and other != rate]

    for other in rates(_SAME_EPOCHS):
        count = max(1, round(rate * steps / other))
        try:
            found = noise_multiplier_for(target, delta, other, count, accountant=accountant)
        except RequestError:
            continue
        rows.append(_row("epochs", other, count, found, public_size))
    for other in rates(_SAME_NOISE):
        count = steps_within(target, delta, Event(noise, other), accountant=accountant)
        if 0 < count < MAXIMUM_STEPS:
            rows.append(_row("noise_multiplier", other, count, noise, public_size))
    return rows


def _solve(
    unknown: str, given: Mapping[str, Any], delta: float, accountant: Accountant
) -> dict[str, float]:
    """The four numbers with the unknown one solved for."""
    target, noise = given["epsilon"], given["noise_multiplier"]
    steps, rate = given["steps"], given["sample_rate"]
    if steps is not None:
        check_steps(steps)
    if rate is not None:
        require_sample_rate(rate)
    value: float
    if unknown == "epsilon":
        value = spent([(Event(noise, rate), steps)], delta, accountant)
        if math.isinf(value):
            raise RequestError(
                f"noise multiplier {noise:g} at delta={delta:g}: no finite epsilon can be shown; "
                "use more noise or a larger delta"
            )
    elif unknown == "noise_multiplier":
        value = noise_multiplier_for(target, delta, rate, steps, accountant=accountant)
    elif unknown == "sample_rate":
        value = sample_rate_within(target, delta, noise, steps, accountant=accountant)
    else:
        value = steps_within(target, delta, Event(noise, rate), accountant=accountant)
        if not 0 < value < MAXIMUM_STEPS:
            many = f"{MAXIMUM_STEPS} steps or more stay" if value else "not even one step stays"
            raise RequestError(
                f"{many} within epsilon={target:g} at delta={delta:g} with noise multiplier "
                f"{noise:g}, sample rate {rate:g} and the {accountant} accountant; "
                + ("use less noise or give the steps" if value else "use more noise")
            )
    return {name: float(number) for name, number in given.items() if number is not None} | {
        unknown: value
    }


def _row(
    keeps: str, rate: float, steps: int, noise: float, public_size: int | None
) -> dict[str, Any]:
    return {
        "keeps": keeps,
        "sample_rate": rate,
        "batch_size": _batch(rate, public_size),
        "steps": steps,
        "epochs": rate * steps,
        "noise_multiplier": noise,
        "noise_of_mean": noise / (rate * public_size) if public_size else None,
        "noise_of_mean_times_units": noise / rate,
    }


def _batch(rate: float, public_size: int | None) -> int | None:
    """The expected units per step, rounded down, so that the sample rate covers it."""
    return None if public_size is None else math.floor(rate * public_size * (1 + 1e-12))


def _whole_batches(rate: float, public_size: int | None) -> float:
    return round(rate * public_size) / public_size if public_size else rate
