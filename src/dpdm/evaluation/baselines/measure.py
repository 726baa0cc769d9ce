"""Baseline ``dpsgd``: the DPDM paper's Table 2 (arXiv 2210.09929), LR, MLP and CNN on real images.

Each is trained with DP-SGD at the same epsilon that the synthetic images were made with, by our own
mechanism, with a ledger and a statement of its own; the real test set is read once, after all
trainings. This is one more use of the private data beside the synthetic images, and costs as much
again for each classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch

from dpdm.data import PublicFacts
from dpdm.errors import RequestError
from dpdm.evaluation.baselines.kept import Training
from dpdm.evaluation.baselines.recipe import DpRecipe, dp_recipe
from dpdm.evaluation.baselines.training import check_network, private_network
from dpdm.evaluation.checks import DatasetLike, Labels
from dpdm.evaluation.classification import Protocol as Trainings
from dpdm.evaluation.classification import labelled, mean_and_spread
from dpdm.evaluation.classifiers import CLASSIFIER_NAMES, predict
from dpdm.evaluation.progress import ProgressCallback
from dpdm.hashing import content_hash
from dpdm.privacy import PrivateUnits, read_ledger
from dpdm.privacy.accounting import epsilon as epsilon_of
from dpdm.promise import check_delta
from dpdm.promise.wording import at_most

_FORMAT = 1
"""To be raised with every change of how a baseline is trained."""


class TrainingSet(DatasetLike, Protocol):
    """What a baseline reads of a training set; ``dpdm.data.Dataset`` has it."""

    @property
    def private_groups(self) -> Labels | None: ...
    def facts(self, unit: str) -> PublicFacts: ...


@dataclass(frozen=True)
class Baseline:
    """What to compare with, and where its files lie.

    ``folder`` belongs on the private side: it keeps ledgers, statements and weights, so that the
    same call again spends nothing. ``unit`` is ``image`` or ``group``; of a group
    ``images_per_unit`` images take part in a step.
    """

    epsilon: float
    delta: float
    folder: Path
    unit: str = "image"
    images_per_unit: int = 1
    method: str = "dpsgd"


def check_baseline(
    baseline: Baseline,
    train: DatasetLike | None,
    test: DatasetLike | None,
    asked: Sequence[str],
) -> TrainingSet:
    """The training set; RequestError where a set or labels lack, or where nothing is promised."""
    if baseline.method != "dpsgd":
        raise RequestError(f"baseline {baseline.method} is not known; available: dpsgd")
    for what, found, option in (
        ("training", train, "train=... (--train SPEC)"),
        ("test", test, "test=... (--test SPEC)"),
    ):
        if found is None:
            raise RequestError(f"baseline dpsgd needs the real {what} set: give {option}")
        if not found.classes:
            raise RequestError(f"the {what} set has no labels; baseline dpsgd needs a labelled one")
    if not set(asked) & set(CLASSIFIER_NAMES):
        raise RequestError(
            f"baseline dpsgd trains {', '.join(CLASSIFIER_NAMES)}; none of these was asked for"
        )
    if not 0 < baseline.epsilon < float("inf"):
        raise RequestError(f"epsilon={baseline.epsilon:g}: must be positive and finite")
    training = cast(TrainingSet, train)
    check_delta(baseline.delta, training.facts(baseline.unit).public_size)
    for path in baseline.folder.glob("*/ledger.jsonl"):
        if (unit := read_ledger(path).header["unit"]) != baseline.unit:
            raise RequestError(
                f"--baseline-out {baseline.folder}: holds baselines whose unit is {unit!r}, that "
                f"of this one is {baseline.unit!r}, and what they spend does not add up; give "
                "another folder"
            )
    return training


class Trained(NamedTuple):
    """A final classifier, what was promised of it, and the seconds that its training took."""

    network: torch.nn.Module
    recipe: DpRecipe
    statement: Mapping[str, Any]
    seconds: float


def measure_baseline(
    baseline: Baseline,
    train: TrainingSet,
    test: DatasetLike,
    protocol: Trainings,
    progress: ProgressCallback | None,
) -> dict[str, Any]:
    """The entry ``baseline`` of ``Evaluation``, but for the differences."""
    trained = _train_all(baseline, train, protocol, progress)

    # Every model is final; the test set is read for the only time.
    images, truth = labelled(test)
    accuracy: dict[str, float] = {}
    spread: dict[str, float] = {}
    for name, own in trained.items():
        shares = [float((predict(one.network, images) == truth).mean()) for one in own]
        accuracy[name], deviation = mean_and_spread(shares)
        if deviation is not None:
            spread[name] = deviation
    ledgers = sorted(baseline.folder.glob("*/ledger.jsonl"))
    return {
        "method": baseline.method,
        "epsilon": baseline.epsilon,
        "delta": baseline.delta,
        "unit": baseline.unit,
        "seeds": protocol.seeds,
        "accuracy": accuracy,
        **({"accuracy_spread": spread} if spread else {}),
        "epsilon_spent": {
            name: max(one.statement["epsilon"] for one in own) for name, own in trained.items()
        },
        "ledgers": len(ledgers),
        "epsilon_composed": _composed(ledgers, baseline.delta),
        "settings": {
            name: {key: getattr(own[0].recipe, key) for key in _SHOWN}
            for name, own in trained.items()
        },
        "seconds": {
            name: round(sum(one.seconds for one in own), 2) for name, own in trained.items()
        },
    }


def _train_all(
    baseline: Baseline,
    train: TrainingSet,
    protocol: Trainings,
    progress: ProgressCallback | None,
) -> dict[str, list[Trained]]:
    facts = train.facts(baseline.unit)
    data, units = _sealed(baseline, train)
    trained: dict[str, list[Trained]] = {}
    for name in (name for name in CLASSIFIER_NAMES if name in protocol.names):
        for repeat in range(protocol.seeds):
            seed = protocol.child_seed(name, repeat)
            network = private_network(name, facts.shape, len(facts.classes), seed)
            check_network(network, facts.shape)
            recipe = dp_recipe(
                name,
                sum(parameter.numel() for parameter in network.parameters()),
                facts.public_size,
                baseline.epsilon,
                baseline.delta,
                unit=baseline.unit,
                images_per_unit=baseline.images_per_unit,
            )
            key = content_hash(data, repr(recipe), seed)[:12]
            folder = baseline.folder / f"{name}-{repeat}-{key}"
            training = Training(folder, network, units, facts, recipe)
            which = f", {repeat + 1} of {protocol.seeds}" if protocol.seeds > 1 else ""
            statement = training.run(progress, f"DP-SGD {name}{which}")
            trained.setdefault(name, []).append(
                Trained(network, recipe, statement, training.seconds)
            )
    return trained


_SHOWN = (
    "sample_rate",
    "expected_units",
    "steps",
    "noise_multiplier",
    "max_grad_norm",
    "learning_rate",
    "momentum",
)


def _sealed(baseline: Baseline, train: TrainingSet) -> tuple[str, PrivateUnits]:
    """The content's hash, which stays private, and the images sealed as the networks take them."""
    images, labels = labelled(train)
    groups = train.private_groups if baseline.unit == "group" else None
    data = content_hash("dpsgd", _FORMAT, images, labels, *([] if groups is None else [groups]))
    rows = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return data, PrivateUnits(rows, torch.from_numpy(labels.copy()), groups)


def _composed(ledgers: list[Path], delta: float) -> float:
    """What all trainings in the folder spent together."""
    uses = [use for path in ledgers for use in read_ledger(path).counted_events()]
    return epsilon_of([(event, count) for _, event, count in uses], delta)


def baseline_note(found: Mapping[str, Any]) -> str:
    """What a reader should know before comparing."""
    return (
        f"Baseline: DP-SGD on the real images at epsilon {found['epsilon']:g}, delta "
        f"{found['delta']:g}, each classifier with a ledger and statement of its own. The "
        f"{found['ledgers']} trainings in its folder, taken as all on these data, compose to "
        f"epsilon {at_most(found['epsilon_composed'])}, in addition to what the synthetic images "
        "spent."
    )
