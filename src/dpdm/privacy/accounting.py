"""What the mechanisms that ran cost together, and how much noise a budget needs.

An event says how a mechanism touched the data: the Gaussian mechanism with a noise multiplier (the
noise's standard deviation over the sensitivity), on every unit or on a Poisson sample of rate q.
``dp-accounting`` composes events under the add-or-remove-one-unit adjacency and gives the smallest
epsilon it can prove at delta, by privacy loss distributions (PLD, Doroshenko et al. 2022) or by
Renyi divergences (RDP, Mironov 2017). Both are upper bounds, and so is every number that comes out
of this file: searches end on the side where the promise holds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from functools import lru_cache
from typing import Any, Literal, cast, get_args

import dp_accounting
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant
from scipy.optimize import brentq

from dpdm.errors import RequestError

Accountant = Literal["pld", "rdp"]
ACCOUNTANTS: tuple[Accountant, ...] = get_args(Accountant)

ADJACENCY = "add or remove one unit"
"""Neighbouring data sets: one has every unit of the other and one more."""

DISCRETIZATION = 1e-3
"""Width of the bins of the privacy loss (PLD). 1e-4 is tighter at small epsilon, and slower."""

MINIMUM_NOISE = 2.0**-10
MAXIMUM_NOISE = 1e5
"""Outside this range a noise multiplier is not searched; above it, it is accounted as this much."""

MAXIMUM_STEPS = 10**6
"""More compositions than this would take PLD gigabytes; requests above it are refused."""

_RELATION = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_LARGEST_ORDER = 1024
_RDP_ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, _LARGEST_ORDER)
_ROUGH_ORDERS = (2, 3, 4, 6, 8, 12, 16, 32, 64)
_FINE_BINS_UP_TO = 100.0  # privacy loss above which bins grow with it
_FINER_BINS_BELOW = 0.1  # epsilon below which bins of DISCRETIZATION are too coarse
_FINEST_BINS = 1e-6
_TAIL = 1e-15  # where the PLD accountant truncates


@dataclass(frozen=True, order=True)
class Event:
    """One use of the data: Gaussian noise on a sum over a Poisson sample of the units.

    ``noise_multiplier`` is the noise's standard deviation divided by the sensitivity, positive and
    finite; ``sample_rate`` the probability with which each unit takes part, in (0, 1]; at 1 it is
    the plain Gaussian mechanism on all units. Raises :class:`RequestError` outside these ranges.
    """

    noise_multiplier: float
    sample_rate: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_multiplier", float(self.noise_multiplier))
        object.__setattr__(self, "sample_rate", float(self.sample_rate))
        if not 0 < self.noise_multiplier < math.inf:
            raise RequestError(
                f"noise multiplier {self.noise_multiplier:g}: must be positive and finite; "
                "without noise there is no promise"
            )
        _check_sample_rate(self.sample_rate)

    @property
    def kind(self) -> str:
        """``gaussian`` or ``poisson_sampled_gaussian``."""
        return "gaussian" if self.sample_rate == 1 else "poisson_sampled_gaussian"

    def to_json(self) -> dict[str, Any]:
        """A dictionary that :func:`event_from_json` reads back to an equal event."""
        rate = {} if self.sample_rate == 1 else {"sample_rate": self.sample_rate}
        return {"kind": self.kind, **rate, "noise_multiplier": self.noise_multiplier}

    def to_dp_event(self) -> dp_accounting.DpEvent:
        """The event in ``dp-accounting``'s algebra."""
        # Above MAXIMUM_NOISE the accountants lose their digits and may return zero; claiming less
        # noise than was drawn is safe.
        event = dp_accounting.GaussianDpEvent(min(self.noise_multiplier, MAXIMUM_NOISE))
        if self.sample_rate == 1:
            return event
        return dp_accounting.PoissonSampledDpEvent(self.sample_rate, event)

    def in_words(self) -> str:
        """One clause for people: what was drawn, and how much noise."""
        noise = f"Gaussian noise of {self.noise_multiplier:.5g} times the sensitivity"
        if self.sample_rate == 1:
            return f"{noise}, on all units"
        return f"{noise}, on a Poisson sample with rate {self.sample_rate:.5g}"


CountedEvent = tuple[Event, int]


def gaussian(noise_multiplier: float) -> Event:
    """The Gaussian mechanism on all units."""
    return Event(noise_multiplier)


def poisson_sampled_gaussian(sample_rate: float, noise_multiplier: float) -> Event:
    """The Gaussian mechanism on a Poisson sample: one step of DP-SGD."""
    return Event(noise_multiplier, sample_rate)


