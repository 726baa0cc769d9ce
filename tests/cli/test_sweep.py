"""``dpdm sweep`` from end to end, tiny: a few steps of a tiny network, a few images."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dpdm.cli import main
from dpdm.cli.sweep import perform
from dpdm.config import load_config, to_yaml
from dpdm.errors import DpdmError
from dpdm.privacy import read_ledger
from dpdm.sweep import runner
from dpdm.sweep.cell import Job
from dpdm.sweep.folder import SweepFolder
from dpdm.sweep.runner import Ended

TINY = (
    "prior.enabled=false",
    "training.least_signal=0",
    "training.batch_size=32",
    "training.microbatch=32",
    "training.checkpoint_every=1",
    "views.count=1",
    "network.base_channels=4",
    "network.multipliers=[1]",
    "sampling.count=30",
    "sampling.steps=2",
    "sampling.batch_size=30",
)
PROGRAM = [sys.executable, "-m", "dpdm", "sweep"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def tiny(*more: str, steps: int = 2) -> list[str]:
    settings = [*TINY, f"training.steps={steps}", *more]
    return [part for setting in settings for part in ("--set", setting)]


def run_here(jobs, parallel, logs, *, tell, done) -> bool:
    for job in jobs:
        try:
            perform(job)
            done(Ended(job, 0))
        except DpdmError as error:
            done(Ended(job, error.exit_status, str(error)))
    return True


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings run in this process: what is tested is not how processes are started."""
    torch.set_num_threads(1)
    monkeypatch.setattr("dpdm.sweep.conduct.run_jobs", run_here)


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def steps_recorded(folder: Path) -> dict[str, int]:
    return {
        path.parents[1].name: len(read_ledger(path))
        for path in sorted(folder.glob("runs/*/private/ledger.jsonl"))
    }


