"""``dpdm evaluate``: what synthetic images are worth, measured on real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpdm.cli.console import display, note, print_json, table
from dpdm.errors import RequestError

if TYPE_CHECKING:
    from dpdm.data import Dataset
    from dpdm.training import Run

METRICS = "classifiers, fid, kid, prdc, is, per-class, memorisation"


def register(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    synthetic: Annotated[
        str,
        typer.Argument(
            metavar="SYNTHETIC", help="Samples: .npz, .parquet, folder; or the folder of a run."
        ),
    ],
    test: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Real test images; also the hold-out.")
    ] = None,
    train: Annotated[str | None, typer.Option(metavar="SPEC", help="Real training images.")] = None,
    metrics: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Comma-separated, or all: {METRICS}.")
    ] = "classifiers",
    seeds: Annotated[int, typer.Option(help="Trainings of each classifier.", min=1)] = 1,
    inception: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|download",
            help="FID's network, inception-2015-12-05.pt; looked for in $DPDM_DATA/inception and "
            "in the cache.",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Another network to compare by: a TorchScript file, cnn or pixels; repeatable.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Private folder that keeps features and distances; of a run: private/cache.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the result; - prints it.")
    ] = None,
) -> None:
    """Measure synthetic images against real ones. The result is private."""
    import json

    from dpdm.evaluation import AVAILABLE_METRICS, evaluate, without_pictures
    from dpdm.release.files import write_text

    run = _run(synthetic)
    asked = [name.strip() for name in metrics.split(",")]
    if cache is None and run is not None:
        cache = run.folder.private / "cache"
    test_set = _open(run, test)
    with display() as shown:
        result: dict[str, Any] = dict(
            evaluate(
                _samples(run, synthetic),
                train=_open(run, train),
                test=test_set,
                metrics=AVAILABLE_METRICS if asked == ["all"] else asked,
                seeds=seeds,
                inception=inception,
                features=features or (),
                cache=cache,
                progress=shown.update,
            )
        )
    if run is not None:
        _keep(run, result)
    shared = without_pictures(result)
    if json_file is not None and str(json_file) != "-":
        write_text(json_file, json.dumps(shared, indent=2) + "\n")
    elif json_file is not None:
        print_json(shared)
        return
    note("measured on real images without noise: keep it private")
    _print(shared)
    if run is not None:
        note(
            f"kept in {run.folder.private / 'evaluation.json'}; `dpdm report {synthetic}` shows it"
        )


def _run(synthetic: str) -> Run | None:
    """The run whose folder was given, or None where it is something else."""
    from dpdm.data.paths import user_path

    if not (user_path(synthetic) / "private" / "config.yaml").is_file():
        return None
    from dpdm.training import open_run

    return open_run(user_path(synthetic))


def _samples(run: Run | None, synthetic: str) -> Dataset:
    from dpdm.data import open_dataset

    if run is None:
        return open_dataset(synthetic)
    path = run.release / "samples.npz"
    if not path.is_file():
        raise RequestError(
            f"{synthetic}: the run has no samples yet; run `dpdm report {synthetic}`"
        )
    return open_dataset(str(path))


def _open(run: Run | None, spec: str | None) -> Dataset | None:
    """Real images; for a run brought to the size and channels that it was trained at."""
    from dpdm.cli.options import open_with
    from dpdm.data import open_dataset

    if spec is None:
        return None
    return open_dataset(spec) if run is None else open_with(run.config, spec)


def _keep(run: Run, result: Mapping[str, Any]) -> None:
    """Adds the result to ``private/evaluation.json``."""
    import json

    from dpdm.evaluation import added
    from dpdm.pipeline import read_evaluation
    from dpdm.release.files import write_text

    whole = added(read_evaluation(run) or {}, result)
    write_text(run.folder.private / "evaluation.json", json.dumps(whole, indent=2) + "\n")


def _print(result: Mapping[str, Any]) -> None:
    if "accuracy" in result:
        spread = result.get("accuracy_spread", {})
        table(
            ("classifier", "accuracy", "spread"),
            [
                (name.upper(), f"{value:.4f}", f"{spread[name]:.4f}" if name in spread else "")
                for name, value in result["accuracy"].items()
            ],
        )
    rows = list(_measures(result))
    if rows:
        table(("measure", "value", "spread"), rows)
    if "classes" in result:
        _print_classes(result["classes"])
    for entry in result.get("served_worse", ()):
        note(
            f"class {entry['class']} is served worse: {entry['by']} {entry['share']:.3f}, "
            f"all classes {entry['overall']:.3f}"
        )
    if "memorisation" in result:
        _print_memorisation(result["memorisation"])
    for name, description in result.get("features", {}).items():
        note(f"features {name}: {description}")
    for line in result.get("notes", []):
        note(line)


def _measures(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key, value in result.items():
        if key in ("fid", "kid", "is") or key.startswith(("fd-", "kd-")):
            if key.endswith("_spread"):
                continue
            spread = result.get(f"{key}_spread")
            yield key, f"{value:.6g}", "" if spread is None else f"{spread:.4g}"
    for key in ("precision", "recall", "density", "coverage"):
        if key in result:
            yield f"{key} ({result['prdc_features']})", f"{result[key]:.4f}", ""


def _print_classes(classes: Mapping[str, Mapping[str, Any]]) -> None:
    keys = list(dict.fromkeys(key for entry in classes.values() for key in entry))
    table(
        ("class", *keys),
        [
            (name, *(f"{entry[key]:.4g}" if key in entry else "" for key in keys))
            for name, entry in classes.items()
        ],
    )


def _print_memorisation(found: Mapping[str, Any]) -> None:
    table(
        ("memorisation", "near-copies", "their p", "AUC", "its p", "flagged"),
        [
            (
                name,
                f"{entry['near_copies']:.4f}",
                f"{entry['near_copies_p']:.2g}",
                f"{entry['membership_auc']:.3f}",
                f"{entry['membership_p']:.2g}",
                "yes" if entry["flagged"] else "no",
            )
            for name, entry in found["spaces"].items()
        ],
    )
    note(found["verdict"])
