"""Epsilon beside three programs that share no code with ours, over a grid, and in closed form.

    python benchmarks/accountants.py

A line for each point goes to `docs/results/accountants.jsonl`, which is written anew; the table of
`docs/privacy.md` is written from them. `tests/privacy/test_accounting_cross_checks.py` holds the
same comparisons to bounds. `--document` only writes the table. Half a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT, machine, read_lines, table, write_between
from scipy.optimize import brentq
from scipy.special import log_ndtr

from dpdm.privacy import accounting
from dpdm.privacy.accounting import Event, compose, epsilon

LINES, PAGE = ROOT / "docs" / "results" / "accountants.jsonl", ROOT / "docs" / "privacy.md"
MARKS = "<!-- written by benchmarks/accountants.py -->", "<!-- end of benchmarks/accountants.py -->"

Line = dict[str, Any]


class Point(NamedTuple):
    """Steps of the Gaussian mechanism on Poisson samples."""

    sample_rate: float
    noise_multiplier: float
    steps: int
    delta: float


PAPERS_RATE = 4096 / 60000
GRID = tuple(
    Point(*point)
    for point in (  # epsilon by PLD
        (0.001, 0.5, 3000, 1e-5),  # 3.94
        (0.001, 1.0, 3000, 1e-5),  # 0.26
        (0.01, 0.5, 3000, 1e-5),  # 22.1
        (0.01, 1.0, 1000, 1e-3),  # 1.16
        (0.01, 1.0, 1000, 1e-8),  # 2.70
        (0.01, 3.0, 1, 1e-5),  # 0.013
        (0.01, 20.0, 3000, 1e-5),  # 0.083
        (PAPERS_RATE, 2.380445, 4394, 1e-5),  # 10
        (PAPERS_RATE, 17.00648, 4394, 1e-5),  # 1
        (PAPERS_RATE, 30.6751, 732, 1e-5),  # 0.2
        (PAPERS_RATE, 20.0, 1, 1e-5),  # 0.0086
        (PAPERS_RATE, 0.5, 1, 1e-5),  # 5.99
        (PAPERS_RATE, 1.0, 3000, 1e-5),  # 31.5
        (PAPERS_RATE, 0.5, 3000, 1e-5),  # 180
        (0.1, 5.0, 500, 1e-10),  # 2.85
        (0.3, 3.0, 3000, 1e-5),  # 38.8
        (0.3, 1.0, 3000, 1e-5),  # 252
        (1.0, 20.0, 1, 1e-5),  # 0.16
        (1.0, 20.0, 3000, 1e-5),  # 14.8
        (1.0, 3.0, 3000, 1e-5),  # 244
    )
)
MEAN_REFUSED = Point(0.3, 1.0, 3000, 1e-5)
"""Where prv-accountant refuses: rounded to its mesh, the mean of so large a loss moves too far."""
WHOLE_ORDERS = (*range(2, 64), 128, 256, 512, 1024)
CLOSED = tuple(
    Point(1.0, noise, steps, delta)
    for delta in (1e-3, 1e-5, 1e-9)
    for steps in (1, 100, 3000)
    for noise in (0.5, 3.0, 40.0, 1000.0)
)
"""Without sampling, where the closed form is known."""


def spent(point: Point, accountant: str = "pld", **settings: float) -> float:
    """Epsilon by this program."""
    event = Event(point.noise_multiplier, point.sample_rate)
    return epsilon([(event, point.steps)], point.delta, accountant, **settings)


def in_fine_bins(point: Point) -> float:
    """PLD with bins that are small beside epsilon."""
    return spent(point, discretization=min(1e-3, spent(point) / 2000))


def rdp_at(point: Point, orders: Sequence[float]) -> float:
    """Epsilon by dp-accounting's Renyi divergences at given orders."""
    event = compose([(Event(point.noise_multiplier, point.sample_rate), point.steps)])
    return accounting._rdp_epsilon(event, point.delta, orders)


def opacus_prv(point: Point) -> tuple[float, float, float]:
    """Lower bound, estimate and upper bound of Opacus's PRV accountant."""
    from opacus.accountants import PRVAccountant

    error = min(0.1, spent(point) / 20)
    theirs = PRVAccountant()
    theirs.history = [(point.noise_multiplier, point.sample_rate, point.steps)]
    composed = theirs._get_dprv(eps_error=error, delta_error=point.delta / 1000)
    lower, estimate, upper = composed.compute_epsilon(point.delta, point.delta / 1000, error)
    return lower, estimate, upper