def event_from_json(value: Mapping[str, Any]) -> Event:
    """The event written by :meth:`Event.to_json`; :class:`RequestError` where it is none."""
    wanted = {"kind", "noise_multiplier"}
    if value.get("kind") == "poisson_sampled_gaussian":
        wanted.add("sample_rate")
    elif value.get("kind") != "gaussian":
        raise RequestError(f"unknown kind of event {value.get('kind')!r}")
    numbers = {key: value[key] for key in wanted & set(value) - {"kind"}}
    if set(value) != wanted or not all(type(n) in (int, float) for n in numbers.values()):
        raise RequestError(f"event {dict(value)!r}: needs exactly {', '.join(sorted(wanted))}")
    return Event(**numbers)


def compose(counted: Iterable[CountedEvent]) -> dp_accounting.DpEvent:
    """The ``dp-accounting`` event of all the given (event, count) pairs together."""
    return dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(event.to_dp_event(), count)
            for event, count in _canonical(counted)
        ]
    )


def epsilon(
    counted: Iterable[CountedEvent],
    delta: float,
    accountant: Accountant = "pld",
    discretization: float = DISCRETIZATION,
) -> float:
    """The epsilon spent by (event, count) pairs together, at ``delta``; 0.0 for none.

    An upper bound: the composition is (epsilon, delta)-DP under adding or removing one unit. It is
    ``inf`` where the accountant can prove nothing (PLD below a delta of about 1e-15).

    ``discretization`` is the width of PLD's bins. Between epsilon 0.1 and 1 the default of 1e-3 is
    up to 4% above what 1e-4 gives (q = 4096/60000, delta 1e-5: epsilon 1 at 4,394 steps needs noise
    17.01 against 16.92, epsilon 0.2 at 732 steps 30.68 against 30.18); below 0.1 and for losses
    above 100 the width follows epsilon.

    Raises:
        RequestError: a delta outside (0, 1), an unknown accountant.
    """
    _check_delta(delta)
    if accountant not in ACCOUNTANTS:
        raise RequestError(f"accountant {accountant!r}: must be one of {', '.join(ACCOUNTANTS)}")
    return _epsilon(_canonical(counted), float(delta), accountant, float(discretization))


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
    _check_delta(delta)
    _check_sample_rate(sample_rate)
    _check_steps(steps)
    return _smallest_noise(
        float(epsilon),
        float(delta),
        float(sample_rate),
        int(steps),
        _canonical(others),
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
    _check_epsilon(epsilon)
    fixed = _canonical(others)

    def fits(count: int) -> bool:
        return _spent(((event, count), *fixed), delta, accountant) <= epsilon

    limit = MAXIMUM_STEPS if at_most is None else min(at_most, MAXIMUM_STEPS)
    if limit < 1 or not fits(1):
        return 0
    if at_most is not None and fits(limit):
        return limit
    low, high = 1, 2
    while high < limit and fits(high):
        low, high = high, 2 * high
    if high >= limit:
        if fits(limit):
            return limit
        high = limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def plan(
    *,
    delta: float,
    sample_rate: float,
    steps: int,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    accountant: Accountant = "pld",
) -> dict[str, Any]:
    """The missing one of epsilon and noise multiplier, as `dpdm privacy plan --json` prints it.

    Keys: epsilon, delta, noise_multiplier, sample_rate, steps, accountant. A given epsilon is
    repeated as it was asked for; the noise multiplier spends no more.
    """
    if (epsilon is None) == (noise_multiplier is None):
        raise RequestError("privacy plan: give exactly one of epsilon and noise multiplier")
    if noise_multiplier is None:
        epsilon = cast(float, epsilon)
        noise_multiplier = noise_multiplier_for(
            epsilon, delta, sample_rate, steps, accountant=accountant
        )
    else:
        event = poisson_sampled_gaussian(sample_rate, noise_multiplier)
        _check_steps(steps)
        epsilon = _spent(((event, steps),), delta, accountant)
        if math.isinf(epsilon):
            raise RequestError(
                f"noise multiplier {noise_multiplier:g} at delta={delta:g}: no finite epsilon can "
                "be shown; use more noise or a larger delta"
            )
    return {
        "epsilon": float(epsilon),
        "delta": float(delta),
        "noise_multiplier": float(noise_multiplier),
        "sample_rate": float(sample_rate),
        "steps": int(steps),
        "accountant": accountant,
    }


def check_delta(delta: float, public_size: int) -> None:
    """Refuses a delta at or above 1 / (declared number of units), with :class:`RequestError`."""
    _check_delta(delta)
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


def _check_delta(value: float) -> None:
    if not 0 < value < 1:
        raise RequestError(
            f"delta={value:g}: must lie between 0 and 1, well below 1 / number of units"
        )


def _check_sample_rate(value: float) -> None:
    if not 0 < value <= 1:
        raise RequestError(
            f"sample rate {value:g}: must be above 0 and at most 1 (batch size / number of units)"
        )


def _check_steps(value: int) -> None:
    if not 1 <= value <= MAXIMUM_STEPS:
        raise RequestError(f"steps={value}: must lie between 1 and {MAXIMUM_STEPS}")


def _canonical(counted: Iterable[CountedEvent]) -> tuple[CountedEvent, ...]:
    """Equal events merged, in a fixed order: what the caches are keyed by."""
    total: dict[Event, int] = {}
    for event, count in counted:
        if count < 0:
            raise ValueError(f"an event cannot have run {count} times")
        total[event] = total.get(event, 0) + int(count)
    return tuple(sorted((event, count) for event, count in total.items() if count))


@lru_cache(maxsize=4096)
def _epsilon(
    counted: tuple[CountedEvent, ...], delta: float, accountant: Accountant, discretization: float
) -> float:
    if not counted:
        return 0.0
    event = compose(counted)
    if accountant == "rdp":
        return _rdp_epsilon(event, delta, _RDP_ORDERS)
    # A large loss in fine bins would take gigabytes; bins of one part in 1e5 of it do not show.
    scale = _rdp_epsilon(event, _TAIL, _ROUGH_ORDERS) / _FINE_BINS_UP_TO
    if scale > 1:
        scale = min(scale, _rdp_epsilon(event, _TAIL, _RDP_ORDERS) / _FINE_BINS_UP_TO)
    if math.isinf(scale):
        return math.inf
    bins = discretization * max(1.0, scale)
    value = _pld_epsilon(event, delta, bins)
    while 0 < value < _FINER_BINS_BELOW and bins > max(value / 500, _FINEST_BINS):
        # Every width gives an upper bound, so the least of them is one.
        bins /= 8
        value = min(value, _pld_epsilon(event, delta, bins))
    return value


def _pld_epsilon(event: dp_accounting.DpEvent, delta: float, bins: float) -> float:
    with _quiet():
        pld = PLDAccountant(_RELATION, value_discretization_interval=bins)
        return float(pld.compose(event).get_epsilon(delta))


def _rdp_epsilon(event: dp_accounting.DpEvent, delta: float, orders: Iterable[float]) -> float:
    with _quiet():
        rdp = RdpAccountant(list(orders), _RELATION)
        value = float(rdp.compose(event).get_epsilon(delta))
    # A divergence that rounding made negative comes back as epsilon 0. The least to be claimed is
    # what a divergence of zero proves at the largest order (Canonne et al. 2020, Proposition 12).
    order = _LARGEST_ORDER
    least = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    return math.inf if math.isnan(value) else max(value, least, 0.0)


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
    def spent(noise: float) -> float:
        counted = ((Event(noise, sample_rate), steps), *others)
        return epsilon(counted, delta, accountant, discretization)

    already = epsilon(others, delta, accountant, discretization)
    if already >= target:
        raise RequestError(
            f"no noise meets epsilon={target:g} at delta={delta:g}: other mechanisms already spend "
            f"{already:.4g}; give them a smaller share or raise epsilon"
        )
    high = 1.0
    while spent(high) > target:
        high *= 2
        if high > MAXIMUM_NOISE:
            raise RequestError(
                f"no noise meets epsilon={target:g} at delta={delta:g} over {steps} steps with the "
                f"{accountant} accountant; raise epsilon or delta, or take fewer steps"
            )
    low = high / 2
    while spent(low) <= target:
        low, high = low / 2, low
        if low < MINIMUM_NOISE:
            raise RequestError(
                f"epsilon={target:g} at delta={delta:g} would be met with next to no noise, which "
                "protects nobody; use a smaller epsilon or delta"
            )
    return _rounded_up_within(spent, target, low, high)


def _rounded_up_within(
    spent: Callable[[float], float], target: float, low: float, high: float
) -> float:
    """The root of spent = target in (low, high), rounded up until it is verified."""

    def excess(log_noise: float) -> float:
        return min(spent(math.exp(log_noise)), 1e6 * target) - target

    root = math.exp(brentq(excess, math.log(low), math.log(high), xtol=2e-8, rtol=1e-12))
    upwards = Context(prec=7, rounding=ROUND_CEILING)
    noise = upwards.create_decimal(Decimal(root))
    while spent(float(noise)) > target:
        noise = noise.next_plus(upwards)
    return float(noise)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps ``dp-accounting``'s remarks on the orders it tried off standard error."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
