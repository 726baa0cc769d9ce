"""``dpdm privacy plan``: any one of epsilon, noise, steps and sample rate from the other three."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from dpdm.cli.console import note, out, print_json, table
from dpdm.cli.options import Json
from dpdm.errors import RequestError

_POINTS = 30


def register(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("plan")(plan_command)


def plan_command(
    delta: Annotated[float, typer.Option(help="Probability that the promise may fail.")],
    epsilon: Annotated[float | None, typer.Option(help="The budget.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Noise of a step over the clip norm.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of DP-SGD steps.")] = None,
    sample_rate: Annotated[
        float | None, typer.Option(help="Probability q that a unit takes part in a step.")
    ] = None,
    public_size: Annotated[int | None, typer.Option(help="Declared number of units N.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Expected units per step B; q is then B / N.")
    ] = None,
    accountant: Annotated[str, typer.Option(metavar="pld|rdp", help="Accountant.")] = "pld",
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw epsilon against steps."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Solve for the one of epsilon, noise multiplier, steps and sample rate that is left out."""
    from dpdm.promise import plan

    if accountant not in ("pld", "rdp"):
        raise RequestError(f"--accountant {accountant}: use pld or rdp")
    if plot is not None and plot.suffix.lower() != ".png":
        raise RequestError(f"--plot {plot}: give a file name that ends in .png")
    if plot is not None and not plot.parent.is_dir():
        raise RequestError(f"--plot {plot}: no folder {plot.parent}; make it first")
    result = plan(
        delta=delta,
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        steps=steps,
        sample_rate=sample_rate,
        accountant=cast(Literal["pld", "rdp"], accountant),
        public_size=public_size,
        batch_size=batch_size,
    )
    if plot is not None:
        _draw(result, plot)
        note(f"epsilon against steps: {plot}")
    if as_json:
        print_json(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    columns = ("epsilon", "noise_multiplier", "sample_rate", "steps")
    unknown, size = result["solved_for"], result["public_size"]
    rows = [
        (
            name + (" (chosen)" if name == result["accountant"] else ""),
            *(_number((numbers or {}).get(key)) for key in columns),
        )
        for name, numbers in result["by_accountant"].items()
    ]
    table(
        ("accountant", *columns),
        rows,
        title=f"Solved for {unknown.replace('_', ' ')}, delta {result['delta']:g}:",
    )
    titles = ("same", "sample_rate", "steps", "epochs", "noise_multiplier")
    of_mean = "noise of mean / C" if size else "noise of mean x units / C"
    key = "noise_of_mean" if size else "noise_of_mean_times_units"
    table(
        (*titles, *(("batch_size",) if size else ()), of_mean),
        [
            (
                {"all": "(as solved)"}.get(row["keeps"], row["keeps"]),
                _number(row["sample_rate"]),
                row["steps"],
                f"{row['epochs']:.5g}",
                _number(row["noise_multiplier"]),
                *((row["batch_size"],) if size else ()),
                f"{row[key]:.4g}",
            )
            for row in result["same_epsilon"]
        ],
        title=f"\nThe same epsilon with other batches, by {result['accountant']}:",
    )
    passes = [f"{row['image_passes_per_unit']:.4g} at {row['views']}" for row in result["views"]]
    out.print(
        "\nViews per unit (K) cost no privacy, only time: image passes per unit over the run "
        f"{', '.join(passes)}."
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.7g}"


def _draw(result: dict[str, Any], path: Path) -> None:
    """Epsilon against steps by both accountants, with the plan marked on the chosen one."""
    import math

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dpdm.privacy import Event
    from dpdm.privacy.accounting import ACCOUNTANTS, epsilon

    event = Event(result["noise_multiplier"], result["sample_rate"])
    steps, delta, budget = result["steps"], result["delta"], result["epsilon"]
    last = max(2, math.ceil(1.5 * steps))
    counts = sorted({max(1, round(last * (k / _POINTS) ** 2)) for k in range(_POINTS + 1)})
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, style in zip(ACCOUNTANTS, ("-", "--"), strict=True):
        values = [epsilon([(event, count)], delta, name) for count in counts]
        axes.plot(counts, values, style, label=name.upper())
    axes.axhline(budget, color="0.4", linewidth=1, linestyle=":", label=f"epsilon {budget:.4g}")
    axes.plot([steps], [budget], "o", color="0.2", label=f"{steps:,} steps")
    axes.set_xlim(0, last)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps")
    axes.set_ylabel(f"epsilon at delta = {delta:g}")
    axes.set_title(
        f"sample rate {event.sample_rate:.5g}, noise multiplier {event.noise_multiplier:.5g}",
        fontsize="medium",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    try:
        figure.savefig(path)
    except OSError as problem:
        raise RequestError(f"--plot {path}: {problem.strerror or problem}") from None
