"""What the mechanisms that ran cost together.

``dp-accounting`` composes events under the add-or-remove-one-unit adjacency and gives the smallest
epsilon it can prove at delta, by privacy loss distributions (PLD, Doroshenko et al. 2022) or by
Renyi divergences (RDP, Mironov 2017). Both are upper bounds, and so is every number here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any, Literal, get_args

from dpdm.errors import RequestError
from dpdm.privacy.privacy_loss import sampled_gaussian

if TYPE_CHECKING:  # the library takes a second to import, and most processes never account
    import dp_accounting
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

Accountant = Literal["pld", "rdp"]
ACCOUNTANTS: tuple[Accountant, ...] = get_args(Accountant)

ADJACENCY = "add or remove one unit"
"""Neighbouring data sets: one has every unit of the other and one more."""

DISCRETIZATION = 1e-3
"""Width of the bins of the privacy loss (PLD) where no finer ones are called for."""

MAXIMUM_NOISE = 1e5
"""A noise multiplier above this is accounted as this much."""

_LARGEST_ORDER = 1024
_RDP_ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, _LARGEST_ORDER)
_ROUGH_ORDERS = (2, 3, 4, 6, 8, 12, 16, 32, 64)
_SEARCH_ORDERS = (*_ROUGH_ORDERS, 256, _LARGEST_ORDER)
_TAIL = 1e-15  # where the PLD accountant truncates
_COARSER_ABOVE = 100.0  # privacy loss above which bins of DISCRETIZATION would take gigabytes
_FINEST_SHARE = 1e-5  # of the largest loss: finer bins do not show
_FINER_BELOW, _FINEST = 0.1, 1e-6  # epsilon for which DISCRETIZATION is too coarse, finest bins


@dataclass(frozen=True, order=True)
class Event:
    """One use of the data: Gaussian noise on a sum over a Poisson sample of the units.

    ``noise_multiplier`` is the noise's standard deviation divided by the sensitivity;
    ``sample_rate`` in (0, 1] the probability with which each unit takes part, 1 being the plain
    Gaussian mechanism on all units. :class:`RequestError` outside these ranges.
    """

    noise_multiplier: float
    sample_rate: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_multiplier", float(self.noise_multiplier))
        object.__setattr__(self, "sample_rate", float(self.sample_rate))
        if not 0 < self.noise_multiplier < math.inf:
            raise RequestError(
                f"noise multiplier {self.noise_multiplier:g}: must be positive and finite"
            )
        require_sample_rate(self.sample_rate)

    @property
    def accounted_noise(self) -> float:
        """The noise multiplier that is accounted: at most ``MAXIMUM_NOISE``. Above it accountants
        lose their digits and may return zero; claiming less noise than was drawn is safe."""
        return min(self.noise_multiplier, MAXIMUM_NOISE)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that :func:`event_from_json` reads back to an equal event."""
        if self.sample_rate == 1:
            return {"kind": "gaussian", "noise_multiplier": self.noise_multiplier}
        return {"kind": "poisson_sampled_gaussian", **asdict(self)}

    def to_dp_event(self) -> dp_accounting.DpEvent:
        """The event in ``dp-accounting``'s algebra."""
        import dp_accounting

        _silence_remarks()
        event = dp_accounting.GaussianDpEvent(self.accounted_noise)
        if self.sample_rate == 1:
            return event
        return dp_accounting.PoissonSampledDpEvent(self.sample_rate, event)


@lru_cache(maxsize=1)
def _silence_remarks() -> None:
    """dp-accounting's on the orders it tried are not for the user of a command."""
    logging.getLogger("absl").addFilter(lambda record: "dp_accounting" not in record.pathname)


CountedEvent = tuple[Event, int]


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
    import dp_accounting

    parts = [dp_accounting.SelfComposedDpEvent(e.to_dp_event(), n) for e, n in canonical(counted)]
    return dp_accounting.ComposedDpEvent(parts)


def epsilon(
    counted: Iterable[CountedEvent],
    delta: float,
    accountant: Accountant = "pld",
    discretization: float = DISCRETIZATION,
) -> float:
    """The epsilon spent by (event, count) pairs together, at ``delta``; 0.0 for none.

    The composition is (epsilon, delta)-DP under adding or removing one unit. It is ``inf`` where
    nothing can be proved (PLD below a delta of 1e-15, or of 2^-52 a sampled step).
    ``discretization`` is the widest bin of PLD while losses stay below 100; the default is at most
    3% above the limit of fine bins (docs/privacy.md). Raises :class:`RequestError`: a delta
    outside (0, 1), no such accountant.
    """
    require_delta(delta)
    if accountant not in ACCOUNTANTS:
        raise RequestError(f"accountant {accountant!r}: must be one of {', '.join(ACCOUNTANTS)}")
    return _epsilon(merged(counted), float(delta), accountant, float(discretization))


def require_delta(value: float) -> None:
    """Raises :class:`RequestError` unless 0 < value < 1."""
    if not 0 < value < 1:
        raise RequestError(f"delta={value:g}: must lie between 0 and 1, well below 1 / units")


def require_sample_rate(value: float) -> None:
    """Raises :class:`RequestError` unless 0 < value <= 1."""
    if not 0 < value <= 1:
        raise RequestError(f"sample rate {value:g}: must be above 0 and at most 1 (batch / units)")


