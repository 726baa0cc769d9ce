"""``dpdm privacy``: plan a promise, state one, read its ledger."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import typer

from dpdm.cli.console import note, out, print_json, table
from dpdm.cli.options import Json
from dpdm.errors import RequestError

app = typer.Typer(
    help="Plan, state and check the promise.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("plan")
def plan_command(
    delta: Annotated[float, typer.Option(help="Probability that the promise may fail.")],
    sample_rate: Annotated[
        float, typer.Option(help="Probability q that a unit takes part in a step.")
    ],
    steps: Annotated[int, typer.Option(help="Number of DP-SGD steps.")],
    epsilon: Annotated[float | None, typer.Option(help="Solve for the noise multiplier.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Solve for epsilon.")] = None,
    accountant: Annotated[str, typer.Option(metavar="pld|rdp", help="Accountant.")] = "pld",
    as_json: Json = False,
) -> None:
    """Solve for the noise multiplier that meets epsilon, or for epsilon from the noise."""
    from dpdm.privacy import plan

    if accountant not in ("pld", "rdp"):
        raise RequestError(f"--accountant {accountant}: use pld or rdp")
    chosen = cast(Literal["pld", "rdp"], accountant)
    result = plan(
        delta=delta,
        sample_rate=sample_rate,
        steps=steps,
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        accountant=chosen,
    )
    if as_json:
        print_json(result)
        return
    table(
        list(result),
        [[f"{value:.7g}" if isinstance(value, float) else value for value in result.values()]],
    )


@app.command("statement")
def statement_command(
    source: Annotated[
        str, typer.Argument(metavar="RUN|RELEASE", help="Folder of a run or release.")
    ],
    as_json: Json = False,
) -> None:
    """State what was promised to the people in the data."""
    from dpdm.privacy import render_markdown
    from dpdm.release.files import find_release
    from dpdm.release.model import read_statement

    folder = find_release(source)
    statement = read_statement(folder)
    if statement is None:
        raise RequestError(f"{folder}: holds no privacy.json; nothing is known about its promise")
    if as_json:
        print_json(statement)
    else:
        out.print(render_markdown(statement), markup=False)


@app.command("ledger")
def ledger_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")],
    as_json: Json = False,
) -> None:
    """Check a run's ledger and print the mechanisms in it and their cost."""
    from pathlib import Path

    from dpdm.config import load_config
    from dpdm.privacy import event_from_json, read_ledger
    from dpdm.training import RunFolder

    folder = RunFolder(Path(run))
    if not folder.ledger.is_file():
        raise RequestError(f"{run}: no private/ledger.jsonl in it; give a private run's folder")
    config = load_config(folder.config)
    summary = read_ledger(folder.ledger).summary(config.privacy.delta, config.privacy.accountant)
    if as_json:
        print_json(summary)
        return
    table(
        ("mechanism", "event", "count"),
        [
            (entry["name"], event_from_json(entry["event"]).in_words(), entry["count"])
            for entry in summary["mechanisms"]
        ],
    )
    spent = summary["epsilon"]
    cost = "no finite epsilon" if spent is None else f"epsilon {spent:.6g}"
    note(f"{cost} at delta {summary['delta']:g}; the chain of records is whole")
