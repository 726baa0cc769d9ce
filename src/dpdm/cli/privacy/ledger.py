"""``dpdm privacy ledger`` and ``open-ledger``: what was spent, and a budget for several runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpdm.cli.console import note, out, print_json, table
from dpdm.cli.options import Json
from dpdm.errors import DpdmError, RequestError

if TYPE_CHECKING:
    from dpdm.privacy import Ledger
    from dpdm.privacy.accounting import Accountant


def register(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("ledger")(ledger_command)
    app.command("open-ledger")(open_ledger_command)


def ledger_command(
    source: Annotated[
        str, typer.Argument(metavar="RUN|LEDGER.jsonl", help="A run's folder, or a ledger.")
    ],
    delta: Annotated[
        float | None, typer.Option(help="Where to state epsilon; default the run's or budget's.")
    ] = None,
    accountant: Annotated[
        str | None, typer.Option(metavar="pld|rdp", help="Accountant; default the run's, or pld.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a ledger's chain of records and print what each run and all together spent."""
    from dpdm.privacy import read_ledger
    from dpdm.privacy.accounting import ACCOUNTANTS
    from dpdm.promise.wording import at_least, event_in_words

    path, usual_delta, usual_accountant = _find(source)
    ledger = read_ledger(path)
    if delta is None:
        delta = usual_delta or (ledger.budget[1] if ledger.budget else None)
    if delta is None:
        raise RequestError(f"{path}: has no budget and so no delta of its own; give --delta")
    _check_complete(ledger, Path(source))
    chosen = accountant or usual_accountant
    if chosen not in ACCOUNTANTS:
        raise RequestError(f"--accountant {chosen}: use {' or '.join(ACCOUNTANTS)}")
    found = summary(ledger, delta, chosen)
    if as_json:
        print_json(found)
        return
    table(
        ("run", "mechanism", "event", "count"),
        [
            (run["name"], used["name"], event_in_words(used["event"]), used["count"])
            for run in found["runs"]
            for used in run["mechanisms"]
        ],
    )
    out.print()
    total = {"name": "all together", "records": found["records"], "epsilon": found["epsilon"]}
    table(
        ("run", "records", f"epsilon at delta {delta:g}"),
        [
            (run["name"], run["records"], _in_words(run["epsilon"]))
            for run in [*found["runs"], total]
        ],
    )
    if not found["private"]:
        out.print(
            "NOT PRIVATE: the noise came from a chosen seed; no epsilon here protects anybody",
            markup=False,
        )
    if budget := found["budget"]:
        left = "nothing" if budget["left"] is None else at_least(budget["left"], 6)
        out.print(
            f"budget: epsilon {budget['epsilon']:g} at delta {budget['delta']:g}; "
            f"spent {_in_words(budget['spent'])}, left {left}",
            markup=False,
        )
    note(f"{path}: the chain of {found['records']} records is whole")


def open_ledger_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The new file.")],
    dataset: Annotated[str, typer.Option(metavar="NAME", help="Your name for the data set.")],
    epsilon: Annotated[float, typer.Option(help="What all runs together may spend.")],
    delta: Annotated[float, typer.Option(help="Probability that the promise may fail.")],
    unit: Annotated[str, typer.Option(metavar="image|group", help="What is protected.")] = "image",
) -> None:
    """Open a ledger with a budget, to be shared by runs on the same data (privacy.ledger=PATH)."""
    from dpdm.privacy import Ledger, SystemNoise
    from dpdm.release.files import refuse_release

    refuse_release("PATH", path)
    if unit not in ("image", "group"):
        raise RequestError(f"--unit {unit}: use image or group")
    if not dataset.strip():
        raise RequestError("--dataset: give the data set a name, for those who read the ledger")
    if not path.parent.is_dir():
        raise RequestError(f"{path}: there is no folder {path.parent}; make it first")
    Ledger.create(
        path,
        dataset=dataset,
        unit=unit,
        noise_source=SystemNoise().description,
        budget=(epsilon, delta),
    ).close()
    note(
        f"{path}: open with epsilon {epsilon:g} at delta {delta:g} for all runs together; "
        f"give each --set privacy.ledger={path}"
    )


