"""``dpdm run``: train, sample, evaluate, report, each where its result is not there yet.

Samples and the release's report are made from the release alone; evaluation and the private report
read real data and stay on the private side.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpdm.config import flatten
from dpdm.data import Dataset, write_samples
from dpdm.diffusion.denoiser import Denoiser
from dpdm.errors import DpdmError, RequestError
from dpdm.evaluation import ReportContent, Stage, added, evaluate, render_report
from dpdm.networks import load_into, load_weights
from dpdm.release.build import build_denoiser
from dpdm.release.files import read_json, write_text
from dpdm.release.model import Images, Labels, Model
from dpdm.release.seal import seal_release
from dpdm.training import Run

Progress = Callable[[str, int, int], None]


def sample_release(run: Run, progress: Progress | None = None) -> Path:
    """Draws ``sampling.count`` images into ``release/samples.npz`` unless it is there."""
    path = run.release / "samples.npz"
    if not path.is_file():
        model = run.model()
        images, labels = _sample(model, run, "sampling", progress)
        _write(path, images, labels, model.classes)
        seal_release(run.release, written=("samples.npz",))
    return path


def _sample(model: Model, run: Run, what: str, progress: Progress | None) -> tuple[Images, Labels]:
    return model.sample(
        run.config.sampling.count,
        seed=run.config.training.seed,
        progress=None if progress is None else lambda done, total: progress(what, done, total),
    )


def _write(path: Path, images: Images, labels: Labels, classes: tuple[str, ...]) -> None:
    write_samples(path, images, labels if classes else None, classes)


def read_samples(run: Run) -> tuple[Images, Labels]:
    """``release/samples.npz``.

    Raises:
        DpdmError: the file is damaged.
    """
    images, labels = _read(run.release / "samples.npz")
    return images, np.full(len(images), -1, np.int64) if labels is None else labels


def _read(path: Path) -> tuple[Images, Labels | None]:
    try:
        with np.load(path) as arrays:
            return arrays["images"], arrays.get("labels")
    except (OSError, ValueError, KeyError) as error:
        raise DpdmError(f"{path}: damaged ({error}); delete it and run again") from None


def stage_file(run: Run, stage: str) -> Path:
    """Where the samples of a stage lie, on the private side."""
    return run.folder.private / "stages" / f"{stage.lower().replace(' ', '-')}.npz"


@dataclass(frozen=True)
class _StageModel:
    name: str
    description: str
    model: Model


def _stage_models(run: Run) -> list[_StageModel]:
    """The prior alone, after warm-up, after DP-SGD: those of the three that this run has."""
    final, config = run.model(), run.config
    stages = []
    trained = config.training.steps > 0 and run.folder.read_state().get("steps_done", 0) > 0
    if final.mixture is not None:
        alone = config.model_copy(
            update={
                "training": config.training.model_copy(update={"steps": 0}),
                "warmup": config.warmup.model_copy(update={"steps": 0}),
            }
        )
        denoiser = build_denoiser(alone, final.image_shape, len(final.classes), final.mixture)
        stages.append(
            _StageModel(
                "Prior alone",
                "drawn from the Gaussians fitted to noised statistics",
                replace(final, denoiser=denoiser.eval()),
            )
        )
    if config.warmup.steps and run.folder.warmed_up.is_file():
        denoiser = build_denoiser(config, final.image_shape, len(final.classes), final.mixture)
        assert isinstance(denoiser, Denoiser)
        tensors, _ = load_weights(run.folder.warmed_up)
        load_into(denoiser.network, tensors)
        stages.append(
            _StageModel(
                "After warm-up",
                "the network after training on samples of the prior",
                replace(final, denoiser=denoiser.eval().requires_grad_(False)),
            )
        )
    if trained:
        stages.append(
            _StageModel("After DP-SGD", "the released model: gradient steps on real images", final)
        )
    return stages


def evaluate_run(
    run: Run, train: Dataset, test: Dataset, progress: Progress | None = None
) -> dict[str, Any]:
    """Measures the release's samples and those of earlier stages: ``private/evaluation.json``.

    Raises:
        RequestError: the test set does not fit the model.
    """
    path = run.folder.private / "evaluation.json"
    settings = run.config.evaluation
    samples = read_samples(run)
    result: dict[str, Any] = dict(
        evaluate(
            samples,
            train=train,
            test=test,
            seeds=settings.seeds,
            progress=None if progress is None else lambda *a: progress("evaluating", *a[-2:]),
        )
    )
    stages = _stage_models(run) if settings.stages else []
    measured = []
    for stage in stages:
        if stage.name == "After DP-SGD" or len(stages) == 1:
            images, labels, accuracy = *samples, result["accuracy"]
        else:
            images, labels = _sample(stage.model, run, f"sampling: {stage.name.lower()}", progress)
            accuracy = evaluate((images, labels), train=train, test=test, seeds=settings.seeds)[
                "accuracy"
            ]
        measured.append({"name": stage.name, "description": stage.description, **accuracy})
        file = stage_file(run, stage.name)
        if not file.is_file():
            _write(file, images, labels, stage.model.classes)
    if measured:
        result["stages"] = measured
    write_text(path, json.dumps(added(read_evaluation(run) or {}, result), indent=2) + "\n")
    return result


def read_evaluation(run: Run) -> dict[str, Any] | None:
    """``private/evaluation.json``, or None where the run was not evaluated."""
    return read_json(run.folder.private / "evaluation.json", "; delete it and evaluate again")


def write_reports(run: Run, out: Path | None = None) -> tuple[Path, Path]:
    """Writes ``release/report.html`` and ``private/report.html``.

    Args:
        run: a run that has been trained; what has not been sampled or evaluated is left out.
        out: writes the private report there instead.
    """
    content = _content(run)
    release = run.release / "report.html"
    private = out or run.folder.private / "report.html"
    write_text(release, render_report(content, private=False))
    write_text(private, render_report(content, private=True))
    seal_release(run.release, written=("report.html",))
    return release, private


def _content(run: Run) -> ReportContent:
    images, labels = read_samples(run)
    model = run.model()
    evaluation = read_evaluation(run)
    state = run.folder.read_state()
    history = run.folder.read_metrics()
    return ReportContent(
        title=f"Synthetic images: {run.config.name}",
        preset=run.config.name,
        statement=run.statement(),
        images=images,
        labels=labels if model.classes else None,
        classes=model.classes,
        sample_count=len(images),
        stages=_stages(run, evaluation),
        history=tuple(history),
        evaluation=evaluation,
        audit=read_json(run.folder.private / "audit.json", "; delete it and audit again"),
        cost={
            "training_seconds": state.get("training_seconds"),
            "prior_seconds": state.get("prior_seconds"),
            "dp_sgd_steps": state.get("steps_done", 0),
            "image_passes": sum(r["images"] for r in history),
            "device": state.get("device"),
        },
        config=flatten(run.config),
    )


def _stages(run: Run, evaluation: dict[str, Any] | None) -> tuple[Stage, ...]:
    stages = []
    for entry in (evaluation or {}).get("stages", []):
        file = stage_file(run, entry["name"])
        if not file.is_file():
            continue
        images, labels = _read(file)
        accuracy = {key: entry[key] for key in ("lr", "mlp", "cnn") if key in entry}
        stages.append(Stage(entry["name"], entry["description"], images, labels, accuracy))
    return tuple(stages)


def check_test_set(train: Dataset, test: Dataset) -> None:
    """Refuses a test set that cannot measure a model of the training set, before anything is spent.

    Raises:
        RequestError: shapes or class names differ.
    """
    if train.shape != test.shape:
        raise RequestError(
            f"--test: its images are {test.shape}, those of the training data {train.shape} "
            "(height, width, channels); set data.image_size and data.channels to bring them "
            "together"
        )
    if train.classes != test.classes:
        raise RequestError(
            f"--test: its classes {list(test.classes)} are not those of the training data "
            f"{list(train.classes)}"
        )
