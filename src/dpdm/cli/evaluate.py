"""``dpdm evaluate``: what synthetic images are worth, measured on real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpdm.cli.console import display, note, print_json, table


def register(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    synthetic: Annotated[
        str, typer.Argument(metavar="SYNTHETIC", help="Samples: .npz, .parquet or folder.")
    ],
    test: Annotated[str, typer.Option(metavar="SPEC", help="Real test images.")],
    train: Annotated[str | None, typer.Option(metavar="SPEC", help="Real training images.")] = None,
    metrics: Annotated[str, typer.Option(help="Comma-separated; in this version: classifiers.")] = (
        "classifiers"
    ),
    seeds: Annotated[int, typer.Option(help="Trainings of each classifier.", min=1)] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the result; - prints it.")
    ] = None,
) -> None:
    """Train classifiers on synthetic images, test them on real ones. The result is private."""
    import json

    from dpdm.data import open_dataset
    from dpdm.evaluation import evaluate
    from dpdm.release.files import write_text

    test_set = open_dataset(test)
    with display() as shown:
        result = evaluate(
            open_dataset(synthetic),
            train=open_dataset(train) if train else None,
            test=test_set,
            metrics=[name.strip() for name in metrics.split(",")],
            seeds=seeds,
            progress=shown.update,
        )
    if json_file is not None and str(json_file) != "-":
        write_text(json_file, json.dumps(result, indent=2) + "\n")
    elif json_file is not None:
        print_json(result)
        return
    note("accuracy on real test images: measured without noise, keep it private")
    spread = result.get("accuracy_spread", {})
    table(
        ("classifier", "accuracy", "spread"),
        [
            (name.upper(), f"{value:.4f}", f"{spread[name]:.4f}" if name in spread else "")
            for name, value in result["accuracy"].items()
        ],
    )
    for line in result.get("notes", []):
        note(line)
