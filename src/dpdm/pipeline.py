"""``dpdm run``: train, sample, evaluate, report, each where its result is not there yet.

Samples and the release's report are made from the release alone; evaluation and the private report
read real data and stay on the private side.
"""

from __future__ import annotations

import json
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpdm.config import Config, flatten
from dpdm.data import Dataset, write_samples
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.trajectory import Trajectory
from dpdm.errors import DpdmError, RequestError
from dpdm.evaluation import ProgressCallback, ReportContent, Stage, added, evaluate, render_report
from dpdm.evaluation.closeness import unfit_hold_out
from dpdm.hashing import content_hash
from dpdm.memory import check_room
from dpdm.networks import load_into, load_weights
from dpdm.release.build import build_denoiser, build_prior_denoiser
from dpdm.release.files import read_json, write_text
from dpdm.release.model import Images, Labels, Model
from dpdm.release.seal import seal_release
from dpdm.release.trajectory import draw_trajectory
from dpdm.training.run import Run

_TRAJECTORIES = 6
_COMPARED = 10_000
"""Samples whose nearest real images are looked for; 60,000 MNIST images take minutes for these."""


def sample_release(
    run: Run, progress: ProgressCallback | None = None, device: str | None = None
) -> Path:
    """Draws ``sampling.count`` images into ``release/samples.npz`` unless it is there."""
    path = run.release / "samples.npz"
    if not path.is_file():
        model, started = run.model(), time.perf_counter()
        images, labels = _sample(model, run, "sampling", progress, device)
        run.folder.update_state(sampling_seconds=time.perf_counter() - started)
        _write(path, images, labels, model.classes)
        seal_release(run.release, written=("samples.npz",))
    return path


def _sample(
    model: Model, run: Run, what: str, progress: ProgressCallback | None, device: str | None = None
) -> tuple[Images, Labels]:
    return model.sample(
        run.config.sampling.count,
        seed=run.config.training.seed,
        device=device,
        progress=None if progress is None else lambda done, total: progress(what, done, total),
    )


def _write(path: Path, images: Images, labels: Labels, classes: tuple[str, ...]) -> None:
    write_samples(path, images, labels if classes else None, classes)


def read_samples(run: Run) -> tuple[Images, Labels]:
    """``release/samples.npz``; see ``read_images``."""
    return _labelled(run.release / "samples.npz")


def _labelled(path: Path) -> tuple[Images, Labels]:
    images, labels = read_images(path)
    return images, np.full(len(images), -1, np.int64) if labels is None else labels


def read_images(path: Path) -> tuple[Images, Labels | None]:
    """Samples as they were written; no labels where the model has no classes.

    Raises:
        DpdmError: the file is damaged.
    """
    try:
        with np.load(path) as arrays:
            return arrays["images"], arrays.get("labels")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DpdmError(f"{path}: damaged ({error}); delete it and run again") from None


def stage_file(run: Run, stage: str) -> Path:
    """Where the samples of a stage lie, on the private side."""
    return run.folder.stages / f"{stage.lower().replace(' ', '-')}.npz"


@dataclass(frozen=True)
class StageModel:
    """A model of one stage of a run, as it would have been released."""

    name: str
    description: str
    model: Model


def stage_models(run: Run) -> list[StageModel]:
    """The prior alone, before and after DP-SGD, with labeller: those that this run has.

    The last one is the release.
    """
    final, config = run.model(), run.config
    stages = []
    trained = config.training.steps > 0 and run.folder.read_state().get("steps_done", 0) > 0
    if final.mixture is not None:
        alone = build_prior_denoiser(config, final.mixture)
        stages.append(
            StageModel(
                "Prior alone",
                "drawn from the Gaussians fitted to noised statistics",
                replace(final, denoiser=alone.eval(), labeller=None),
            )
        )
    if (config.warmup.steps or config.network.init) and run.folder.warmed_up.is_file():
        denoiser = build_denoiser(config, final.image_shape, len(final.classes), final.mixture)
        assert isinstance(denoiser, Denoiser)
        tensors, _ = load_weights(run.folder.warmed_up)
        load_into(denoiser.network, tensors)
        before = replace(final, denoiser=denoiser.eval().requires_grad_(False), labeller=None)
        if config.warmup.steps:
            what = ("After warm-up", "the network after training on samples of the prior")
        else:
            what = ("Pretrained", "the network before any gradient of a private image")
        stages.append(StageModel(*what, before))
    if trained:
        after = "gradient steps on real images"
        stages.append(StageModel("After DP-SGD", after, replace(final, labeller=None)))
    if final.labeller is not None:
        relabelled = "the labeller finds each label's class in its image"
        if config.sampling.labeller_guidance:
            relabelled = "samples are moved to where the labeller finds their label"
        stages.append(StageModel("With labeller", relabelled, final))
    last = stages.pop()
    return [*stages, replace(last, description=f"the released model: {last.description}")]


