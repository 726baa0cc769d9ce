"""``dpdm privacy audit``: attack a training, and compare what is found with what is claimed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm.cli.console import Display, note, out, print_json, table
from dpdm.cli.options import Data, Device, Json, Settings, Source, load, open_training_data
from dpdm.errors import DpdmError, RequestError

if TYPE_CHECKING:
    from dpdm.audit import AuditResult

_EMBEDDED = ("digits",)


def register(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("audit")(audit_command)


def audit_command(
    source: Source,
    data: Data = None,
    settings: Settings = None,
    canaries: Annotated[
        int, typer.Option(metavar="M", help="Made-up units to look for, each in the data or not.")
    ] = 1000,
    confidence: Annotated[
        float,
        typer.Option(
            help="With which a bound holds; for the verdict it is shared out among the kinds of "
            "canaries."
        ),
    ] = 0.95,
    runs: Annotated[int, typer.Option(help="Trainings to attack; more give a higher bound.")] = 1,
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Also write the result here.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Attack a training with canaries: a lower bound on epsilon beside the claim, and checks.

    Trains for real, in a temporary folder with a ledger of its own. The claim is about any data, so
    no private data is needed: without --data the digits are audited on themselves and every other
    preset on random images of its shape and number. On private data, the result is private too.

    Exit status 1 where the audit contradicts the claim.
    """
    import json

    from dpdm.audit import run_audit, stand_in
    from dpdm.release.files import refuse_release, write_text

    if out_file is not None:
        refuse_release("--out", out_file)
        if out_file.is_dir():
            raise RequestError(f"--out {out_file}: is a folder; name a file, such as audit.json")
    config = load(source, settings)
    spec = config.data.spec
    invented = data is None and (spec or "").partition("@")[0] not in _EMBEDDED
    dataset = stand_in(config, spec) if invented else open_training_data(config, data)
    with Display() as shown:
        result = run_audit(
            config,
            dataset,
            canaries=canaries,
            confidence=confidence,
            runs=runs,
            device=device,
            progress=shown.training,
        )
    if as_json:
        print_json(result.to_json())
    else:
        _show(result)
    if out_file is not None:
        write_text(out_file, json.dumps(result.to_json(), indent=2) + "\n")
    if data is not None:
        note("private view: computed with knowledge of the data; do not share it")
    if result.faults:
        raise DpdmError("the audit contradicts the claim: " + "; ".join(result.faults))


def _show(result: AuditResult) -> None:
    from dpdm.promise.wording import at_least, at_most

    table(
        ("canaries", "number", "in the data", "guesses", "right", "epsilon at least"),
        [
            (
                family.kind,
                family.count,
                family.included,
                family.guesses,
                family.correct,
                f"{family.epsilon_lower_bound:.3f}",
            )
            for family in result.canaries
        ],
    )
    table(
        ("check", "passed", "seen"),
        [(check.name, "yes" if check.passed else "NO", check.seen) for check in result.checks],
    )
    out.print(
        f"epsilon is at least {at_least(result.epsilon_lower_bound)} (confidence "
        f"{result.confidence:.0%}); claimed: at most {at_most(result.epsilon_claimed)}, at delta "
        f"{result.delta:g}"
    )
