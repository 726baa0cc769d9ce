"""``dpdm privacy statement``: what was promised, and whether the files are still the same."""

from __future__ import annotations

import typer

from dpdm.cli.console import note, out, print_json
from dpdm.cli.options import Json, Release
from dpdm.errors import DpdmError, RequestError


def register(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("statement")(statement_command)


def statement_command(
    source: Release,
    as_json: Json = False,
) -> None:
    """State what was promised to the people in the data, and check the release's files.

    Exit status 1 where a file was changed or removed since the release was sealed.
    """
    from pathlib import Path

    from dpdm.promise import render_markdown
    from dpdm.release.files import STATEMENT, find_release, read_statement
    from dpdm.release.seal import check_release

    root = Path(source)
    stated = [place for place in (root, root / "release") if (place / STATEMENT).is_file()]
    folder = stated[0] if stated else find_release(source)  # also where other files are missing
    report = check_release(folder)
    statement = read_statement(folder)
    if statement is None:
        raise RequestError(f"{folder}: holds no privacy.json; nothing is known about its promise")
    if as_json:
        edited = [STATEMENT] if report.statement_changed else []
        checked = {
            "files_intact": report.intact if report.sealed else None,
            "changed": [*edited, *report.changed],
            "missing": list(report.missing),
            "unlisted": list(report.unlisted),
        }
        print_json(statement | checked)
    elif report.statement_changed:
        out.print(
            f"NOT INTACT: {report.problem}\nWhat it now says is not what was promised; it is not "
            "repeated here. Get the release again from where it was made.",
            markup=False,
        )
    else:
        if report.problem and report.sealed:
            out.print(f"NOT INTACT: {report.problem}\n", markup=False)
        try:
            text = render_markdown(statement)
        except (KeyError, TypeError) as error:
            raise DpdmError(
                f"{folder / STATEMENT}: damaged or not a statement ({error}); get the release "
                "again from where it was made"
            ) from None
        out.print(text, markup=False)
        if report.intact:
            out.print(f"Every sealed file is as it was sealed. Seal: {report.seal}", markup=False)
    if not report.sealed:
        note(f"warning: {report.problem}")
    if report.unlisted:
        note(f"warning: not covered by this statement: {', '.join(report.unlisted)}")
    if report.sealed and not report.intact:
        raise typer.Exit(1)
