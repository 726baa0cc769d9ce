"""Solves for what a budget allows: noise, steps, sample rate. The claim never rests on this file.

Each search ends on the side where the promise holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import lru_cache

from dpdm.errors import RequestError
from dpdm.privacy.accounting import (
    DISCRETIZATION,
    MAXIMUM_NOISE,
    Accountant,
    CountedEvent,
    Event,
    canonical,
    epsilon,
    require_delta,
    require_sample_rate,
    rough_epsilon,
)

MINIMUM_NOISE = 2.0**-10
"""Noise multipliers are searched from here to ``MAXIMUM_NOISE``."""

_FIRST_STEP = 1.2
"""Factor between noise multipliers where a search has a good start."""

MAXIMUM_STEPS = 10**6
"""More compositions than this would take PLD gigabytes; requests above it are refused."""

MINIMUM_RATE = 2.0**-24
"""Sample rates are searched from here to 1."""


def gaussian(noise_multiplier: float) -> Event:
    """The Gaussian mechanism on all units."""
    return Event(noise_multiplier)


def poisson_sampled_gaussian(sample_rate: float, noise_multiplier: float) -> Event:
    """The Gaussian mechanism on a Poisson sample: one step of DP-SGD."""
    return Event(noise_multiplier, sample_rate)


def noise_multiplier_for(
    epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    others: Iterable[CountedEvent] = (),
    accountant: Accountant = "pld",
    discretization: float = DISCRETIZATION,
) -> float:
    """The smallest noise multiplier with which ``steps`` steps and ``others`` stay within epsilon.

    ``others`` are fixed (event, count) pairs that share the budget. The result has seven
    significant digits, is about one part in a million above the smallest at most, and its epsilon
    never exceeds the target.

    Raises:
        RequestError: values that make no promise; an epsilon that no noise meets, or that hardly
            needs any.
    """
    _check_epsilon(epsilon)
    require_delta(delta)
    require_sample_rate(sample_rate)
    check_steps(steps)
    return _smallest_noise(
        float(epsilon),
        float(delta),
        float(sample_rate),
        int(steps),
        canonical(others),
        accountant,
        float(discretization),
    )


def gaussian_noise_multiplier_for(
    epsilon: float,
    delta: float,
    accountant: Accountant = "pld",
    others: Iterable[CountedEvent] = (),
) -> float:
    """The smallest noise multiplier of one Gaussian mechanism on all units; see above.

    PLD agrees with the closed form of Balle and Wang (2018), Theorem 8.
    """
    return noise_multiplier_for(epsilon, delta, 1.0, 1, others, accountant)


def steps_within(
    epsilon: float,
    delta: float,
    event: Event,
    others: Iterable[CountedEvent] = (),
    accountant: Accountant = "pld",
    at_most: int | None = None,
) -> int:
    """The largest number of times ``event`` can run, besides ``others``, within epsilon.

    0 where even one is too many. ``at_most`` bounds the answer (and ``MAXIMUM_STEPS`` in any case).
    """
    from scipy.optimize import brentq  # slow to import, and a sampled release has nothing to plan

    _check_epsilon(epsilon)
    fixed = canonical(others)

    def excess(count: int) -> float:
        return min(_spent(((event, count), *fixed), delta, accountant), 1e6 * epsilon) - epsilon

    limit = MAXIMUM_STEPS if at_most is None else min(at_most, MAXIMUM_STEPS)
    if limit < 1 or excess(1) > 0:
        return 0
    if at_most is not None and excess(limit) <= 0:
        return limit
    low, high = 1, min(8, limit)
    while high < limit and excess(high) <= 0:
        low, high = high, min(8 * high, limit)
    if excess(high) <= 0:
        return high
    root = brentq(
        lambda x: excess(round(math.exp(x))), math.log(low), math.log(high), xtol=0.2 / high
    )
    steps = round(math.exp(root))
    while excess(steps) > 0:
        steps -= 1
    while excess(steps + 1) <= 0:
        steps += 1
    return steps


def sample_rate_within(
    epsilon: float,
    delta: float,
    noise_multiplier: float,
    steps: int,
    others: Iterable[CountedEvent] = (),
    accountant: Accountant = "pld",
) -> float:
    """The largest sample rate at which ``steps`` steps, besides ``others``, stay within epsilon.

    At most 1; seven significant digits, rounded down, so that its epsilon never exceeds the target.

    Raises:
        RequestError: values that make no promise; an epsilon that no rate above one in 16 million
            meets.
    """
    _check_epsilon(epsilon)
    check_steps(steps)
    fixed = canonical(others)

    def spent(rate: float) -> float:
        return _spent(((Event(noise_multiplier, rate), steps), *fixed), delta, accountant)

    if spent(1.0) <= epsilon:
        return 1.0
    low = 0.5
    while spent(low) > epsilon:
        low /= 2
        if low < MINIMUM_RATE:
            raise RequestError(
                f"no sample rate meets epsilon={epsilon:g} at delta={delta:g} over {steps} steps "
                f"with noise multiplier {noise_multiplier:g} and the {accountant} accountant; "
                "raise one of them, or take fewer steps"
            )
    return _root_within(spent, epsilon, low, 2 * low, Context(prec=7, rounding=ROUND_FLOOR))


def check_delta(delta: float, public_size: int) -> None:
    """Refuses a delta at or above 1 / (declared number of units), with :class:`RequestError`."""
    require_delta(delta)
    if delta * public_size >= 1:
        raise RequestError(
            f"privacy.delta={delta:g} is not below 1 / {public_size} units: publishing one unit at "
            f"random would meet it; use {_suggested_delta(public_size):g} or less"
        )


def _suggested_delta(public_size: int) -> float:
    """The largest power of ten below 1 / size."""
    return float(f"1e-{len(str(max(public_size, 1)))}")


_spent = epsilon  # the name under which functions with an argument called epsilon reach it


def _check_epsilon(value: float) -> None:
    if not 0 < value < math.inf:
        raise RequestError(f"epsilon={value:g}: must be positive and finite; 1 to 10 is usual")


def check_steps(value: int) -> None:
    if not 1 <= value <= MAXIMUM_STEPS:
        raise RequestError(f"steps={value}: must lie between 1 and {MAXIMUM_STEPS}")


@lru_cache(maxsize=1024)
def _smallest_noise(
    target: float,
    delta: float,
    sample_rate: float,
    steps: int,
    others: tuple[CountedEvent, ...],
    accountant: Accountant,
    discretization: float,
) -> float:
    def made(noise: float) -> tuple[CountedEvent, ...]:
        return ((Event(noise, sample_rate), steps), *others)

    def spent(noise: float) -> float:
        return epsilon(made(noise), delta, accountant, discretization)

    already = epsilon(others, delta, accountant, discretization)
    if already >= target:
        raise RequestError(
            f"no noise meets epsilon={target:g} at delta={delta:g}: other mechanisms already spend "
            f"{already:.4g}; give them a smaller share or raise epsilon"
        )
    high, step = _start(lambda noise: rough_epsilon(made(noise), delta), target)
    while spent(high) > target:
        high *= step
        step = min(step**2, 2.0)
        if high > MAXIMUM_NOISE:
            raise RequestError(
                f"no noise meets epsilon={target:g} at delta={delta:g} over {steps} steps with the "
                f"{accountant} accountant; raise epsilon or delta, or take fewer steps"
            )
    low = high / step
    while spent(low) <= target:
        step = min(step**2, 2.0)
        low, high = low / step, low
        if low < MINIMUM_NOISE:
            raise RequestError(
                f"epsilon={target:g} at delta={delta:g} would be met with next to no noise, which "
                "protects nobody; use a smaller epsilon or delta"
            )
    return _root_within(spent, target, low, high, Context(prec=7, rounding=ROUND_CEILING))


def _start(rough: Callable[[float], float], target: float) -> tuple[float, float]:
    """A noise multiplier to begin a search at, and the factor of its first step.

    Far below the noise that is sought, exact accounting takes long; a rough bound says where it is.
    """
    high = 1.0
    while rough(high) > target and high < MAXIMUM_NOISE:
        high *= 2
    low = high / 2
    while rough(low) <= target and low > MINIMUM_NOISE:
        low, high = low / 2, low
    if not rough(high) <= target < rough(low):
        return 1.0, 2.0
    while high / low > _FIRST_STEP:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rough(middle) <= target else (middle, high)
    return high, _FIRST_STEP


def _root_within(
    spent: Callable[[float], float], target: float, low: float, high: float, digits: Context
) -> float:
    """The root of spent = target in (low, high), rounded as ``digits`` says until it is verified.

    What is spent falls from low to high where that rounds up, and grows where it rounds down.
    """
    from scipy.optimize import brentq

    ends = {math.log(value): value for value in (low, high)}  # what they spend is known already

    def excess(logarithm: float) -> float:  # close to a line, whose root takes few evaluations
        ratio = spent(ends.get(logarithm, math.exp(logarithm))) / target
        return math.log(min(max(ratio, 1e-6), 1e6))

    root = math.exp(brentq(excess, *ends, xtol=2e-8, rtol=1e-12))
    value = digits.create_decimal(Decimal(root))
    while spent(float(value)) > target:
        up = digits.rounding == ROUND_CEILING
        value = value.next_plus(digits) if up else value.next_minus(digits)
    return float(value)
