"""What trying many settings on the same data costs in all: planned, and really spent.

Every training keeps the epsilon of its own cell. Whoever chooses among the cells, or publishes
several, lets out something that depends on all of them: that costs the epsilon of all together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dpdm.config import Config, load_config
from dpdm.data import PublicFacts
from dpdm.errors import DpdmError, RequestError
from dpdm.privacy import Event, Ledger, epsilon, read_ledger
from dpdm.privacy.accounting import Accountant
from dpdm.sweep.grid import Cell
from dpdm.training.folder import RunFolder, ledger_path
from dpdm.training.plan import Plan, exceeds_budget, settle
from dpdm.training.run import check_shared_ledger


@dataclass(frozen=True)
class Training:
    """A training of the grid: what cells share that differ only in sampling.

    Attributes:
        name: its folder's.
        config: its settings, as they are carried out.
        plan: what it will spend and compute.
        cells: the cells that it serves.
    """

    name: str
    config: Config
    plan: Plan
    cells: tuple[Cell, ...]

    @property
    def image_passes(self) -> int:
        """Images through the network in its DP-SGD steps, expected."""
        return self.config.image_passes

    @property
    def private(self) -> bool:
        """Whether it keeps a promise."""
        return self.config.privacy.keeps_promise


@dataclass(frozen=True)
class Composed:
    """What trainings on the same data spend together.

    Attributes:
        epsilon: of all that keep a promise together, at ``delta``; None where none does, or where
            no finite one can be proved.
        trainings: how many keep a promise.
        without: how many have no noise (``privacy.enabled=false``).
        seeded: how many have noise that can be repeated (``privacy.noise_seed``).
    """

    epsilon: float | None
    delta: float
    accountant: Accountant
    trainings: int
    without: int
    seeded: int

    @property
    def total(self) -> int:
        """How many trainings there are."""
        return self.trainings + self.without + self.seeded

    @property
    def not_private(self) -> str | None:
        """What epsilon does not cover, in a sentence; None where it covers all."""
        causes = (
            (self.without, "no noise (privacy.enabled=false)"),
            (self.seeded, "noise from a chosen seed (privacy.noise_seed)"),
        )
        found = [f"{count} had {cause}" for count, cause in causes if count]
        if not found:
            return None
        return (
            f"NOT PRIVATE: of {self.total} trainings {' and '.join(found)}; no epsilon covers what "
            "is chosen with their help."
        )


def trainings_of(cells: Iterable[Cell], facts: PublicFacts) -> tuple[Training, ...]:
    """The distinct trainings behind cells, planned, in the order of the cells.

    Raises:
        RequestError: what ``train`` would refuse, with the cell's name.
    """
    together: dict[str, list[Cell]] = {}
    for cell in cells:
        together.setdefault(cell.training_name, []).append(cell)
    found = []
    for name, shared in together.items():
        try:
            config, plan = settle(shared[0].training, facts)
        except RequestError as error:
            raise RequestError(f"{shared[0].name}: {error}") from None
        found.append(Training(name, config, plan, tuple(shared)))
    return tuple(found)


def planned(trainings: Iterable[Training], runs: Mapping[str, RunFolder]) -> Composed:
    """What is spent when all trainings are done, with all that is spent already.

    Args:
        trainings: those asked for, done or not.
        runs: the folders that are there, by the name of their training; also of other grids.

    Raises:
        RequestError: a shared ledger that is not there, or is not for runs without secret noise;
            trainings of different units, whose spending does not add up.
        DpdmError: a ledger is damaged or lost, or a shared one has no room for what is to come.
    """
    trainings = list(trainings)
    stuck = {one.name for one in trainings if one.name in runs and is_stuck(one, runs[one.name])}
    runs = {f"{name}.previous" if name in stuck else name: run for name, run in runs.items()}
    configs = {name: load_config(run.config) for name, run in runs.items()}
    configs |= {one.name: one.config for one in trainings}
    units = {config.privacy.unit for config in configs.values() if config.privacy.keeps_promise}
    if len(units) > 1:
        raise RequestError(
            "privacy.unit: what trainings of different units spend does not add up; sweep each "
            "unit into its own --out"
        )
    for name, config in configs.items():
        check_shared_ledger(config, begun=name in runs)
    ledgers = _ledgers(configs, runs)
    to_come = Counter[Event]()
    for one in (one for one in trainings if one.private):
        to_come += _to_come(one, runs.get(one.name), ledgers)
    for ledger in ledgers.values():
        accountant = _accountant(configs.values())
        ledger.check_budget(list(to_come.items()), accountant)  # of a ledger of its own: nothing
    return _composed(configs.values(), _spent(ledgers) + to_come)


def spent(runs: Mapping[str, RunFolder]) -> Composed:
    """What the ledgers of these runs add up to; a shared one counts whole, and once.

    Raises:
        DpdmError: a ledger is damaged or lost.
    """
    configs = {name: load_config(run.config) for name, run in runs.items()}
    return _composed(configs.values(), _spent(_ledgers(configs, runs)))


def own_epsilon(run: RunFolder, config: Config) -> float | None:
    """What one training spent by its ledger; None where it keeps no promise, or no finite one.

    Raises:
        DpdmError: the ledger is damaged or lost.
    """
    privacy = config.privacy
    if not privacy.keeps_promise:
        return None
    ledger = read_ledger(ledger_path(run, config))
    value = ledger.epsilon(privacy.delta, privacy.accountant, _ledger_name(run, config))
    return value if value < math.inf else None


def is_stuck(training: Training, run: RunFolder) -> bool:
    """Whether a run was killed while it released statistics and cannot release them once more.

    Such a run is refused whenever it is to go on (``Trainer``): it has spent, for nothing.
    """
    plan, path = training.plan, ledger_path(run, training.config)
    if not training.private or run.finished or not path.is_file():
        return False
    ledger, name = read_ledger(path), _ledger_name(run, training.config)
    again = [] if run.histogram.is_file() else plan.histogram_events()
    if plan.prior is not None and not run.prior.is_file():
        again = [*again, *plan.prior.events()]
    if not again or not ledger.counted_events(name):
        return False
    begun = plan.labeller.events() if plan.labeller else []
    return exceeds_budget(training.config, ledger, name, again=again, begun=begun)


def _ledger_name(run: RunFolder, config: Config) -> str:
    """The name under which a run writes into its ledger."""
    return str(run.read_state().get("run", "run")) if config.privacy.ledger else "run"


def _ledgers(configs: Mapping[str, Config], runs: Mapping[str, RunFolder]) -> dict[Path, Ledger]:
    """Every ledger that those who keep a promise write to and that is there, once.

    Raises:
        DpdmError: one is damaged, or that of a run that has spent is not there.
    """
    paths = set()
    for name, config in configs.items():
        if config.privacy.keeps_promise and (config.privacy.ledger or name in runs):
            run = runs.get(name, RunFolder(Path()))
            path = ledger_path(run, config).resolve()
            if name in runs and not path.is_file() and _has_spent(run):
                raise DpdmError(
                    f"{path}: missing, though the training {name} has spent: restore it from a "
                    "backup; without it nobody can say what all trainings spent together"
                )
            paths.add(path)
    return {path: read_ledger(path) for path in sorted(paths) if path.is_file()}


def _has_spent(run: RunFolder) -> bool:
    """Whether a run got as far as something that it must have written into its ledger."""
    return run.finished or (run.checkpoints.is_dir() and any(run.checkpoints.iterdir()))


def _spent(ledgers: Mapping[Path, Ledger]) -> Counter[Event]:
    total = Counter[Event]()
    for ledger in ledgers.values():
        for _, event, count in ledger.counted_events():
            total[event] += count
    return total


def _to_come(
    training: Training, run: RunFolder | None, ledgers: Mapping[Path, Ledger]
) -> Counter[Event]:
    """What a training will still spend beyond its records in a ledger."""
    left = Counter[Event]()
    for event, count in training.plan.events():
        left[event] += count
    if run is None:
        return left
    if run.finished:
        return Counter()
    ledger = ledgers.get(ledger_path(run, training.config).resolve())
    if ledger is not None:
        for _, event, count in ledger.counted_events(_ledger_name(run, training.config)):
            left[event] -= count
    return +left


def _composed(configs: Collection[Config], events: Mapping[Event, int]) -> Composed:
    promised = [config.privacy for config in configs if config.privacy.keeps_promise]
    delta = min((privacy.delta for privacy in promised), default=0.0)
    accountant = _accountant(configs)
    value = epsilon(events.items(), delta, accountant) if promised else math.inf
    finite = value if value < math.inf else None
    without = sum(not config.privacy.enabled for config in configs)
    seeded = len(configs) - len(promised) - without
    return Composed(finite, delta, accountant, len(promised), without, seeded)


def _accountant(configs: Iterable[Config]) -> Accountant:
    """The accountant of all, or where they differ the one whose figures every cell can be given."""
    return "rdp" if any(config.privacy.accountant == "rdp" for config in configs) else "pld"
