"""What many trainings cost together, against a direct composition by dp-accounting."""

from __future__ import annotations

import dp_accounting
import pytest
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

from dpdm.data import open_dataset
from dpdm.errors import DpdmError, RequestError
from dpdm.privacy import Event, Ledger, SystemNoise
from dpdm.sweep.grid import Grid, expand, parse_vary
from dpdm.sweep.spending import is_stuck, own_epsilon, planned, spent, trainings_of
from dpdm.training.folder import RunFolder

SETTINGS = ("prior.enabled=false", "training.least_signal=0", "training.batch_size=128")
DELTA = 1e-4


def trainings(*vary: str, seeds: int = 1, settings: tuple[str, ...] = ()):
    grid = Grid("digits", (*SETTINGS, *settings), parse_vary(vary), seeds)
    return trainings_of(expand(grid), open_dataset("digits").facts("image"))


def composed(*events: tuple[float, float, int]) -> float:
    """Epsilon of (noise multiplier, sample rate, count) together, by dp-accounting alone."""
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3
    )
    for noise, rate, count in events:
        step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, count))
    return float(accountant.get_epsilon(DELTA))


def test_what_is_planned_is_every_distinct_training_composed() -> None:
    asked = trainings(
        "privacy.epsilon=10,1", "sampler=heun,ddim", seeds=3, settings=("training.steps=20",)
    )
    assert len(asked) == 6
    total = planned(asked, {})
    noises = {one.config.privacy.epsilon: one.plan.noise_multiplier for one in asked}
    rate = 128 / 1437
    direct = composed((noises[10], rate, 60), (noises[1], rate, 60))
    assert (total.trainings, total.without, total.delta) == (6, 0, DELTA)
    assert total.epsilon == pytest.approx(direct, rel=1e-3)
    assert 10 < direct < 33


def test_trainings_without_noise_are_counted_apart() -> None:
    total = planned(trainings("privacy.enabled=true,false", settings=("training.steps=5",)), {})
    assert (total.trainings, total.without) == (1, 1)
    assert total.epsilon == pytest.approx(10, rel=1e-3)
    alone = planned(trainings("privacy.enabled=false"), {})
    assert (alone.epsilon, alone.trainings, alone.without) == (None, 0, 1)


def test_trainings_whose_noise_can_be_repeated_are_counted_apart(tmp_path) -> None:
    asked = trainings("privacy.noise_seed=null,7", settings=("training.steps=5",))
    total = planned(asked, {})
    assert (total.trainings, total.seeded) == (1, 1)
    assert total.epsilon == pytest.approx(10, rel=1e-3)
    assert total.not_private is not None
    assert "of 2 trainings 1 had noise from a chosen seed" in total.not_private
    runs = {one.name: begun(tmp_path, one, 5) for one in asked}
    assert spent(runs).epsilon == spent({asked[0].name: runs[asked[0].name]}).epsilon


def test_units_that_do_not_add_up_are_not_added(tmp_path) -> None:
    (one,) = trainings("views.count=1", settings=("training.steps=20",))
    run = begun(tmp_path, one, 1)
    run.config.write_text(run.config.read_text().replace("unit: image", "unit: group"))
    with pytest.raises(RequestError, match=r"privacy\.unit"):
        planned(trainings("views.count=2"), {one.name: run})


def begun(tmp_path, training, records: int) -> RunFolder:
    """A run that was interrupted after some steps."""
    from dpdm.config import to_yaml

    run = RunFolder(tmp_path / training.name)
    run.private.mkdir(parents=True)
    run.config.write_text(to_yaml(training.config))
    noise = SystemNoise().description
    with Ledger.create(run.ledger, dataset="digits", unit="image", noise_source=noise) as ledger:
        for step in range(records):
            ledger.record("DP-SGD step", training.plan.step_event, step=step)
    return run


def test_what_an_interrupted_training_spent_is_not_planned_again(tmp_path) -> None:
    one, two = trainings("views.count=1,2", settings=("training.steps=20",))
    run = begun(tmp_path, one, 7)
    fresh = planned([one, two], {})
    assert planned([one, two], {one.name: run}).epsilon == fresh.epsilon
    event = one.plan.step_event
    assert spent({one.name: run}).epsilon == pytest.approx(
        composed((event.noise_multiplier, event.sample_rate, 7)), rel=1e-3
    )