def microsoft_prv(point: Point) -> tuple[float, float, float]:
    """The same of Microsoft's (Gopi, Lee, Wutschitz 2021). RuntimeError at ``MEAN_REFUSED``."""
    import prv_accountant

    noise = point.noise_multiplier
    step = (
        prv_accountant.GaussianMechanism(noise_multiplier=noise)
        if point.sample_rate == 1
        else prv_accountant.PoissonSubsampledGaussianMechanism(
            noise_multiplier=noise, sampling_probability=point.sample_rate
        )
    )
    theirs = prv_accountant.PRVAccountant(
        prvs=step,
        max_self_compositions=point.steps,
        eps_error=min(0.1, spent(point) / 20),
        delta_error=point.delta / 1000,
    )
    lower, estimate, upper = theirs.compute_epsilon(point.delta, [point.steps])
    return lower, estimate, upper


def opacus_rdp(point: Point, orders: Sequence[float]) -> float:
    """Epsilon of Opacus's RDP accountant."""
    from opacus.accountants import RDPAccountant

    theirs = RDPAccountant()
    theirs.history = [(point.noise_multiplier, point.sample_rate, point.steps)]
    found, _ = theirs.get_privacy_spent(delta=point.delta, alphas=list(orders))
    return float(found)


def closed_form(point: Point) -> float:
    """Balle and Wang (2018), Theorem 8, in logarithms: steps Gaussians are one of noise / sqrt."""
    sigma = point.noise_multiplier / math.sqrt(point.steps)

    def excess(eps: float) -> float:
        above = log_ndtr(1 / (2 * sigma) - eps * sigma)
        below = eps + log_ndtr(-1 / (2 * sigma) - eps * sigma)
        return float(
            above + math.log1p(-math.exp(min(below - above, -1e-15))) - math.log(point.delta)
        )

    if excess(1e-9) < 0:
        return 0.0
    return float(brentq(excess, 1e-9, 1 / (2 * sigma**2) + 10 / sigma, xtol=1e-12))


def measured(point: Point) -> Line:
    """A point of the grid: epsilon by every program."""
    return point._asdict() | {
        "pld": spent(point),
        "pld_fine": in_fine_bins(point),
        "opacus_prv": opacus_prv(point)[1],
        "microsoft_prv": None if point == MEAN_REFUSED else microsoft_prv(point)[1],
        "rdp": spent(point, "rdp"),
        "opacus_rdp": opacus_rdp(point, accounting._RDP_ORDERS),
        "rdp_whole": rdp_at(point, WHOLE_ORDERS),
        "opacus_rdp_whole": opacus_rdp(point, WHOLE_ORDERS),
    }


def section(lines: Sequence[Line]) -> str:
    """The generated part of the page: the range of each difference."""
    grid = [line for line in lines if "opacus_prv" in line]
    closed = [line for line in lines if line.get("closed_form")]  # 0: nothing to compare with
    prv = [
        _ratio(line, "pld_fine", name)
        for line in grid
        for name in ("opacus_prv", "microsoft_prv")
        if line[name] is not None
    ]
    small = [line for line in grid if line["opacus_rdp"] < 40]
    large = [line for line in grid if line["opacus_rdp"] >= 40]
    rows = [
        ("PLD with fine bins, against Opacus's PRV and `prv-accountant`", prv),
        ("PLD with its default bins (1e-3), against fine bins", _each(grid, "pld", "pld_fine")),
        ("RDP at whole orders, against Opacus's", _each(grid, "rdp_whole", "opacus_rdp_whole")),
        ("RDP at all orders, against Opacus's, to epsilon 40", _each(small, "rdp", "opacus_rdp")),
        ("RDP at all orders, against Opacus's, above", _each(large, "rdp", "opacus_rdp")),
        (
            f"PLD at q = 1, against the closed form ({_span(closed, 'pld')})",
            _each(closed, "pld", "closed_form"),
        ),
        ("PLD, against RDP", _each(grid, "pld", "rdp")),
    ]
    header = (f"over {len(grid)} points, {_span(grid, 'pld')}", "least", "greatest")
    cells = [
        [what, *(f"{100 * end:+.2g}%" for end in (min(each), max(each)))] for what, each in rows
    ]
    return table(header, cells)


def _each(lines: Iterable[Line], ours: str, theirs: str) -> list[float]:
    return [_ratio(line, ours, theirs) for line in lines]


def _ratio(line: Line, ours: str, theirs: str) -> float:
    return float(line[ours] / line[theirs] - 1)


def _span(lines: Sequence[Line], key: str) -> str:
    values = [line[key] for line in lines]
    return f"epsilon {min(values):.2g} to {max(values):,.4g}"


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the table of the page anew."""
    write_between(page, MARKS, section(lines))


def main() -> None:
    """Measures every point and writes lines and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--document", action="store_true")
    if not parser.parse_args().document:
        warnings.simplefilter("ignore")
        about = {"command": "python benchmarks/accountants.py", "machine": machine()}
        lines = [measured(point) for point in GRID]
        lines += [
            point._asdict() | {"pld": spent(point), "closed_form": closed_form(point)}
            for point in CLOSED
        ]
        text = "".join(json.dumps(line | about) + "\n" for line in lines)
        LINES.write_text(text, "utf-8")
    document(read_lines(LINES), PAGE)


if __name__ == "__main__":
    main()
