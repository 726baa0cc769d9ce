"""``dpdm privacy ledger`` and ``open-ledger``: what was spent by whom, and what is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dpdm.config import preset
from dpdm.config.loading import to_yaml
from dpdm.privacy import Ledger, epsilon, read_ledger
from dpdm.promise.planning import gaussian, poisson_sampled_gaussian
from dpdm.promise.wording import at_least, at_most
from dpdm.training.seeded_noise import SeededNoise

COUNTS = gaussian(8)
STEP = poisson_sampled_gaussian(0.05, 1.1)
DELTA = 1e-5

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def privacy(dpdm) -> Command:
    """``privacy(*arguments)`` -> exit status, standard output, standard error."""
    return partial(dpdm, "privacy")


@pytest.fixture
def shared(tmp_path: Path, privacy: Command) -> Path:
    """A shared ledger of epsilon 2 on which two runs took 6 and 3 steps, one of them twice."""
    path = tmp_path / "clinic.jsonl"
    arguments = ("--dataset", "clinic", "--epsilon", 2, "--delta", DELTA)
    assert privacy("open-ledger", path, *arguments)[0] == 0
    with Ledger.open(path, run="first") as ledger:
        ledger.check_budget([(COUNTS, 1), (STEP, 6)])
        ledger.record("counts", COUNTS, step=0)
        for step in range(6):
            ledger.record("DP-SGD step", STEP, step=step)
    with Ledger.open(path, run="second") as ledger:
        ledger.check_budget([(STEP, 3)])
        for step in (0, 1, 1):
            ledger.record("DP-SGD step", STEP, step=step)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of a run with a ledger of its own."""
    private = tmp_path / "run" / "private"
    private.mkdir(parents=True)
    (private / "config.yaml").write_text(to_yaml(preset("digits")))
    with Ledger.create(
        private / "ledger.jsonl", dataset="digits", unit="image", noise_source="os"
    ) as ledger:
        ledger.record("DP-SGD step", STEP, step=0)
    return tmp_path / "run"


