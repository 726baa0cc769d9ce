"""A training as one call: settings in, a run folder with a release and a private side out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpdm.config import Config, load_config
from dpdm.config.loading import from_mapping
from dpdm.data import Dataset, PublicFacts
from dpdm.errors import DpdmError, RequestError
from dpdm.privacy import (
    Event,
    Ledger,
    NoiseSource,
    PrivateUnits,
    Session,
    SystemNoise,
    read_ledger,
)
from dpdm.release.build import stand_in_prior
from dpdm.release.files import (
    DRAWN,
    find_release,
    public_settings,
    read_description,
    read_statement,
    refuse_release,
    write_description,
)
from dpdm.release.model import Model, load
from dpdm.release.precision import resolve_device
from dpdm.release.seal import seal_release
from dpdm.training.events import Callback, TrainingEvent
from dpdm.training.folder import RunFolder, RunLock, ledger_path, open_run_folder, shared_ledger
from dpdm.training.interrupt import Interrupted, InterruptFlag
from dpdm.training.plan import (
    Plan,
    parameter_count,
    settle,
    signal_to_noise,
    small_data,
    steps_left_out,
)
from dpdm.training.pretraining import first_weights
from dpdm.training.seeded_noise import SeededNoise, drew_from_seed
from dpdm.training.trainer import Trainer, build_for

_FAR_OFF = 2
"""A declared number of units further from the true one than this factor is remarked on."""


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
        resume: go on from the last checkpoint; a finished run is returned as it is, its release
            with the settings in ``config.sampling``.
        force: move an existing run aside and start anew.
        device: ``auto``, ``cpu`` or ``cuda``.
        callback: told of progress.

    Raises:
        RequestError: settings that do not fit the data or make no promise, an occupied folder, one
            in which another process trains.
        DpdmError: a damaged checkpoint or ledger, a spent budget.
        Interrupted: Ctrl-C; the state is saved, or the release is made already.
    """
    tell = callback or (lambda event: None)
    if not config.data.labels:
        dataset = dataset.without_labels()
    facts, units = seal(dataset, config)
    refuse_release("--out", Path(out))
    place = resolve_device(device)
    asked = config = _with_whole_path(config)
    config, plan = settle(config, facts)
    # Settings that do not fit the image are refused before a folder exists.
    mixture = stand_in_prior(config, facts.image_shape, len(facts.classes))
    denoiser = build_for(config, facts, mixture, first_weights(config, facts.image_shape[0]))
    signal = signal_to_noise(config, plan, parameter_count(denoiser))
    check_shared_ledger(config, None if resume else plan, begun=resume)
    kept = {
        "name": facts.name,
        "shape": list(facts.shape),
        "classes": list(facts.classes),
        "public_size": facts.public_size,
        "sha256": dataset.private_hash,
    }
    with RunLock(Path(out)) as lock:
        folder = open_run_folder(Path(out), config, kept, resume=resume, force=force)
        if not resume:
            lock.move(folder.path)
        run = Run(folder, config)
        if folder.finished and not _may_go_further(folder, config):
            renewed = _renew_sampling(run)
            done = "its release has the new sampling settings" if renewed else "no step is taken"
            tell(TrainingEvent("released", f"{folder.path}: training is finished; {done}"))
            return run
        if steps_left_out(asked, config):
            tell(
                TrainingEvent(
                    "plan",
                    "no gradient steps: their signal to noise would be below training.least_signal="
                    f"{config.training.least_signal:g}; the prior has the whole budget",
                )
            )
        elif config.training.batch_size < asked.training.batch_size:
            tell(
                TrainingEvent(
                    "plan",
                    f"training.batch_size={config.training.batch_size}, which is what "
                    f"training.largest_rate={config.training.largest_rate:g} allows of "
                    f"{facts.public_size:,} units",
                )
            )
        tell(TrainingEvent("plan", _plan_in_words(config, plan)))
        for warning in small_data(plan, signal, len(facts.classes)):
            tell(TrainingEvent("plan", f"warning: {warning}"))
        for remark in _remarks(dataset, config, facts):
            tell(TrainingEvent("plan", remark))
        with _session(folder, config, facts, plan) as session, InterruptFlag() as interrupt:
            if (warned := _of_other_data(session.ledger, config, facts)) is not None:
                tell(TrainingEvent("plan", warned))
            Trainer(facts, units, config, plan, folder, session, interrupt, tell, place).run()
            if interrupt.raised:
                raise Interrupted(
                    f"interrupted; the training is finished, its release is in {folder.release}, "
                    "and --resume goes on"
                )
        return run