def summary(ledger: Ledger, delta: float, accountant: Accountant) -> dict[str, Any]:
    """The ledger as ``dpdm privacy ledger --json`` prints it: the header, and

    ``private`` (false where the noise came from a chosen seed), ``records`` and ``repeated`` (of
    them, of steps done again after an interruption), ``runs`` (each with ``name``, ``records``,
    ``mechanisms`` and its own ``epsilon``), ``mechanisms`` and ``epsilon`` of all together,
    ``budget`` (with ``spent`` and ``left``, their difference) or None, and ``head``. An epsilon is
    None where no finite one can be shown.
    """
    from dpdm.training.seeded_noise import drew_from_seed

    chain_keys = ("sequence", "previous", "hash")
    budget = None
    if ledger.budget:
        limit, at = ledger.budget
        spent = _finite(ledger.epsilon(at, accountant))
        left = None if spent is None else max(0.0, limit - spent)
        budget = {"epsilon": limit, "delta": at, "spent": spent, "left": left}
    return {key: value for key, value in ledger.header.items() if key not in chain_keys} | {
        "private": not drew_from_seed(ledger),
        "records": len(ledger),
        "repeated": ledger.repeated,
        "runs": [
            {
                "name": run,
                "records": sum(count for _, _, count in ledger.counted_events(run)),
                "mechanisms": _mechanisms(ledger, run),
                "epsilon": _finite(ledger.epsilon(delta, accountant, run)),
            }
            for run in ledger.runs
        ],
        "mechanisms": _mechanisms(ledger, None),
        "epsilon": _finite(ledger.epsilon(delta, accountant)),
        "delta": delta,
        "accountant": accountant,
        "budget": budget,
        "head": ledger.head,
    }


def _find(source: str) -> tuple[Path, float | None, str]:
    """The ledger that was named, and a run's own delta and accountant."""
    from dpdm.config import load_config
    from dpdm.training.folder import RunFolder, ledger_path

    path = Path(source)
    if path.is_file():
        return path, None, "pld"
    folder = RunFolder(path)
    if not folder.config.is_file():
        inside = path.name in ("release", "private") and RunFolder(path.parent).config.is_file()
        hint = f"; it is part of one: give {path.parent}" if inside else ""
        raise RequestError(
            f"{source}: neither a ledger nor a run's folder (private/config.yaml){hint}"
        )
    config = load_config(folder.config)
    found = ledger_path(folder, config)
    if not found.is_file():
        if config.privacy.ledger is not None:
            raise DpdmError(f"{found}: missing; runs share this ledger: restore it from a backup")
        raise RequestError(f"{found}: no such file; a run that is private makes it when it starts")
    return found, config.privacy.delta, config.privacy.accountant


def _check_complete(ledger: Ledger, source: Path) -> None:
    """Raises DpdmError where a run's files know of uses of the data that its ledger does not hold:
    those that its release states, or records that a checkpoint was written after.
    """
    from dpdm.privacy.accounting import event_from_json
    from dpdm.release.files import STATEMENT, read_json
    from dpdm.training.folder import RunFolder

    statement = read_json(source / "release" / STATEMENT) if source.is_dir() else None
    held = {(name, event): count for name, event, count in ledger.counted_events()}
    for used in (statement or {}).get("mechanisms", ()):
        if held.get((used["name"], event_from_json(used["event"])), 0) < used["count"]:
            raise DpdmError(
                f"{source}: the ledger holds fewer uses of the data than the release states "
                f"({used['name']}): records were taken away; restore it from a backup"
            )
    for file, head in RunFolder(source).ledger_heads().items():
        try:
            ledger.require(head)
        except DpdmError as error:
            raise DpdmError(f"{file} was written after records that are gone: {error}") from None


def _mechanisms(ledger: Ledger, run: str | None) -> list[dict[str, Any]]:
    return [
        {"name": name, "event": event.to_json(), "count": count}
        for name, event, count in ledger.counted_events(run)
    ]


def _finite(epsilon: float) -> float | None:
    return epsilon if epsilon < float("inf") else None


def _in_words(epsilon: float | None) -> str:
    from dpdm.promise.wording import at_most

    return "no finite value" if epsilon is None else at_most(epsilon, 6)
