"""A training as one call: settings in, a run folder with a release and a private side out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpdm.config import Config, load_config
from dpdm.data import Dataset
from dpdm.errors import DpdmError, RequestError
from dpdm.privacy import (
    Ledger,
    NoiseSource,
    SeededNoise,
    Session,
    SystemNoise,
)
from dpdm.release import Model, load
from dpdm.release.files import find_release
from dpdm.release.model import read_statement
from dpdm.training.events import Callback, TrainingEvent
from dpdm.training.folder import RunFolder, open_run_folder
from dpdm.training.interrupt import InterruptFlag
from dpdm.training.plan import Plan, make_plan, settle
from dpdm.training.trainer import Trainer, build_for


@dataclass(frozen=True)
class Run:
    """A training that has ended, on disk.

    Attributes:
        folder: its paths.
        config: its settings.
    """

    folder: RunFolder
    config: Config

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def release(self) -> Path:
        """The folder that may leave the building."""
        return self.folder.release

    def model(self) -> Model:
        """The released model."""
        return load(self.folder.release)

    def statement(self) -> dict[str, Any]:
        """The privacy statement.

        Raises:
            DpdmError: it is missing or damaged.
        """
        statement = read_statement(self.release)
        if statement is None:
            raise DpdmError(f"{self.release}: holds no privacy.json; finish the run with --resume")
        return statement


def open_run(path: str | Path) -> Run:
    """A finished run by its folder.

    Raises:
        RequestError: no finished run there.
    """
    root = Path(path)
    folder = RunFolder(root)
    if not folder.config.is_file():
        raise RequestError(
            f"{root}: not a run (no private/config.yaml); give the folder --out named"
        )
    find_release(root)
    return Run(folder, load_config(folder.config))


def train(
    dataset: Dataset,
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
    callback: Callback | None = None,
) -> Run:
    """Trains on ``dataset`` and writes the model and its statement to ``out/release``.

    Args:
        dataset: the private images.
        config: settings; ``dpdm.preset("digits")`` is one.
        out: folder of the run; must not exist unless ``resume`` or ``force``.
        resume: go on from the last checkpoint; a finished run is returned as it is.
        force: move an existing run aside and start anew.
        device: ``auto``, ``cpu`` or ``cuda``.
        callback: told of progress.

    Raises:
        RequestError: settings that do not fit the data or make no promise, an occupied folder.
        DpdmError: a damaged checkpoint or ledger, a spent budget.
        Interrupted: Ctrl-C; the state is saved.
    """
    tell = callback or (lambda event: None)
    if not config.data.labels:
        dataset = dataset.without_labels()
    place = resolve_device(device)
    asked = config
    config = settle(
        config,
        public_size=dataset.public_size,
        classes=len(dataset.classes),
        image_shape=dataset.image_shape,
    )
    plan = make_plan(
        config,
        public_size=dataset.public_size,
        classes=len(dataset.classes),
        pixels=math.prod(dataset.shape),
    )
    # Settings that do not fit the image are refused before a folder exists.
    build_for(config, dataset, None)
    facts = {
        "name": dataset.name,
        "shape": list(dataset.shape),
        "classes": list(dataset.classes),
        "public_size": dataset.public_size,
    }
    folder = open_run_folder(Path(out), config, facts, resume=resume, force=force)
    run = Run(folder, config)
    if folder.finished and not _may_go_further(folder, config):
        tell(TrainingEvent("released", f"{folder.path} is finished; nothing was done"))
        return run
    if config is not asked:
        tell(
            TrainingEvent(
                "plan",
                "no gradient steps: their signal to noise would be below training.least_signal="
                f"{config.training.least_signal:g}; the prior has the whole budget",
            )
        )
    tell(TrainingEvent("plan", _plan_in_words(config, plan)))
    with _session(folder, config, dataset) as session, InterruptFlag() as interrupt:
        Trainer(dataset, config, plan, folder, session, interrupt, tell, place).run()
    return run


def resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise RequestError(f"--device {name}: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda: no CUDA device is available; use auto or cpu")
    return torch.device(name)


def _may_go_further(folder: RunFolder, config: Config) -> bool:
    """Whether ``training.max_steps`` was raised since a run stopped at it."""
    done = int(folder.read_state().get("steps_done", 0))
    return done < config.training.steps_to_do and not folder.read_state().get("budget_stop", False)


def _plan_in_words(config: Config, plan: Plan) -> str:
    if not config.privacy.enabled:
        return f"NOT PRIVATE: {plan.steps} steps without clipping and noise"
    parts = []
    if plan.prior is not None:
        parts.append(f"statistics with noise multiplier {plan.prior.noise_multiplier:.4g}")
    if plan.steps:
        parts.append(
            f"{plan.steps} steps at sample rate {plan.sample_rate:.4g} with noise multiplier "
            f"{plan.noise_multiplier:.4g}"
        )
    promise = f"epsilon {config.privacy.epsilon:g}, delta {config.privacy.delta:g}"
    return f"{promise}: {', then '.join(parts)}"


@contextmanager
def _session(folder: RunFolder, config: Config, dataset: Dataset) -> Iterator[Session]:
    """The ledger, locked while the run goes on, and the noise source of the configuration."""
    if not config.privacy.enabled:
        yield Session(None, None)
        return
    seed = config.privacy.noise_seed
    noise: NoiseSource = SystemNoise() if seed is None else SeededNoise(seed)
    if folder.ledger.is_file():
        ledger = Ledger.open(folder.ledger)
    elif any(folder.checkpoints.iterdir()):
        raise DpdmError(
            f"{folder.ledger}: missing, though this run has spent: restore it from a backup, or "
            "start a new run with another --out"
        )
    else:
        ledger = Ledger.create(
            folder.ledger,
            unit=config.privacy.unit,
            dataset=dataset.name,
            noise_source=noise.description,
        )
    with ledger:
        yield Session(ledger, noise)