def _remarks(dataset: Dataset, config: Config, facts: PublicFacts) -> Iterator[str]:
    """What a person should know of a promise before it is made."""
    if config.privacy.enabled and not facts.public_size_declared:
        yield (
            f"the exact number of {config.privacy.unit}s, {facts.public_size:,}, is treated as "
            "public and stands in the release; data.public_size declares a round one instead"
        )
    if config.privacy.unit == "image" and dataset.private_groups is not None:
        yield (
            "the promise is for each image, though the data says whose images belong together: "
            "privacy.unit=group protects all of a person's"
        )
    if facts.public_size_declared:
        there = dataset.private_units(config.privacy.unit)
        declared = facts.public_size
        if not there / _FAR_OFF <= declared <= there * _FAR_OFF:
            yield (
                f"warning: data.public_size={declared:,} is declared, and there are {there:,} "
                f"{config.privacy.unit}s: statistics and batches are planned for the declared "
                "number (private: what is released does not say how many there are)"
            )


def _of_other_data(ledger: Ledger | None, config: Config, facts: PublicFacts) -> str | None:
    """What a person should know where a shared ledger was opened for data of another name."""
    if ledger is None or config.privacy.ledger is None:
        return None
    opened = ledger.header["dataset"]
    if opened == facts.name:
        return None
    return (
        f"warning: {shared_ledger(config)} was opened for {opened!r}, and these data are called "
        f"{facts.name!r}: runs on other people's data need a ledger of their own"
    )


def _renew_sampling(run: Run) -> bool:
    """Puts the run's sampling settings into its release, if others are there; whether that was so.

    What was drawn with the former ones goes.
    """
    path, description = run.release / "model.yaml", read_description(run.release)
    same = from_mapping(description["config"], str(path)).sampling == run.config.sampling
    if same and not run.folder.read_state().get("renewing", False):
        return False
    # Killed from here on, the next call does all of it again: the seal is the last thing written.
    run.folder.update_state(renewing=True)
    description["config"]["sampling"] = public_settings(run.config)["sampling"]
    run.folder.drop_drawn()
    write_description(path, description)
    seal = seal_release(run.release, written=("model.yaml", *DRAWN))
    run.folder.update_state(seal=seal, renewing=False)
    return True


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
    if plan.labeller is not None:
        parts.append(f"{plan.labeller.steps} labeller steps")
    if plan.steps:
        parts.append(
            f"{plan.steps} steps at sample rate {plan.sample_rate:.4g} with noise multiplier "
            f"{plan.noise_multiplier:.4g}"
        )
    promise = f"epsilon {config.privacy.epsilon:g}, delta {config.privacy.delta:g}"
    return f"{promise}: {', then '.join(parts)}"


def seal(dataset: Dataset, config: Config) -> tuple[PublicFacts, PrivateUnits]:
    """What is public about the data, and the data itself, sealed; nothing else goes on from here.

    Raises:
        RequestError: groups are the unit, and the data has none.
    """
    facts = dataset.facts(config.privacy.unit)
    groups = dataset.private_groups if config.privacy.unit == "group" else None
    labels = dataset.private_labels if facts.classes else None
    return facts, PrivateUnits(dataset.private_images, labels, groups)