def evaluate_run(
    run: Run,
    train: Dataset,
    test: Dataset,
    progress: ProgressCallback | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Measures the release's samples and those of earlier stages: ``private/evaluation.json``.

    Stages are drawn on ``device``; what was drawn before an interruption is not drawn again.

    Raises:
        RequestError: the test set does not fit the model.
    """
    settings, started = run.config.evaluation, time.perf_counter()
    samples, cache = read_samples(run), run.folder.private / "cache"
    result: dict[str, Any] = dict(
        evaluate(
            samples,
            train=train,
            test=test,
            seeds=settings.seeds,
            cache=cache,
            progress=None if progress is None else lambda *a: progress("evaluating", *a[-2:]),
        )
    )
    if settings.memorisation:
        unfit = unfit_hold_out(train, test)
        without = {"notes": [f"Memorisation was not measured: {unfit}."]}
        result = added(result, without if unfit else _closeness(samples, train, test))
    stages = stage_models(run) if settings.stages else []
    measured = []
    for stage in stages:
        file, last = stage_file(run, stage.name), stage is stages[-1]
        if last:
            drawn = samples
        elif file.is_file():
            drawn = _labelled(file)
        else:
            what = f"sampling: {stage.name.lower()}"
            drawn = _sample(stage.model, run, what, progress, device)
        if not file.is_file():
            _write(file, *drawn, stage.model.classes)
        accuracy = result["accuracy"]
        if not last:
            accuracy = evaluate(drawn, train=train, test=test, seeds=settings.seeds, cache=cache)[
                "accuracy"
            ]
        measured.append({"name": stage.name, "description": stage.description, **accuracy})
    if measured:
        result["stages"] = measured
    keep_evaluation(run, result)
    seconds = time.perf_counter() - started
    run.folder.update_state(evaluation_seconds=seconds, evaluated=_question(run, test))
    return result


def is_evaluated(run: Run, test: Dataset) -> bool:
    """Whether the release's samples were measured on these test images, with the run's settings.

    Of a run that was evaluated before that was kept, it is taken to be so.
    """
    asked = run.folder.read_state().get("evaluated")
    return "accuracy" in (read_evaluation(run) or {}) and asked in (None, _question(run, test))


def _question(run: Run, test: Dataset) -> str:
    """A hash of what an evaluation depends on beside the samples: private, as the images are."""
    return content_hash(run.config.evaluation.model_dump_json(), test.private_hash)


def _closeness(samples: tuple[Images, Labels], train: Dataset, test: Dataset) -> dict[str, Any]:
    """Memorisation in pixels, of the first samples alone where there are very many."""
    few = (samples[0][:_COMPARED], samples[1][:_COMPARED])
    found = evaluate(few, train=train, test=test, metrics=["memorisation"], features=("pixels",))
    notes = []
    if len(few[0]) < len(samples[0]):
        notes = [f"Memorisation: of the first {_COMPARED:,} samples, in pixels."]
    return {"memorisation": found["memorisation"], "notes": notes}


def keep_evaluation(run: Run, result: Mapping[str, Any]) -> None:
    """Adds a result to ``private/evaluation.json``."""
    whole = added(read_evaluation(run) or {}, result)
    write_text(run.folder.evaluation, json.dumps(whole, indent=2) + "\n")


def read_evaluation(run: Run) -> dict[str, Any] | None:
    """``private/evaluation.json``, or None where the run was not evaluated."""
    return read_json(run.folder.evaluation, "; delete it and evaluate again")


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
        trajectory=_trajectory(run, model),
        data=state.get("data", {}).get("name", ""),
        stages=_stages(run, evaluation),
        history=tuple(history),
        evaluation=evaluation,
        audit=read_json(run.folder.private / "audit.json", "; delete it and audit again"),
        cost={
            "training_seconds": state.get("training_seconds"),
            "of_which_prior_seconds": state.get("prior_seconds"),
            "sampling_seconds": state.get("sampling_seconds"),
            "evaluation_seconds": state.get("evaluation_seconds"),
            "dp_sgd_steps": state.get("steps_done", 0),
            "image_passes": sum(r["images"] for r in history),
            "peak_memory_of_training_bytes": state.get("peak_memory_bytes"),
            "device": state.get("device"),
        },
        config=flatten(run.config),
    )


def _trajectory(run: Run, model: Model) -> Trajectory:
    """One image for each of the first classes, or a few: of the release's model, as its samples."""
    labels = list(range(min(len(model.classes), _TRAJECTORIES))) or "uniform"
    count = len(labels) if model.classes else _TRAJECTORIES
    return draw_trajectory(model, labels, count, seed=run.config.training.seed)


def _stages(run: Run, evaluation: dict[str, Any] | None) -> tuple[Stage, ...]:
    stages = []
    for entry in (evaluation or {}).get("stages", []):
        file = stage_file(run, entry["name"])
        if not file.is_file():
            continue
        images, labels = read_images(file)
        accuracy = {key: entry[key] for key in ("lr", "mlp", "cnn") if key in entry}
        stages.append(Stage(entry["name"], entry["description"], images, labels, accuracy))
    return tuple(stages)


def check_sampling(config: Config, train: Dataset) -> None:
    """Refuses samples that cannot be drawn, before anything is spent.

    Raises:
        RequestError: ``sampling.count`` is more than memory holds.
    """
    check_room("sampling.count", config.sampling.count, train.shape)


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