def test_cells_that_sample_differently_share_a_training_and_a_ledger(
    dpdm, tmp_path, in_process
) -> None:
    out = tmp_path / "sweep"
    status, printed, said = dpdm(
        "sweep", "digits", "--vary", "sampler=heun,ddim", "--vary", "privacy.epsilon=10,5",
        *tiny(), "--out", out, "--jobs", 1, "--json",
    )  # fmt: skip
    assert status == 0, said
    found = json.loads(printed)
    assert (found["cells"], found["done"], found["trainings"]) == (4, 4, 2)
    assert steps_recorded(out) == {"privacy.epsilon=10_seed=0": 2, "privacy.epsilon=5_seed=0": 2}
    lines = results(out)
    assert found["results"] == lines
    assert [line["values"] for line in lines] == [
        {"sampling.sampler": sampler, "privacy.epsilon": epsilon}
        for sampler in ("heun", "ddim")
        for epsilon in (5.0, 10.0)
    ]
    for line in lines:
        assert line["epsilon"] == pytest.approx(line["values"]["privacy.epsilon"], rel=1e-3)
        assert line["epsilon"] <= line["values"]["privacy.epsilon"]
        assert set(line["accuracy"]) == {"lr", "mlp", "cnn"}
        assert line["frechet"] > 0
        assert (line["steps"], line["synthetic_images"], line["device"]) == (2, 30, "cpu")
        assert line["commit"]
    assert "warning: 2 trainings on the same private data" in said
    assert "Do not share" in (out / "README.txt").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two cells that is done."""
    out = tmp_path_factory.mktemp("finished") / "sweep"
    command = ["sweep", "digits", "--vary", "views.count=1,2", *tiny(), "--out", str(out)]
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpdm.sweep.conduct.run_jobs", run_here)
        with pytest.raises(SystemExit) as stopped:
            main(command)
    assert not stopped.value.code
    return out


def test_the_results_are_a_table_a_page_and_a_figure(finished: Path) -> None:
    with (finished / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["views.count"] for row in rows] == ["1", "2"]
    assert all(float(row["cnn"]) >= 0 and float(row["frechet"]) > 0 for row in rows)
    assert (finished / "table.md").read_text().startswith("| views.count | seeds |")
    page = (finished / "table.html").read_text()
    assert "Private: not covered by the guarantee" in page
    assert "http" not in page.replace("http-equiv", "")
    assert (finished / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (finished / "figure.svg").read_text()


def test_a_cell_is_an_ordinary_run(finished: Path, dpdm) -> None:
    run = finished / "runs" / "views.count=2_seed=0"
    status, printed, _ = dpdm("privacy", "statement", run, "--json")
    assert status == 0
    assert json.loads(printed)["epsilon"] <= 10
    assert (run / "release" / "samples.npz").is_file()
    assert json.loads((run / "private" / "evaluation.json").read_text())["accuracy"]


def test_the_same_command_again_does_nothing_and_rebuilds_lost_results(
    finished: Path, dpdm
) -> None:
    before = results(finished)
    (finished / "results.jsonl").unlink()
    (finished / "table.csv").unlink()
    status, _, _ = dpdm("sweep", "digits", "--vary", "views.count=1,2", *tiny(), "--out", finished)
    assert status == 0
    assert results(finished) == before
    assert (finished / "table.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--vary", "views.count=1,2", *tiny(steps=3)), "training.steps=3, but the sweep there"),
        (("--vary", "diffusion.config=v,edm", *tiny()), "varies views.count, this one"),
        (
            ("--vary", "views.count=1", "--test", "digits", *tiny()),
            "was measured with test",
        ),
    ],
)
def test_another_sweep_in_the_same_folder_is_refused(finished: Path, dpdm, arguments, said) -> None:
    status, printed, errors = dpdm("sweep", "digits", *arguments, "--out", finished)
    assert status == 2
    assert said in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not printed


def test_more_values_and_seeds_extend_a_sweep(finished: Path, dpdm, in_process) -> None:
    status, printed, said = dpdm(
        "sweep", "digits", "--vary", "views.count=2", "--seeds", 2, *tiny(), "--out", finished,
        "--json",
    )  # fmt: skip
    assert status == 0, said
    cells = [(line["values"]["views.count"], line["seed"]) for line in results(finished)]
    assert cells == [(1, 0), (2, 0), (2, 1)]
    assert "warning: 3 trainings" in said
    assert json.loads(printed)["trainings"] == 3
    assert yaml.safe_load((finished / "sweep.yaml").read_text())["values"] == {
        "views.count": [1, 2]
    }


def test_a_sweep_is_carried_out_by_one_process_at_a_time(finished: Path, dpdm) -> None:
    with SweepFolder(finished).locked():
        status, _, said = dpdm(
            "sweep", "digits", "--vary", "views.count=1,2", *tiny(), "--out", finished
        )
    assert status == 2
    assert "another process is carrying this sweep out" in said.splitlines()[-1]


def test_a_dry_run_prints_the_grid_and_writes_nothing(dpdm, tmp_path) -> None:
    out = tmp_path / "sweep"
    status, printed, _ = dpdm(
        "sweep", "digits", "--vary", "views.count=1,4", "--seeds", 3, *tiny(), "--out", out,
        "--dry-run", "--json",
    )  # fmt: skip
    assert status == 0
    plan = json.loads(printed)
    assert (len(plan["cells"]), plan["seeds"], plan["trainings"]) == (2, 3, 6)
    assert plan["image_passes"] == 3 * 2 * 32 * (1 + 4)
    assert plan["composed_epsilon"] > 10
    assert not out.exists()


def test_a_dry_run_refuses_what_the_sweep_would(dpdm, tmp_path) -> None:
    for option, what in (
        (("--jobs", "abc"), "--jobs abc: use a number of processes"),
        (("--test", "digits@test", "--set", "evaluation.classifiers=false"), "asks for no eval"),
    ):
        status, _, said = dpdm(
            "sweep", "digits", "--vary", "views.count=1,4", *tiny(), "--out", tmp_path / "sweep",
            "--dry-run", *option,
        )  # fmt: skip
        assert status == 2
        assert what in said.splitlines()[-1]


def test_one_failing_cell_does_not_lose_the_others(dpdm, tmp_path, in_process) -> None:
    out = tmp_path / "sweep"
    status, _, said = dpdm(
        "sweep", "digits", "--vary", "network.multipliers=[1],[1,1,1,1,1,1]", *tiny(),
        "--out", out, "--jobs", 1,
    )  # fmt: skip
    assert status == 1
    assert len(results(out)) == 1
    failed = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert "network.multipliers=-1-1-1-1-1-1-_seed=0" in failed[0]
    assert said.splitlines()[-1].startswith("error: 1 of 2 cells failed")


def test_a_cell_that_was_killed_while_it_released_statistics_begins_anew(
    dpdm, tmp_path, in_process, monkeypatch
) -> None:
    out, name = tmp_path / "sweep", "prior.share=0.5_seed=0"
    prior = ["training.steps=0", "warmup.steps=0", "prior.normalise=none", "sampling.count=30"]
    command = [
        "sweep", "digits", "--vary", "prior.share=0.5", "--out", out, "--jobs", 1, "--frechet",
        "pixels", *(part for setting in prior for part in ("--set", setting)),
    ]  # fmt: skip

    def killed(path: Path, *_: Any) -> None:
        raise DpdmError(f"{path}: killed")

    with monkeypatch.context() as patch:
        patch.setattr("dpdm.training.trainer.save_weights", killed)
        status, _, said = dpdm(*command)
    assert status == 1
    assert said.splitlines()[-1].endswith("the same command tries them again")
    plan = json.loads(dpdm(*command, "--dry-run", "--json")[1])
    assert (out / "runs" / name).is_dir()  # a dry run moves nothing
    status, printed, said = dpdm(*command, "--json")
    assert status == 0, said
    assert f"{name} was stopped while it released statistics" in said
    found = json.loads(printed)
    assert (found["done"], found["private_trainings"]) == (1, 2)
    assert found["composed_epsilon"] == pytest.approx(plan["composed_epsilon"])
    assert found["composed_epsilon"] > 10
    assert list(steps_recorded(out)) == [name, f"{name}.previous-1"]
    assert dpdm(*command, "--json")[0] == 0
    assert len(list((out / "runs").iterdir())) == 2


def test_a_lost_ledger_stops_a_sweep(dpdm, tmp_path, in_process) -> None:
    command = ["sweep", "digits", "--vary", "views.count=1", *tiny(), "--out", tmp_path / "sweep"]
    assert dpdm(*command)[0] == 0
    ledger = tmp_path / "sweep" / "runs" / "views.count=1_seed=0" / "private" / "ledger.jsonl"
    ledger.unlink()
    status, _, said = dpdm(*command)
    assert status == 1
    assert said.startswith(f"error: {ledger}: missing")
    assert said.count("\n") == 1


def test_presets_for_other_data_are_compared_on_those_that_are_given(dpdm, tmp_path) -> None:
    seven = load_config("own-prior", ["training.seed=7"])
    (tmp_path / "seven.yaml").write_text(to_yaml(seven))
    status, printed, said = dpdm(
        "sweep", "digits", "--vary", f"preset=digits,{tmp_path / 'seven.yaml'}", "--seeds", 2,
        "--data", "digits", "--set", "prior.normalise=none", "--out", tmp_path / "sweep",
        "--dry-run", "--json",
    )  # fmt: skip
    assert status == 0, said
    plan = json.loads(printed)
    assert [cell["values"]["preset"] for cell in plan["cells"]] == [
        "digits", str(tmp_path / "seven.yaml"),
    ]  # fmt: skip
    assert (plan["seeds"], plan["trainings"]) == (2, 4)


def test_cells_without_privacy_say_so(dpdm, tmp_path, in_process) -> None:
    out = tmp_path / "sweep"
    status, printed, said = dpdm(
        "sweep", "digits", "--vary", "privacy.enabled=false", *tiny(), "--out", out, "--json",
        "--jobs", 1,
    )  # fmt: skip
    assert status == 0
    assert "NOT PRIVATE: of 1 trainings 1 had no noise (privacy.enabled=false)" in said
    found = json.loads(printed)
    assert found["composed_epsilon"] is None
    assert [(line["private"], line["epsilon"]) for line in found["results"]] == [(False, None)]
    assert "NOT PRIVATE" in (out / "table.html").read_text()


def test_ctrl_c_saves_stops_the_processes_and_the_same_command_goes_on(
    dpdm, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "sweep"
    command = [
        *PROGRAM, "digits", "--vary", "views.count=1,2",
        *tiny("evaluation.classifiers=false", steps=20), "--out", str(out), "--jobs", "2",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not any(n > 2 for n in steps_recorded(out).values()):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on" in said.splitlines()[-1]
    stopped = steps_recorded(out)
    assert 0 < min(stopped.values(), default=1) < 20
    time.sleep(0.5)
    assert steps_recorded(out) == stopped  # nothing still runs
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    status, _, said = dpdm(*command[len(PROGRAM) - 1 :])
    assert status == 0, said
    assert set(steps_recorded(out).values()) == {20}  # no step was done twice
    assert len(results(out)) == 2


def test_a_training_that_another_stopped_is_not_called_done(tmp_path, monkeypatch) -> None:
    def stopped(job: Job, logs: Path) -> Any:
        child = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, text=True)
        child.terminate()
        return runner._Child(job, child, (logs / "log").open("w"))

    monkeypatch.setattr(runner, "_start", stopped)
    job = Job("a", "", {}, (), "", None, "", "", "cpu", None, {})
    ended: list[Ended] = []
    whole = runner.run_jobs([job], 1, tmp_path, tell=lambda _: None, done=ended.append)
    assert whole
    assert [end.error for end in ended] == ["stopped by a signal; its state is saved"]


def test_a_killed_parent_takes_its_processes_along(tmp_path) -> None:
    out = tmp_path / "sweep"
    command = [
        *PROGRAM, "digits", "--vary", "views.count=1", *tiny(steps=400), "--out", str(out),
        "--jobs", "1",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not any(n > 2 for n in steps_recorded(out).values()):
            time.sleep(0.1)
        process.kill()
    log = out / "logs" / "views.count=1_seed=0.log"
    while time.monotonic() < deadline and "interrupted" not in log.read_text():
        time.sleep(0.1)
    assert "interrupted after DP-SGD step" in log.read_text()


def test_all_cells_share_a_ledger_that_is_given(dpdm, tmp_path, in_process) -> None:
    def sweep(views: str, *more: object) -> tuple[int, str, str]:
        return dpdm("sweep", "digits", "--vary", f"views.count={views}", *more, "--json")

    two, four = (
        json.loads(sweep(views, *tiny(), "--out", tmp_path / "none", "--dry-run")[1])
        for views in ("1,2", "1,2,3,4")
    )
    budget = (two["composed_epsilon"] + four["composed_epsilon"]) / 2
    ledger, out = tmp_path / "shared.jsonl", tmp_path / "sweep"
    opened = dpdm(
        "privacy", "open-ledger", ledger, "--dataset", "digits", "--epsilon", budget,
        "--delta", 1e-4,
    )  # fmt: skip
    assert opened[0] == 0
    settings = tiny(f"privacy.ledger={ledger}")
    status, _, said = sweep("1,2,3,4", *settings, "--out", out)
    assert status == 1
    assert "but the budget is" in said
    assert not out.exists()
    status, printed, said = sweep("1,2", *settings, "--out", out, "--jobs", 2)
    assert status == 0, said
    assert "one training at a time" in said
    spent = json.loads(printed)["composed_epsilon"]
    assert spent == pytest.approx(two["composed_epsilon"])
    assert spent == pytest.approx(read_ledger(ledger).epsilon(1e-4))
    assert not list(out.glob("runs/*/private/ledger.jsonl"))


def test_the_ready_made_sweeps_are_listed_with_what_they_cost(dpdm) -> None:
    status, printed, _ = dpdm("sweep", "--list", "--json")
    assert status == 0
    found = {row["name"]: row for row in json.loads(printed)["sweeps"]}
    assert found["digits-samplers"]["cells"] == 4 * found["digits-samplers"]["trainings"]
    # Table 3: 4394 steps of 4096 images with 1 to 32 views.
    assert found["table3"]["image_passes"] == 4394 * 4096 * 63


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a preset"),
        (("digits",), "nothing to vary"),
        (("digits-kk",), "did you mean the sweep digits-k"),
        (("digits", "--vary", "views.cont=1"), "did you mean views.count"),
        (("digits", "--vary", "views.count=1", "--jobs", "many"), "--jobs many"),
        (("digits", "--vary", "views.count=1", "--frechet", "eyes"), "--frechet eyes"),
        (("digits", "--vary", "training.batch_size=64,9999"), "batch_size=9999_seed=0: "),
        (("digits", "--vary", "preset=digits,mnist-eps1"), "different data"),
        (("digits", "--vary", "preset=digits,GROUPS"), "of different units"),
        (("digits", "--vary", "preset=digits,SEEDS"), "measured differently"),
        (("digits", "--vary", "views.count=1", "--test", "LARGER"), "its images are (10, 10, 1)"),
        (("digits", "--vary", "views.count=2020-01-01"), "views.count"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(dpdm, tmp_path, arguments, said) -> None:
    out, files = tmp_path / "sweep", {"GROUPS": "privacy.unit=group", "SEEDS": "evaluation.seeds=5"}
    for name, setting in files.items():
        (tmp_path / f"{name}.yaml").write_text(to_yaml(load_config("digits", [setting])))
    np.savez(
        tmp_path / "LARGER.npz",
        images=np.zeros((20, 10, 10, 1), np.uint8),
        labels=np.arange(20) % 10,
    )
    places = {name: str(tmp_path / f"{name}.yaml") for name in files}
    places["LARGER"] = str(tmp_path / "LARGER.npz")
    for name, place in places.items():
        arguments = [word.replace(name, place) for word in arguments]
    status, printed, errors = dpdm("sweep", *arguments, "--out", out)
    assert status == 2
    assert said in errors
    assert errors.splitlines()[-1].startswith("error: ")
    assert not printed
    assert not out.exists()
