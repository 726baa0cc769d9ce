"""The DP-SGD baseline: its ledger, what it states, what a second or an interrupted call spends."""

import json

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant

from dpdm.data import Dataset
from dpdm.errors import DpdmError, RequestError
from dpdm.evaluation import Baseline, evaluate
from dpdm.evaluation.baselines import dp_recipe, kept
from dpdm.evaluation.baselines.recipe import DpRecipe
from dpdm.evaluation.baselines.training import TrainingState, dp_sgd, losses, private_network
from dpdm.privacy import Ledger, PrivateUnits, Session, SystemNoise, read_ledger, validate

DELTA = 1e-4


def collection(images=200, groups=None, seed=0):
    """Images of two classes, one dark and one bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    pixels = rng.integers(0, 100, (images, 4, 4, 1)) + 150 * labels[:, None, None, None]
    return Dataset(
        name="blobs",
        shape=(4, 4, 1),
        classes=("dark", "bright"),
        public_size=images,
        public_size_declared=True,
        private_images=pixels.astype(np.uint8),
        private_labels=labels.astype(np.int64),
        private_groups=groups,
    )


@pytest.fixture
def sets():
    return collection(), collection(60, seed=1)


def compared(sets, folder, classifiers=("lr",), epsilon=5.0, **more):
    train, test = sets
    synthetic = (train.private_images[:40], train.private_labels[:40])
    baseline = Baseline(epsilon, DELTA, folder, **more)
    return evaluate(synthetic, train=train, test=test, classifiers=classifiers, baseline=baseline)


def spent_independently(uses):
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-4
    )
    for _, event, count in uses:
        step = dp_accounting.PoissonSampledDpEvent(
            event.sample_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
        )
        accountant.compose(step, count)
    return accountant.get_epsilon(DELTA)


def test_each_classifier_has_a_ledger_and_statement_within_its_epsilon(sets, tmp_path):
    found = compared(sets, tmp_path, ("lr", "mlp"))["baseline"]
    folders = sorted(tmp_path.iterdir())
    assert [folder.name.split("-")[0] for folder in folders] == ["lr", "mlp"]
    uses = []
    for folder in folders:
        own = read_ledger(folder / "ledger.jsonl").counted_events()
        statement = json.loads((folder / "privacy.json").read_text())
        assert statement["private"] is True
        assert statement["epsilon"] <= 5.0
        assert statement["epsilon"] == pytest.approx(spent_independently(own), rel=0.01)
        assert (folder / "PRIVACY.md").read_text().startswith("This release is differentially")
        assert "seconds" not in json.loads((folder / "settings.json").read_text())  # covered
        uses += own
    assert found["ledgers"] == 2
    assert found["epsilon_composed"] == pytest.approx(spent_independently(uses), rel=0.01)
    assert found["epsilon_composed"] > 5.0
    assert set(found["accuracy"]) == set(found["difference"]) == {"lr", "mlp"}
    assert found["accuracy"]["lr"] > 0.9


def test_a_second_call_spends_nothing_and_other_data_or_epsilon_do(sets, tmp_path):
    first = compared(sets, tmp_path)
    (ledger,) = tmp_path.glob("*/ledger.jsonl")
    records = ledger.read_text()
    again = compared(sets, tmp_path)
    assert ledger.read_text() == records
    assert again["baseline"] == first["baseline"]
    compared((collection(seed=5), sets[1]), tmp_path)
    compared(sets, tmp_path, epsilon=2.0)
    assert len(list(tmp_path.glob("*/ledger.jsonl"))) == 3


class Stop(Exception):
    """An interruption."""


def interrupted_after(monkeypatch, steps):
    """Training ends by an exception after so many steps, as a kill would end it."""
    original = kept.dp_sgd

    def stopping(*arguments):
        for number, done in enumerate(original(*arguments), 1):
            if number > steps:
                raise Stop
            yield done

    monkeypatch.setattr(kept, "dp_sgd", stopping)
    return original


def test_an_interrupted_training_goes_on_and_counts_what_it_did_twice(sets, tmp_path, monkeypatch):
    original = interrupted_after(monkeypatch, 7)
    with pytest.raises(Stop):
        compared(sets, tmp_path)
    (ledger,) = tmp_path.glob("*/ledger.jsonl")
    before = len(read_ledger(ledger))
    assert before == 8  # the step that nothing came of counts too
    monkeypatch.setattr(kept, "dp_sgd", original)
    result = compared(sets, tmp_path)["baseline"]
    after = read_ledger(ledger)
    assert len(after) == result["settings"]["lr"]["steps"]
    assert after.repeated >= 1
    assert after.epsilon(DELTA) <= 5.0
    assert not list(tmp_path.glob("*/state.safetensors"))


def test_a_ledger_cut_back_is_refused(sets, tmp_path, monkeypatch):
    compared(sets, tmp_path)
    (ledger,) = tmp_path.glob("*/ledger.jsonl")
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(DpdmError):
        compared(sets, tmp_path)


def test_a_missing_ledger_beside_a_state_is_refused(sets, tmp_path, monkeypatch):
    original = interrupted_after(monkeypatch, 7)
    with pytest.raises(Stop):
        compared(sets, tmp_path)
    monkeypatch.setattr(kept, "dp_sgd", original)
    (ledger,) = tmp_path.glob("*/ledger.jsonl")
    ledger.unlink()
    with pytest.raises(DpdmError, match="missing, though this training has spent"):
        compared(sets, tmp_path)


def small_recipe(**changes):
    values = {
        "name": "lr",
        "epsilon": 5.0,
        "delta": DELTA,
        "unit": "image",
        "images_per_unit": 1,
        "sample_rate": 0.5,
        "expected_units": 100.0,
        "steps": 3,
        "noise_multiplier": 2.0,
        "max_grad_norm": 1.0,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "microbatch": 8,
    }
    return DpRecipe(**{**values, **changes})


def test_an_empty_batch_is_a_step_of_noise_that_counts(tmp_path):
    data = collection(4)
    rows = torch.from_numpy(data.private_images.transpose(0, 3, 1, 2).copy())
    units = PrivateUnits(rows, torch.from_numpy(data.private_labels.copy()))
    recipe = small_recipe(sample_rate=1e-12)
    network = private_network("lr", (4, 4, 1), 2, 0)
    with Ledger.create(
        tmp_path / "ledger.jsonl", dataset="blobs", unit="image", noise_source="system"
    ) as ledger:
        state = TrainingState.fresh(network, recipe)
        assert list(dp_sgd(state, units, recipe, Session(ledger, SystemNoise()))) == [1, 2, 3]
        assert ledger.count(recipe.event) == 3
    assert network[1].weight.abs().max() > 0


@pytest.mark.parametrize("name", ["lr", "mlp", "cnn"])
def test_no_unit_influences_another(name):
    network = private_network(name, (8, 8, 1), 10, 0)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    validate(network, losses, (images, torch.arange(4)))


def test_a_state_comes_back_as_it_was(tmp_path):
    data = collection(20)
    rows = torch.from_numpy(data.private_images.transpose(0, 3, 1, 2).copy())
    units = PrivateUnits(rows, torch.from_numpy(data.private_labels.copy()))
    recipe = small_recipe()
    state = TrainingState.fresh(private_network("mlp", (4, 4, 1), 2, 0), recipe)
    with Ledger.create(
        tmp_path / "ledger.jsonl", dataset="blobs", unit="image", noise_source="system"
    ) as ledger:
        next(dp_sgd(state, units, recipe, Session(ledger, SystemNoise())))
        state.save(tmp_path / "state.safetensors", ledger.head)
        head = ledger.head
    other = TrainingState.fresh(private_network("mlp", (4, 4, 1), 2, 9), recipe)
    assert other.load(tmp_path / "state.safetensors") == head
    assert other.step == 1
    for mine, theirs in zip(state.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        kept_momentum = other.optimiser.state[theirs]["momentum_buffer"]
        torch.testing.assert_close(
            state.optimiser.state[mine]["momentum_buffer"], kept_momentum, rtol=0, atol=0
        )


def test_groups_are_units_where_they_are_asked_for(tmp_path):
    train = collection(200, groups=np.arange(200) // 4)
    found = compared((train, collection(60, seed=1)), tmp_path, unit="group", images_per_unit=2)
    (folder,) = tmp_path.iterdir()
    statement = json.loads((folder / "privacy.json").read_text())
    assert statement["unit"] == found["baseline"]["unit"] == "group"
    assert statement["max_images_per_unit"] == 2
    with pytest.raises(RequestError, match="whose unit is 'group'"):
        compared((train, collection(60, seed=1)), tmp_path)
    assert [*tmp_path.iterdir()] == [folder]


def test_the_recipe_reads_public_numbers_and_keeps_its_epsilon():
    for parameters, size in ((650, 1437), (241_546, 60_000)):
        for epsilon in (0.2, 1.0, 10.0):
            recipe = dp_recipe("cnn", parameters, size, epsilon, 1e-5)
            assert 0 < recipe.sample_rate <= 1
            assert recipe.expected_units == pytest.approx(recipe.sample_rate * size)
            uses = [("", recipe.event, recipe.steps)]
            assert spent_independently(uses) > 0


def refused(match, folder, train, test, **more):
    synthetic = (np.zeros((20, 4, 4, 1), np.uint8), np.arange(20) % 2)
    values = {"epsilon": 1.0, "delta": DELTA, "folder": folder}
    baseline = Baseline(**{**values, **more})
    with pytest.raises(RequestError, match=match) as caught:
        evaluate(synthetic, train=train, test=test, baseline=baseline)
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())


def test_what_makes_no_baseline_is_refused_before_anything_is_spent(sets, tmp_path):
    train, test = sets
    refused("training set: give .*--train", tmp_path, None, test)
    refused("test set: give .*--test", tmp_path, train, None)
    refused("training set has no labels", tmp_path, train.without_labels(), test)
    refused("test set has no labels", tmp_path, train, test.without_labels())
    refused("epsilon=0: must be positive", tmp_path, train, test, epsilon=0.0)
    refused("delta=0.1 is not below", tmp_path, train, test, delta=0.1)
    refused("baseline magic is not known", tmp_path, train, test, method="magic")
    refused("privacy.unit=group", tmp_path, train, test, unit="group")


def test_a_baseline_of_strong_classifiers_alone_is_refused(sets, tmp_path):
    with pytest.raises(RequestError, match="lr, mlp, cnn"):
        compared(sets, tmp_path, ("resnet",))
