"""``dpdm evaluate``: what synthetic images are worth, measured on real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from dpdm.cli.accuracies import print_accuracies
from dpdm.cli.console import Display, note, print_json, reading, table
from dpdm.errors import RequestError

if TYPE_CHECKING:
    from dpdm.data import Dataset
    from dpdm.evaluation import Baseline, Selection
    from dpdm.training.run import Run

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
    classifiers: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Comma-separated: lr, mlp, cnn, resnet, wrn."),
    ] = "lr,mlp,cnn",
    selection: Annotated[
        str,
        typer.Option(
            metavar="synthetic|test",
            help="What chooses a classifier's epoch; test adds the literature's optimistic figure.",
        ),
    ] = "synthetic",
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="dpsgd",
            help="Also train LR, MLP and CNN with DP-SGD on --train: one more use of the data.",
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Of each classifier of the baseline; default the run's.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="The baseline's; default the run's.")] = None,
    baseline_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Private folder of the baseline's ledgers, statements and weights; default "
            "private/baselines of a run, else baselines in --cache.",
        ),
    ] = None,
    inception: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|download|none",
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
            help="Private folder that keeps classifiers, features and distances; of a run: "
            "private/cache.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the result; - prints it.")
    ] = None,
) -> None:
    """Measure synthetic images against real ones. The result is private."""
    import json

    from dpdm.evaluation import AVAILABLE_METRICS, baseline_note, evaluate, without_pictures
    from dpdm.release.files import refuse_release, write_text

    run = _run(synthetic)
    for option, place in (
        ("--json", None if str(json_file) == "-" else json_file),
        ("--cache", cache),
        ("--baseline-out", baseline_out),
    ):
        if place is not None:
            refuse_release(option, place)
    asked = [name.strip() for name in metrics.split(",")]
    if cache is None and run is not None:
        cache = run.folder.private / "cache"
    wanted = _baseline(run, baseline, epsilon, delta, baseline_out, cache)
    test_set = _open(run, test)
    samples, train_set = _samples(run, synthetic), _open(run, train)
    with Display() as shown:
        result: dict[str, Any] = dict(
            evaluate(
                samples,
                train=train_set,
                test=test_set,
                metrics=AVAILABLE_METRICS if asked == ["all"] else asked,
                seeds=seeds,
                classifiers=[name.strip() for name in classifiers.split(",")],
                selection=cast("Selection", selection),
                baseline=wanted,
                inception=inception,
                features=features or (),
                cache=cache,
                progress=shown.update,
            )
        )
    if run is not None:
        from dpdm.pipeline import keep_evaluation

        keep_evaluation(run, result)
    shared = without_pictures(result)
    if json_file is not None and str(json_file) != "-":
        write_text(json_file, json.dumps(shared, indent=2) + "\n")
    elif json_file is not None:
        print_json(shared)
        if wanted is not None:
            note(baseline_note(shared["baseline"]))
        return
    note("measured on real images without noise: keep it private")
    _print(shared)
    if run is not None:
        note(f"kept in {run.folder.evaluation}; `dpdm report {synthetic}` shows it")


def _run(synthetic: str) -> Run | None:
    """The run whose folder was given, or None where it is something else."""
    from dpdm.data.paths import user_path

    if not (user_path(synthetic) / "private" / "config.yaml").is_file():
        return None
    from dpdm.training.run import open_run

    return open_run(user_path(synthetic))


def _samples(run: Run | None, synthetic: str) -> Dataset:
    from dpdm.data import open_dataset

    if run is None:
        return _as_it_is(synthetic)
    path = run.release / "samples.npz"
    if not path.is_file():
        raise RequestError(
            f"{synthetic}: the run has no samples yet; run `dpdm report {synthetic}`"
        )
    return open_dataset(str(path))


def _open(run: Run | None, spec: str | None) -> Dataset | None:
    """Real images; for a run brought to the size and channels that it was trained at."""
    from dpdm.cli.options import open_with

    if spec is None:
        return None
    return _as_it_is(spec) if run is None else open_with(run.config, spec)


def _as_it_is(spec: str) -> Dataset:
    from dpdm.data import open_dataset

    with reading(spec) as progress:
        return open_dataset(spec, progress=progress)


def _baseline(
    run: Run | None,
    method: str | None,
    epsilon: float | None,
    delta: float | None,
    folder: Path | None,
    cache: Path | None,
) -> Baseline | None:
    """What to compare with; what was not given is the run's."""
    if method is None:
        if epsilon is not None or delta is not None or folder is not None:
            raise RequestError(
                "--epsilon, --delta and --baseline-out belong to a baseline; add --baseline dpsgd"
            )
        return None
    from dpdm.evaluation import Baseline
    from dpdm.training.view_gradients import images_per_unit

    if folder is None and run is not None:
        folder = run.folder.private / "baselines"
    elif folder is None and cache is not None:
        folder = cache / "baselines"
    if folder is None:
        raise RequestError(
            "--baseline dpsgd writes ledgers and weights; give a private folder, --baseline-out DIR"
        )
    unit, images = "image", 1
    if run is not None:
        unit, images = run.config.privacy.unit, images_per_unit(run.config)
        epsilon = _spent(run) if epsilon is None else epsilon
        delta = run.config.privacy.delta if delta is None else delta
    if epsilon is None or delta is None:
        raise RequestError("--baseline dpsgd needs --epsilon E and --delta D of its promise")
    return Baseline(epsilon, delta, folder, unit, images, method)


def _spent(run: Run) -> float | None:
    """The epsilon that a run was planned for, or what it spent where it stopped earlier."""
    statement = run.statement()
    own = statement.get("this_run", statement)["epsilon"]
    planned = run.config.privacy.epsilon
    return planned if own is None or own > 0.99 * planned else float(own)


def _print(result: Mapping[str, Any]) -> None:
    print_accuracies(result)
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
