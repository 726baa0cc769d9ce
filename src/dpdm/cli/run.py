"""``dpdm run``, ``train``, ``plan``, ``presets`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpdm.cli.console import Display, note, out, print_json, table
from dpdm.cli.options import (
    Data,
    Device,
    Force,
    Json,
    Out,
    Resume,
    Settings,
    Source,
    load,
    open_training_data,
    open_with,
    refuse_in_data,
)
from dpdm.errors import RequestError

if TYPE_CHECKING:
    from dpdm.config import Config
    from dpdm.data import Dataset
    from dpdm.training.run import Run

Test = Annotated[
    str | None,
    typer.Option(
        "--test", metavar="SPEC", help="Real test images; default: the @test part of --data."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("run")(run_command)
    app.command("train")(train_command)
    app.command("report")(report_command)
    app.command("plan")(plan_command)
    app.command("presets")(presets_command)


def run_command(
    source: Source,
    data: Data = None,
    out_folder: Out = None,
    settings: Settings = None,
    resume: Resume = False,
    force: Force = False,
    device: Device = "auto",
    test: Test = None,
) -> None:
    """Train, sample, evaluate and report: everything, into one folder."""
    config = load(source, settings)
    folder = _run_folder(config, out_folder, data)
    dataset = open_training_data(config, data)
    test_set = find_test_data(config, data, test)
    from dpdm import pipeline
    from dpdm.training.interrupt import Interrupted

    pipeline.check_sampling(config, dataset)
    if test_set is not None:
        pipeline.check_test_set(dataset, test_set)
    with Display() as shown:
        run = _train(config, dataset, folder, resume, force, device, shown.training)
        try:
            pipeline.sample_release(run, shown.update, device)
            if not run.config.evaluation.classifiers:
                note("not evaluated: evaluation.classifiers=false")
            elif test_set is None:
                note("not evaluated: no labelled test images; give --test SPEC to measure accuracy")
            elif not pipeline.is_evaluated(run, test_set):
                pipeline.evaluate_run(run, dataset, test_set, shown.update, device)
            release, private = pipeline.write_reports(run)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted after the training; its release is in {run.release}, and --resume "
                "goes on"
            ) from None
    _summary(run, pipeline.read_evaluation(run), release, private)


def train_command(
    source: Source,
    data: Data = None,
    out_folder: Out = None,
    settings: Settings = None,
    resume: Resume = False,
    force: Force = False,
    device: Device = "auto",
) -> None:
    """Train only: the model and its privacy statement, into --out/release."""
    config = load(source, settings)
    folder = _run_folder(config, out_folder, data)
    dataset = open_training_data(config, data)
    with Display() as shown:
        run = _train(config, dataset, folder, resume, force, device, shown.training)
    _summary(run, None, None, None)


def _run_folder(config: Config, out_folder: Path | None, data: str | None) -> Path:
    folder = out_folder or Path("runs") / config.name
    refuse_in_data(folder, config, data)
    return folder


def _train(
    config: Config,
    dataset: Dataset,
    folder: Path,
    resume: bool,
    force: bool,
    device: str,
    callback: Any,
) -> Run:
    from dpdm.training.run import train

    return train(
        dataset,
        config,
        folder,
        resume=resume,
        force=force,
        device=device,
        callback=callback,
    )


def find_test_data(config: Config, data: str | None, test: str | None) -> Dataset | None:
    """The test images: --test, or the @test part of the training data where it has one."""
    if not config.evaluation.classifiers:
        if test is not None:
            raise RequestError(
                f"--test {test}: evaluation.classifiers=false asks for no evaluation; leave one out"
            )
        return None
    from dpdm.data import NoSplitError

    spec = test_spec(config, data, test)
    if test is not None:
        found = open_with(config, spec)
        if not found.classes:
            raise RequestError(f"--test {test}: has no labels, which classifiers need")
        return found
    try:
        found = open_with(config, spec)
    except NoSplitError:
        return None
    except RequestError as error:
        note(f"no test images: {error}")
        return None
    return found if found.classes else None


def test_spec(config: Config, data: str | None, test: str | None) -> str:
    """What is opened as test images."""
    return test or (data or config.data.spec or "").removesuffix("@train") + "@test"


def _summary(
    run: Run, evaluation: dict[str, Any] | None, release: Path | None, private: Path | None
) -> None:
    from dpdm.promise import render_text

    out.print(render_text(run.statement()))
    for entry in (evaluation or {}).get("stages", []):
        cells = "  ".join(
            f"{name.upper()} {entry[name]:.3f}" for name in ("lr", "mlp", "cnn") if name in entry
        )
        out.print(f"accuracy on real test images (private), {entry['name'].lower()}: {cells}")
    out.print(f"release, may be shared: {run.release}")
    if release and private:
        out.print(f"reports: {release} (to share), {private} (private)")


def report_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")],
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="Private report's file.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Write the two reports of a run: one to share, one private."""
    from dpdm import pipeline
    from dpdm.release.files import refuse_release
    from dpdm.training.run import open_run

    opened = open_run(run)
    if out_file is not None:
        refuse_release("--out", out_file)
    with Display() as shown:
        pipeline.sample_release(opened, shown.update, device)
    release, private = pipeline.write_reports(opened, out_file)
    out.print(f"reports: {release} (to share), {private} (private)")


def plan_command(
    source: Source,
    data: Data = None,
    settings: Settings = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Print what a run would cost and be worth, before it starts; nothing private is used."""
    config = load(source, settings)
    dataset = open_training_data(config, data)
    from dpdm.release.precision import resolve_device
    from dpdm.training.forecast import forecast
    from dpdm.training.run import check_shared_ledger

    found = forecast(config, dataset, resolve_device(device))
    if as_json:
        print_json(found.to_json())
    else:
        table(("", config.name), found.rows())
        for warning in found.warnings:
            note(f"warning: {warning}")
    check_shared_ledger(config, found.plan)


def presets_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this one.")] = None,
    as_json: Json = False,
) -> None:
    """List the presets with what each one costs, or print one with every key."""
    from dpdm.config import load_config, preset_names, preset_row, to_yaml

    if name is not None:
        config = load_config(name)
        if as_json:
            print_json(config.model_dump(mode="json"))
        else:
            print(to_yaml(config), end="")
        return
    rows = [preset_row(known) for known in preset_names()]
    if as_json:
        print_json({"presets": rows})
        return
    table(
        ("preset", "epsilon", "delta", "steps", "batch", "views", "noise", "image passes", "what"),
        [
            (
                row["name"],
                f"{row['epsilon']:g}",
                f"{row['delta']:g}",
                row["steps"],
                row["batch_size"],
                row["views"],
                f"{row['noise_multiplier']:.4g}" if row["noise_multiplier"] else "",
                f"{row['image_passes']:,}",
                row["about"],
            )
            for row in rows
        ],
    )