def _with_whole_path(config: Config) -> Config:
    """The same settings, with a shared ledger's path independent of the working folder."""
    path = shared_ledger(config)
    return config if path is None else config.with_settings("privacy", ledger=str(path))


def check_shared_ledger(config: Config, plan: Plan | None = None, *, begun: bool = False) -> None:
    """Refuses a shared ledger that is not there, that no seeded run may write to, or that has no
    room for a new run's plan. A run that has ``begun`` may have spent in one that is lost."""
    privacy, path = config.privacy, shared_ledger(config)
    if path is None:
        return
    if not privacy.keeps_promise:
        raise RequestError(
            f"privacy.ledger={privacy.ledger}: a run without secret noise keeps no promise, so it "
            "has no place in a shared ledger; leave out privacy.ledger, or privacy.noise_seed and "
            "privacy.enabled=false"
        )
    if begun and not path.is_file():
        raise DpdmError(f"{path}: missing, and this run may have spent: restore it from a backup")
    if not path.is_file():
        raise RequestError(
            f"privacy.ledger={privacy.ledger}: no such file; make one with `dpdm privacy "
            "open-ledger PATH --dataset NAME --epsilon E --delta D`"
        )
    if plan is not None:
        ledger = read_ledger(path)
        try:
            _check_budget(ledger, config, plan)
        except DpdmError as error:  # nothing was begun: another request may fit
            raise RequestError(str(error)) from error


def noise_source(config: Config) -> NoiseSource:
    """Where the noise of a private run comes from: the system, or ``privacy.noise_seed``."""
    seed, draws = config.privacy.noise_seed, config.privacy.noise_draws
    return SystemNoise(draws) if seed is None else SeededNoise(seed, draws)


@contextmanager
def _session(
    folder: RunFolder, config: Config, facts: PublicFacts, plan: Plan
) -> Iterator[Session]:
    """The ledger, locked while the run goes on, and the noise source of the configuration."""
    privacy = config.privacy
    if not privacy.enabled:
        yield Session(None, SeededNoise(config.training.seed))
        return
    noise = noise_source(config)
    path = ledger_path(folder, config)
    run = folder.read_state().get("run", "run") if privacy.ledger else "run"
    if path.is_file():
        ledger = Ledger.open(path, run=run)
        if privacy.ledger is None:
            _require_as_begun(ledger, config)
    elif any(folder.checkpoints.iterdir()):
        raise DpdmError(
            f"{path}: missing, though this run has spent: restore it from a backup, or "
            "start a new run with another --out"
        )
    else:
        ledger = Ledger.create(
            path, unit=privacy.unit, dataset=facts.name, noise_source=noise.description, run=run
        )
    with ledger:
        if privacy.ledger is not None:
            _check_budget(ledger, config, plan)
        yield Session(ledger, noise)


def _require_as_begun(ledger: Ledger, config: Config) -> None:
    """A run's own ledger says what it began as: settings that were edited since do not change it.

    Raises RequestError for another unit, and for noise that was of a chosen seed and is to be
    secret now, or the other way round.
    """
    ledger.require_unit(config.privacy.unit)
    if drew_from_seed(ledger) != (config.privacy.noise_seed is not None):
        raise RequestError(
            f"the run's ledger: it began with noise from {ledger.header['noise_source']}, and "
            "privacy.noise_seed says otherwise now; give it its former value, or --out for a new "
            "run"
        )


def _check_budget(ledger: Ledger, config: Config, plan: Plan) -> None:
    """A run that would exceed what a shared ledger allows in all does not start."""
    ledger.require_unit(config.privacy.unit)
    if drew_from_seed(ledger):
        raise RequestError(
            f"privacy.ledger={config.privacy.ledger}: holds a run whose noise came from a chosen "
            "seed, so that no epsilon holds for all together; use another ledger"
        )
    planned = Counter[Event]()
    for event, count in plan.events():
        planned[event] += count
    left = [(event, max(0, count - ledger.count(event))) for event, count in planned.items()]
    ledger.check_budget(left, config.privacy.accountant)