def test_open_ledger_makes_a_ledger_with_its_budget(privacy, tmp_path):
    path = tmp_path / "clinic.jsonl"
    status, out, err = privacy(
        *("open-ledger", path, "--dataset", "clinic", "--epsilon", 4, "--delta", 1e-6),
        *("--unit", "group"),
    )
    assert (status, out) == (0, "")
    assert f"privacy.ledger={path}" in err.replace("\n", "")
    ledger = read_ledger(path)
    assert ledger.budget == (4.0, 1e-6)
    assert ledger.header["noise_source"].startswith("the operating system")
    assert ledger.header["dataset"] == "clinic"
    ledger.require_unit("group")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--unit": "person"}, "--unit person: use image or group"),
        ({"--dataset": " "}, "--dataset"),
        ({"--epsilon": "0"}, "epsilon 0: must be positive"),
        ({"--epsilon": "inf"}, "epsilon inf: must be positive and finite"),
        ({"--delta": "1"}, "delta=1: must lie between 0 and 1"),
    ],
)
def test_open_ledger_refuses_what_promises_nothing(privacy, tmp_path, change, told):
    options = {"--dataset": "clinic", "--epsilon": "4", "--delta": "1e-6"} | change
    arguments = [part for option in options.items() for part in option]
    status, _, err = privacy("open-ledger", tmp_path / "clinic.jsonl", *arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_open_ledger_replaces_nothing_and_makes_no_folder(privacy, shared):
    before = shared.read_bytes()
    arguments = ("--dataset", "clinic", "--epsilon", 2, "--delta", DELTA)
    status, _, err = privacy("open-ledger", shared, *arguments)
    assert status == 2
    assert "exists already" in err
    assert shared.read_bytes() == before
    status, _, err = privacy("open-ledger", shared.parent / "no" / "x.jsonl", *arguments)
    assert status == 2
    assert "make it first" in err


def test_ledger_json_has_each_run_all_together_and_the_budget(privacy, shared):
    status, out, _ = privacy("ledger", shared, "--json")
    found = json.loads(out)
    assert status == 0
    together = epsilon([(COUNTS, 1), (STEP, 9)], DELTA)
    assert found["dataset"] == "clinic"
    assert found["unit"] == "image"
    assert (found["records"], found["repeated"]) == (10, 1)
    assert (found["epsilon"], found["delta"], found["accountant"]) == (together, DELTA, "pld")
    assert found["budget"] == {
        "epsilon": 2.0,
        "delta": DELTA,
        "spent": together,
        "left": 2.0 - together,
    }
    assert found["mechanisms"] == [
        {"name": "counts", "event": COUNTS.to_json(), "count": 1},
        {"name": "DP-SGD step", "event": STEP.to_json(), "count": 9},
    ]
    first, second = found["runs"]
    assert (first["name"], first["records"]) == ("first", 7)
    assert first["epsilon"] == epsilon([(COUNTS, 1), (STEP, 6)], DELTA)
    assert second["mechanisms"] == [{"name": "DP-SGD step", "event": STEP.to_json(), "count": 3}]
    assert second["epsilon"] == epsilon([(STEP, 3)], DELTA)
    assert found["head"] == read_ledger(shared).head


def test_the_table_says_the_same(privacy, shared):
    status, out, err = privacy("ledger", shared)
    found = json.loads(privacy("ledger", shared, "--json")[1])
    assert status == 0
    for run in found["runs"]:
        assert at_most(run["epsilon"], 6) in out
        assert run["epsilon"] <= float(at_most(run["epsilon"], 6)) < run["epsilon"] + 1e-5
    assert "all together" in out
    left = found["budget"]["left"]
    assert f"spent {at_most(found['epsilon'], 6)}, left {at_least(left, 6)}" in out
    assert left - 1e-5 < float(at_least(left, 6)) <= left
    assert "10 records is whole" in err


def test_delta_and_accountant_can_be_chosen_and_the_budget_stays_at_its_own(privacy, shared):
    _, out, _ = privacy("ledger", shared, "--delta", 1e-7, "--accountant", "rdp", "--json")
    found = json.loads(out)
    assert found["epsilon"] == epsilon([(COUNTS, 1), (STEP, 9)], 1e-7, "rdp")
    assert found["budget"]["spent"] == epsilon([(COUNTS, 1), (STEP, 9)], DELTA, "rdp")


def test_a_run_is_stated_at_its_own_delta(privacy, own):
    _, out, _ = privacy("ledger", own, "--json")
    found = json.loads(out)
    assert found["delta"] == preset("digits").privacy.delta
    assert found["budget"] is None
    assert found["epsilon"] == epsilon([(STEP, 1)], found["delta"])


def test_a_run_that_shares_a_ledger_shows_that_one(privacy, own, shared):
    settings = preset("digits").model_dump()
    settings["privacy"]["ledger"] = str(shared)
    config = type(preset("digits")).model_validate(settings)
    (own / "private" / "config.yaml").write_text(to_yaml(config))
    _, out, _ = privacy("ledger", own, "--json")
    assert [run["name"] for run in json.loads(out)["runs"]] == ["first", "second"]


def test_a_ledger_of_noise_from_a_seed_is_not_called_private(privacy, tmp_path, shared):
    path = tmp_path / "seeded.jsonl"
    noise = SeededNoise(1, 4).description
    with Ledger.create(path, dataset="digits", unit="image", noise_source=noise) as ledger:
        ledger.record("DP-SGD step", STEP, step=0)
    _, out, _ = privacy("ledger", path, "--delta", DELTA)
    assert "NOT PRIVATE" in out
    assert not json.loads(privacy("ledger", path, "--delta", DELTA, "--json")[1])["private"]
    _, out, _ = privacy("ledger", shared)
    assert "NOT PRIVATE" not in out
    assert json.loads(privacy("ledger", shared, "--json")[1])["private"]


def test_an_epsilon_that_is_not_finite_is_no_number(privacy, shared):
    status, out, _ = privacy("ledger", shared, "--delta", 1e-17, "--json")
    assert status == 0
    assert json.loads(out)["epsilon"] is None
    assert "no finite value" in privacy("ledger", shared, "--delta", 1e-17)[1]


def test_a_damaged_ledger_is_refused_with_the_line(privacy, shared):
    shared.write_bytes(shared.read_bytes().replace(b'"step":3', b'"step":2'))
    status, out, err = privacy("ledger", shared, "--json")
    assert (status, out) == (1, "")
    assert "clinic.jsonl, line 6: not as it was written" in err
    assert err.count("\n") == 1


def test_what_is_neither_run_nor_ledger_is_refused(privacy, tmp_path, own):
    status, _, err = privacy("ledger", tmp_path / "nowhere")
    assert status == 2
    assert "neither a ledger nor a run's folder" in err
    assert "part of one" not in err
    _, _, err = privacy("ledger", own / "release")
    assert f"it is part of one: give {own}" in err
    ledger = own / "private" / "ledger.jsonl"
    status, _, err = privacy("ledger", ledger)
    assert status == 2
    assert "give --delta" in err
    assert privacy("ledger", ledger, "--delta", DELTA, "--accountant", "best")[0] == 2
    assert privacy("ledger", ledger, "--delta", 2)[0] == 2
    ledger.unlink()
    status, _, err = privacy("ledger", own)
    assert status == 2
    assert "no such file" in err


def test_a_ledger_that_was_cut_short_is_found_by_the_checkpoints_of_an_unfinished_run(
    dpdm, privacy, tmp_path
):
    settings = (
        *("training.steps=3", "training.batch_size=16", "training.checkpoint_every=1"),
        *("network.base_channels=4", "network.multipliers=[1]", "training.least_signal=0"),
    )
    run = tmp_path / "run"
    changes = [part for setting in settings for part in ("--set", setting)]
    assert dpdm("train", "digits", "--out", run, *changes)[0] == 0
    shutil.rmtree(run / "release")  # whose statement would tell
    assert privacy("ledger", run)[0] == 0
    path = run / "private" / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    status, _, err = privacy("ledger", run)
    assert status == 1
    assert "was written after records that are gone" in err
    assert err.count("\n") == 1
    path.write_text("".join(lines[:-1]))  # the checkpoint before, of step 2, knows of less
    (run / "private" / "checkpoints" / "1-DP-SGD-00000003.safetensors").write_bytes(b"damaged")
    assert privacy("ledger", run)[0] == 0
