"""Several runs on the same data in one ledger, and the class histogram."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dpdm
from dpdm.errors import DpdmError, RequestError
from dpdm.privacy import Ledger, epsilon, read_ledger
from dpdm.promise.planning import gaussian
from dpdm.training.run import check_shared_ledger, train

DELTA = 1e-4


@pytest.fixture
def ledger(tmp_path):
    """``ledger(epsilon)``: the path of a new shared ledger with that budget."""

    def make(limit: float, unit: str = "image") -> str:
        path = tmp_path / "shared.jsonl"
        Ledger.create(
            path, dataset="digits", unit=unit, noise_source="system", budget=(limit, DELTA)
        ).close()
        return str(path)

    return make


def test_two_runs_add_up_and_the_statement_says_what_all_spent(digits, small, tmp_path, ledger):
    path = ledger(20.0)
    config = small(f"privacy.ledger={path}", "privacy.epsilon=2", "training.max_steps=3")
    first = train(digits, config, tmp_path / "a").statement()
    second = train(digits, config, tmp_path / "b").statement()
    shared = read_ledger(path)
    events = [(event, count) for _, event, count in shared.counted_events()]
    assert len(shared.runs) == 2
    assert second["epsilon"] == pytest.approx(epsilon(events, DELTA))
    assert second["epsilon"] > first["epsilon"]
    assert second["this_run"]["epsilon"] == pytest.approx(first["epsilon"])
    assert second["ledger"]["runs"] == 2
    assert second["ledger"]["budget"] == {"epsilon": 20.0, "delta": DELTA}
    assert not (tmp_path / "a" / "private" / "ledger.jsonl").exists()


def test_nothing_released_names_the_shared_ledger(digits, small, tmp_path, ledger):
    path = ledger(20.0)
    config = small(f"privacy.ledger={path}", "training.max_steps=1")
    run = train(digits, config, tmp_path / "a")
    for file in run.release.iterdir():
        assert b"shared.jsonl" not in file.read_bytes(), file


def test_a_run_that_would_exceed_the_ledgers_budget_does_not_start(digits, small, tmp_path, ledger):
    path = ledger(2.5)
    config = small(f"privacy.ledger={path}", "privacy.epsilon=2")
    train(digits, config, tmp_path / "a")
    before = read_ledger(path)
    says = r"2 is planned, which compose to [0-9.]+, but the budget is 2\.5; plan a smaller epsilon"
    with pytest.raises(RequestError, match=says):
        train(digits, config, tmp_path / "b")
    assert len(read_ledger(path)) == len(before)
    assert not (tmp_path / "b").exists()


def test_a_run_on_data_of_another_name_is_warned_of_a_ledger_that_is_not_theirs(
    digits, small, tmp_path, ledger
):
    config, said = small(f"privacy.ledger={ledger(20.0)}", "training.max_steps=1"), []
    others = replace(digits, name="lab")
    train(digits, config, tmp_path / "a", callback=lambda event: said.append(event.message))
    assert not any("was opened for" in line for line in said)
    train(others, config, tmp_path / "b", callback=lambda event: said.append(event.message))
    assert any("opened for 'digits', and these data are called 'lab'" in line for line in said)


def test_an_interrupted_run_in_a_shared_ledger_goes_on_where_it_was(
    digits, small, tmp_path, ledger
):
    path = ledger(10.0)
    part = small(f"privacy.ledger={path}", "training.max_steps=3")
    train(digits, part, tmp_path / "a")
    train(digits, small(f"privacy.ledger={path}"), tmp_path / "a", resume=True)
    steps = [n for name, _, n in read_ledger(path).counted_events() if name == "DP-SGD step"]
    assert steps == [6]


def test_a_lost_budget_stops_a_run_that_is_resumed_after_another_one_spent_it(
    digits, small, tmp_path, ledger
):
    path = ledger(10.0)
    train(digits, small(f"privacy.ledger={path}", "training.max_steps=3"), tmp_path / "a")
    other = small(f"privacy.ledger={path}", "privacy.epsilon=3.5", "prior.enabled=false")
    train(digits, other, tmp_path / "b")
    with pytest.raises(DpdmError, match="budget is 10"):
        train(digits, small(f"privacy.ledger={path}"), tmp_path / "a", resume=True)


@pytest.mark.parametrize("change", ["privacy.noise_seed=3", "privacy.enabled=false"])
def test_a_run_without_secret_noise_has_no_place_in_a_shared_ledger(
    digits, small, tmp_path, ledger, change
):
    with pytest.raises(RequestError, match="shared ledger"):
        train(digits, small(f"privacy.ledger={ledger(10.0)}", change), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_ledger_in_which_a_seeded_run_spent_is_no_shared_one(digits, small, tmp_path):
    seeded = train(digits, small("privacy.noise_seed=3", "training.max_steps=1"), tmp_path / "a")
    before = read_ledger(seeded.folder.ledger).head
    with pytest.raises(RequestError, match="chosen seed"):
        train(digits, small(f"privacy.ledger={seeded.folder.ledger}"), tmp_path / "b")
    assert read_ledger(seeded.folder.ledger).head == before
    assert not (tmp_path / "b").exists()


def test_a_shared_ledger_that_is_missing_says_how_to_make_one(digits, small, tmp_path):
    with pytest.raises(RequestError, match="open-ledger"):
        train(digits, small(f"privacy.ledger={tmp_path / 'none.jsonl'}"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_run_whose_ledger_is_lost_is_not_told_to_open_another(
    digits, small, tmp_path, ledger, dpdm
):
    path = ledger(10.0)
    config = small(f"privacy.ledger={path}", "training.max_steps=1")
    train(digits, config, tmp_path / "a")
    Path(path).unlink()
    with pytest.raises(DpdmError, match="restore it from a backup"):
        train(digits, small(f"privacy.ledger={path}"), tmp_path / "a", resume=True)
    status, _, err = dpdm("privacy", "ledger", tmp_path / "a")
    assert status == 1
    assert "restore it from a backup" in err


def test_a_ledger_of_another_unit_is_refused(digits, small, tmp_path, ledger):
    with pytest.raises(RequestError, match="unit is 'group'"):
        train(digits, small(f"privacy.ledger={ledger(10.0, 'group')}"), tmp_path / "a")


def test_a_ledger_in_use_is_refused(digits, small, tmp_path, ledger):
    path = ledger(10.0)
    with Ledger.open(path), pytest.raises(DpdmError, match="another process"):
        train(digits, small(f"privacy.ledger={path}"), tmp_path / "a")


# The class histogram


def test_a_histogram_has_its_own_share_of_the_budget(digits, small, tmp_path):
    config = small("prior.enabled=false", "privacy.histogram_share=0.1")
    run = train(digits, config, tmp_path / "run")
    events = {name: event for name, event, _ in read_ledger(run.folder.ledger).counted_events()}
    assert epsilon([(events["class histogram"], 1)], DELTA) == pytest.approx(1.0, rel=1e-3)
    assert 9.9 < run.statement()["epsilon"] <= 10.0
    _, labels = dpdm.load(run.release).sample(4000, labels="histogram", steps=1, seed=0)
    true = np.bincount(digits.private_labels) / len(digits.private_labels)
    np.testing.assert_allclose(np.bincount(labels, minlength=10) / 4000, true, atol=0.04)


def test_labels_from_a_histogram_that_was_not_released_are_an_error(digits, small, tmp_path):
    run = train(digits, small("prior.enabled=false"), tmp_path / "run")
    with pytest.raises(RequestError, match="histogram_share"):
        dpdm.load(run.release).sample(10, labels="histogram")


def test_a_histogram_of_unlabelled_data_is_an_error(digits, small, tmp_path):
    config = small("privacy.histogram_share=0.1", "data.labels=false")
    with pytest.raises(RequestError, match="no classes"):
        train(digits, config, tmp_path / "run")


def test_a_histogram_and_the_prior_alone_share_the_whole_budget(digits, small, tmp_path):
    config = small("training.steps=0", "privacy.histogram_share=0.2")
    run = train(digits, config, tmp_path / "run")
    assert 9.9 < run.statement()["epsilon"] <= 10.0
    counted = read_ledger(run.folder.ledger).counted_events()
    assert counted[0][0] == "class histogram"
    assert gaussian(counted[0][1].noise_multiplier) == counted[0][1]


def test_a_ledger_in_the_home_folder_is_found_by_plan_and_run(
    digits, small, tmp_path, ledger, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = ledger(20.0)
    config = small("privacy.ledger=~/shared.jsonl", "privacy.epsilon=2", "training.max_steps=1")
    check_shared_ledger(config)
    train(digits, config, tmp_path / "a")
    assert len(read_ledger(path).runs) == 1