def test_steps_done_twice_count_twice(tmp_path) -> None:
    (one,) = trainings("views.count=1", settings=("training.steps=20",))
    run = begun(tmp_path, one, 25)  # five of them again, after kills
    event = one.plan.step_event
    assert planned([one], {one.name: run}).epsilon == pytest.approx(
        composed((event.noise_multiplier, event.sample_rate, 25)), rel=1e-3
    )


def test_a_training_of_another_grid_in_the_folder_counts(tmp_path) -> None:
    one, two = trainings("views.count=1,2", settings=("training.steps=20",))
    run = begun(tmp_path, one, 20)
    assert planned([two], {one.name: run}).epsilon == planned([one, two], {}).epsilon


def test_a_shared_ledger_without_room_for_the_grid_is_refused(tmp_path) -> None:
    path = tmp_path / "shared.jsonl"
    noise = SystemNoise().description
    Ledger.create(
        path, dataset="digits", unit="image", noise_source=noise, budget=(12.0, DELTA)
    ).close()
    settings = ("training.steps=20", f"privacy.ledger={path}")
    assert planned(trainings("views.count=1", settings=settings), {}).epsilon <= 10
    with pytest.raises(DpdmError, match="the budget is 12"):
        planned(trainings("views.count=1,2,3", settings=settings), {})
    with Ledger.open(path, run="another") as ledger:
        ledger.record("statistics", Event(0.5))
    with pytest.raises(DpdmError, match="the budget is 12"):
        planned(trainings("views.count=1", settings=settings), {})


def test_a_shared_ledger_that_is_lost_is_not_to_be_opened_anew(tmp_path) -> None:
    (one,) = trainings("views.count=1", settings=(f"privacy.ledger={tmp_path / 'lost.jsonl'}",))
    with pytest.raises(RequestError, match="open-ledger"):
        planned([one], {})
    run = begun(tmp_path, one, 1)
    with pytest.raises(DpdmError, match="restore it from a backup"):
        planned([one], {one.name: run})


@pytest.mark.parametrize("trained", [True, False])
def test_a_ledger_that_is_lost_is_not_a_smaller_sum(tmp_path, trained) -> None:
    one, two = trainings("views.count=1,2", settings=("training.steps=20",))
    run = begun(tmp_path, one, 7)
    runs = {one.name: run}
    run.ledger.unlink()
    assert spent(runs).epsilon == 0  # it was stopped before it spent
    if trained:
        run.update_state(trained=True)
    else:
        run.checkpoints.mkdir()
        (run.checkpoints / "step-7.safetensors").touch()
    for asked in (lambda: spent(runs), lambda: planned([two], runs)):
        with pytest.raises(
            DpdmError, match=r"ledger\.jsonl: missing, .* views\.count=1_seed=0 has"
        ):
            asked()
    with pytest.raises(DpdmError, match=r"ledger\.jsonl"):
        own_epsilon(run, one.config)


def test_statistics_that_were_released_in_vain_are_planned_once_more(tmp_path) -> None:
    settings = ("prior.enabled=true", "training.steps=0")
    (one,) = trainings("prior.normalise=none", settings=settings)
    run = begun(tmp_path, one, 0)
    runs = {one.name: run}
    fresh = planned([one], {})
    assert not is_stuck(one, run)
    assert planned([one], runs) == fresh
    events = one.plan.events()
    with Ledger.open(run.ledger) as ledger:
        for event, count in events:
            for _ in range(count):
                ledger.record("statistics", event)
    assert is_stuck(one, run)
    total = planned([one], runs)
    assert total.trainings == 2
    assert total.epsilon == pytest.approx(composed_statistics(2 * events), rel=1e-3)
    run.checkpoints.mkdir()
    run.prior.touch()  # it was killed later, and goes on
    assert not is_stuck(one, run)
    assert planned([one], runs) == fresh


def composed_statistics(events: list[tuple[Event, int]]) -> float:
    """Epsilon of Gaussian mechanisms together, by dp-accounting alone."""
    assert all(event.sample_rate == 1 for event, _ in events)
    return composed(*((event.noise_multiplier, 1.0, count) for event, count in events))


def test_a_cell_that_cannot_be_trained_is_named() -> None:
    with pytest.raises(RequestError, match=r"^training\.batch_size=2000_seed=0: .*1437 units"):
        trainings("training.batch_size=64,2000")
