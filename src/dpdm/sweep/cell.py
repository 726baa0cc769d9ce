"""What the process of a training does: train, then sample and measure each of its cells.

It is told what in one JSON object, so that it shares nothing with the process that started it but
the folder; every step is passed over where its result is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dpdm import pipeline
from dpdm.config.loading import from_mapping
from dpdm.data import Dataset, write_samples
from dpdm.evaluation import ProgressCallback, evaluate, without_pictures
from dpdm.release.files import write_text
from dpdm.release.model import Model
from dpdm.sweep.folder import measured_place
from dpdm.sweep.spending import own_epsilon
from dpdm.training.events import Callback
from dpdm.training.run import Run, train


@dataclass(frozen=True)
class Job:
    """A training and its cells, in plain values.

    Attributes:
        name: of the training.
        run: folder of the run.
        training: the configuration to train with.
        cells: each with ``name``, ``sampling_name``, ``values``, ``seed`` and its ``config``.
        data: SPEC of the training images.
        test: SPEC of the test images, or None.
        frechet: ``pixels`` or ``inception``.
        cache: folder for features of the real images.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of torch; None for all.
        software: version and commit, for the results.
    """

    name: str
    run: str
    training: dict[str, Any]
    cells: tuple[dict[str, Any], ...]
    data: str
    test: str | None
    frechet: str
    cache: str
    device: str
    threads: int | None
    software: dict[str, str]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """What ``to_json`` wrote."""
        values = json.loads(line)
        return cls(**values | {"cells": tuple(values["cells"])})


def carry_out(
    job: Job,
    data: Dataset,
    test: Dataset | None,
    training: Callback | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Brings every cell of the job to its ``result.json``.

    Raises:
        DpdmError: what ``train``, sampling and ``evaluate`` raise.
        Interrupted: the training was stopped, its state is saved.
    """
    path = Path(job.run)
    config = from_mapping(job.training, job.name)
    run = train(
        data,
        config,
        path,
        resume=path.is_dir() and any(path.iterdir()),
        device=job.device,
        callback=training,
    )
    for cell in job.cells:
        place = measured_place(run.folder, cell["sampling_name"])
        if not (place / "result.json").is_file():
            _measure(job, run, cell, place, data, test, progress)


def _measure(
    job: Job,
    run: Run,
    cell: Mapping[str, Any],
    place: Path,
    data: Dataset,
    test: Dataset | None,
    progress: ProgressCallback | None,
) -> None:
    """Samples a cell, measures the samples, and writes its result last."""
    config = from_mapping(cell["config"], cell["name"])
    if cell["sampling_name"]:
        samples = place / "samples.npz"
        if not samples.is_file():
            model = run.model()
            settings = model.config.model_copy(update={"sampling": config.sampling})
            _draw(replace(model, config=settings), samples, cell["seed"], job.device, progress)
    else:
        samples = pipeline.sample_release(run, progress, job.device)
    images, labels = pipeline.read_images(samples)
    metrics = [*(("classifiers",) if test is not None and test.classes else ()), "fid"]
    evaluation = dict(
        evaluate(
            (images, labels),
            train=data,
            test=test,
            metrics=metrics,
            seeds=config.evaluation.seeds,
            inception="none" if job.frechet == "pixels" else None,
            features=["pixels"] if job.frechet == "pixels" else (),
            cache=None if job.frechet == "pixels" else Path(job.cache),
            progress=progress,
        )
    )
    measured = "fd-pixels" if job.frechet == "pixels" else "fid"
    state, history = run.folder.read_state(), run.folder.read_metrics()
    result = {
        "cell": cell["name"],
        "values": cell["values"],
        "seed": cell["seed"],
        "private": run.statement()["private"],
        "epsilon": own_epsilon(run.folder, run.config),
        "delta": config.privacy.delta,
        "accuracy": evaluation.get("accuracy"),
        "frechet": evaluation[measured],
        "frechet_measure": measured,
        "training_seconds": state.get("training_seconds"),
        "image_passes": sum(record["images"] for record in history),
        "steps": state.get("steps_done", 0),
        "synthetic_images": len(images),
        "device": state.get("device"),
        "threads": job.threads,
        "data": data.name,
        **job.software,
    }
    shared = without_pictures(evaluation)
    write_text(place / "evaluation.json", json.dumps(shared, indent=2) + "\n")
    if not cell["sampling_name"]:
        pipeline.keep_evaluation(run, evaluation)
    write_text(place / "result.json", json.dumps(result) + "\n")


def _draw(
    model: Model, path: Path, seed: int, device: str, progress: ProgressCallback | None
) -> None:
    images, labels = model.sample(
        model.config.sampling.count,
        seed=seed,
        device=device,
        progress=None if progress is None else lambda done, n: progress("sampling", done, n),
    )
    write_samples(path, images, labels if model.classes else None, model.classes)
