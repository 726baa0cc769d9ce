"""``dpdm data``: which data sets there are, whether one can be read, and downloads."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dpdm.cli.console import Display, out, print_json, reading, table, warn_private
from dpdm.cli.options import Json
from dpdm.errors import first_few

_SHOWN, _CLASSES_SHOWN = 10, 50
"""Sizes and problems, and classes, that a person is shown."""
_ALL = " (all with --json)"

app = typer.Typer(
    help="Data sets: list, check, fetch.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List the named data sets and where each was found."""
    from dpdm.data import list_datasets

    rows = list_datasets()
    if as_json:
        print_json({"datasets": rows})
        return
    table(
        ("name", "images", "classes", "train", "test", "where"),
        [
            (
                row["name"],
                "x".join(str(side) for side in row["shape"]),
                len(row["classes"]),
                row["train"],
                row["test"],
                row["found"] or row["get"],
            )
            for row in rows
        ],
    )


@app.command("check")
def check_command(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A name or a path.")],
    image_size: Annotated[int | None, typer.Option(help="As data.image_size.")] = None,
    channels: Annotated[int | None, typer.Option(help="As data.channels.")] = None,
    as_json: Json = False,
) -> None:
    """Read a data set and print size, classes, sizes seen, groups and problems: a private view.

    Exit status 1 where it cannot be trained on as it is.
    """
    from dpdm.data import check_report

    with reading(spec) as progress:
        report = check_report(spec, image_size=image_size, channels=channels, progress=progress)
    if as_json:
        print_json(report)
    else:
        warn_private()
        for line in _described(report):
            out.print(line)
    if not report["ready"]:
        raise typer.Exit(1)


def _described(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['name']}: {report['count']} images"]
    if report["shape"]:
        height, width, channels = report["shape"]
        lines[0] += f", {height} x {width}, {channels} channel{'s' if channels != 1 else ''}"
    if report["classes"]:
        counts = [f"{entry['name']} {entry['count']}" for entry in report["classes"]]
        lines.append(f"classes: {', '.join(first_few(counts, _CLASSES_SHOWN, _ALL))}")
    most = sorted(report["sizes"], key=lambda entry: -entry["count"])
    sizes = [f"{entry['height']} x {entry['width']} ({entry['count']})" for entry in most]
    lines.append(f"sizes seen: {', '.join(first_few(sizes, _SHOWN, _ALL))}")
    if report["groups"]:
        groups = ", ".join(f"{key} {value}" for key, value in report["groups"].items())
        lines.append(f"groups: {groups}")
    problems = [f"{entry['file']}: {entry['reason']}" for entry in report["problems"]]
    lines += [f"problem: {problem}" for problem in first_few(problems, _SHOWN, _ALL)]
    declared = "declared" if report["public_size_declared"] else "the exact count"
    lines.append(f"size treated as public: {report['public_size']} ({declared})")
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    lines.append("ready to train" if report["ready"] else f"not ready: {report['error']}")
    return lines


@app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `dpdm data list`.")],
) -> None:
    """Download a named data set into the cache folder and check it."""
    from dpdm.data import fetch

    with Display() as shown:
        path = fetch(name, shown.update)
    out.print(f"{name} is built in" if path is None else f"{name} is in {path}")