def canonical(counted: Iterable[CountedEvent]) -> tuple[CountedEvent, ...]:
    """Equal events merged, in a fixed order: what the caches are keyed by."""
    total: dict[Event, int] = {}
    for event, count in counted:
        if count < 0:
            raise ValueError(f"an event cannot have run {count} times")
        total[event] = total.get(event, 0) + int(count)
    return tuple(sorted((event, count) for event, count in total.items() if count))


def merged(counted: Iterable[CountedEvent]) -> tuple[CountedEvent, ...]:
    """Canonical pairs with all Gaussians on all units as one, which is exact, and one to account.

    Gaussians of noise multipliers s_i together reveal what one of (sum_i s_i^-2)^(-1/2) does: the
    squares of sensitivity over noise add up (Dong, Roth, Su 2022, Corollary 3.3).
    """
    listed = canonical(counted)
    whole = [(event, count) for event, count in listed if event.sample_rate == 1]
    if sum(count for _, count in whole) < 2:
        return listed
    inverse = [math.sqrt(n) / event.accounted_noise for event, n in whole]
    rest = [pair for pair in listed if pair[0].sample_rate < 1]
    return tuple(sorted([*rest, (Event(1 / math.hypot(*inverse)), 1)]))


@lru_cache(maxsize=4096)
def _epsilon(
    counted: tuple[CountedEvent, ...], delta: float, accountant: Accountant, discretization: float
) -> float:
    if not counted:
        return 0.0
    if accountant == "rdp":
        return _rdp_epsilon(compose(counted), delta)
    bins = bins_for(counted, discretization, 1 / 2)
    if math.isinf(bins):
        return math.inf
    delta -= rounding_of(counted)
    if delta <= 0.0:
        return math.inf
    value = privacy_losses(counted, bins).get_epsilon_for_delta(delta)
    while 0 < value < _FINER_BELOW and bins > max(value / 100, _FINEST):
        # Every width gives an upper bound, so the least of them is one.
        bins /= 8
        value = min(value, privacy_losses(counted, bins).get_epsilon_for_delta(delta))
    return float(value)


def rounding_of(counted: tuple[CountedEvent, ...]) -> float:
    """A delta that covers what rounding does to composed losses: 2^-52 for each sampled step.

    Many steps are composed by a power of a Fourier transform, whose rounding the library does not
    bound. Against the exact epsilon of Gaussians on all units it moved delta by at most 1e-18 a
    step (3,000 to 100,000 steps; test_rounding_of_many_steps_...): this is 200 times that.
    """
    return 2.0**-52 * sum(count for event, count in counted if event.sample_rate < 1)


@lru_cache(maxsize=4)
def privacy_losses(counted: tuple[CountedEvent, ...], bins: float) -> PrivacyLossDistribution:
    """The composed privacy loss of canonical pairs, one or more, rounded up to bins of a width."""
    parts = [_repeated(event, count, bins) for event, count in counted]
    return reduce(lambda total, part: total.compose(part), parts)


def _repeated(event: Event, count: int, bins: float) -> PrivacyLossDistribution:
    noise = event.accounted_noise
    if event.sample_rate == 1:
        return sampled_gaussian(noise / math.sqrt(count), 1.0, bins)
    return sampled_gaussian(noise, event.sample_rate, bins).self_compose(count)


def bins_for(counted: tuple[CountedEvent, ...], widest: float, share: float) -> float:
    """A share of one step's typical loss, at most ``widest``, no finer than shows or memory allows.

    Every width gives an upper bound. Rounding to bins of width h adds at most h^2 / 4 to a loss's
    variance, step by step (Gaussians on all units add up unrounded), so that many small losses need
    finer bins. Infinite where nothing can be proved.
    """
    variance = count = 0.0
    for event, times in counted:
        rate, square = event.sample_rate, event.noise_multiplier**-2
        variance += times * (square if rate == 1 else rate**2 * math.expm1(min(square, 700.0)))
        count += 1 if rate == 1 else times
    largest = _rdp_epsilon(compose(counted), _TAIL, _ROUGH_ORDERS)
    wanted = max(share * math.sqrt(variance / count), _FINEST_SHARE * largest)
    return min(widest * max(1.0, largest / _COARSER_ABOVE), wanted)


def rough_epsilon(counted: Iterable[CountedEvent], delta: float) -> float:
    """An upper bound in milliseconds, for where a search for noise may begin."""
    return _rdp_epsilon(compose(merged(counted)), delta, _SEARCH_ORDERS)


def _rdp_epsilon(
    event: dp_accounting.DpEvent, delta: float, orders: Sequence[float] = _RDP_ORDERS
) -> float:
    from dp_accounting import NeighboringRelation
    from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    value = float(RdpAccountant(list(orders), relation).compose(event).get_epsilon(delta))
    if value == 0:
        # Divergences that rounding made negative count as zero there. Claimed is what the largest
        # order proves, at least of a divergence of zero (Canonne et al. 2020, Proposition 12).
        order = _LARGEST_ORDER
        least = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        alone = RdpAccountant([order], relation).compose(event).get_epsilon(delta)
        value = max(float(alone), least, 0.0)
    return math.inf if math.isnan(value) else value
