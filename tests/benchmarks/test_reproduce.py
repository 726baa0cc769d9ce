"""Rows of the paper: what was measured, what others would cost, and that pieces make a whole."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import reproduce
from common import lines_so_far, read_lines

from dpdm import open_dataset
from dpdm.training.interrupt import Interrupted

DOCS = Path(__file__).parents[2] / "docs"
SMALL = (
    "training.batch_size=16",
    "views.count=1",
    "network.base_channels=8",
    "network.multipliers=[1]",
    "network.attention=[]",
    "network.blocks=1",
    "sampling.count=100",
    "sampling.alternatives.accuracy.steps=2",
    "sampling.alternatives.fid.steps=2",
)


def line(**values: object) -> dict:
    made = {"row": "mnist-eps1", "sampler": "fid", "fid": None, "device": "NVIDIA H200"}
    made |= {"accuracy": {"lr": 0.5, "mlp": 0.6, "cnn": 0.7}, "epochs": 30.0, "views": "8 iid"}
    made |= {"images": 60_000, "image_passes": 1000, "train_hours": 0.5, "sample_hours": 0.25}
    return made | values


def cells(text: str, row: str, sampler: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in part.split("|")[1:-1]] for part in text.splitlines()]
    return [part for part in rows if part[:2] == [row, sampler]]


def test_a_measured_row_has_its_figures_and_hours_in_its_devices_column():
    found = cells(reproduce.section([line()], {}), "mnist-eps1", "fid")
    about = "no Inception at hand; 50.0 60.0 70.0 (30 epochs, 8 iid views, 60,000 samples)"
    assert found == [
        ["mnist-eps1", "fid", "23.4; 83.8 87.0 93.4", about, "1,000", "0.50 + 0.25", "", "", ""]
    ]
    on_two_cores = reproduce.section([line(device="A CPU", fid=3.21)], {})
    (found,) = cells(on_two_cores, "mnist-eps1", "fid")
    assert found[3].startswith("3.21; ")
    assert found[5:] == ["", "", "", "0.50 + 0.25 (A CPU)"]


def test_a_row_that_was_not_run_has_hours_where_a_speed_is_known():
    known = {"NVIDIA H200": reproduce.Speed(100_000.0, 1_000_000.0)}
    (found,) = cells(reproduce.section([], known), "mnist-eps10", "accuracy")
    passes = 4394 * 4096 * 32
    assert found[3:] == ["not run", f"{passes:,}", "1.6 + 0.0", *["not measured"] * 3]
    assert passes / 100_000 / 3600 == pytest.approx(1.6, abs=0.01)


def test_speeds_are_of_whole_steps_and_of_the_fastest_sampling():
    where = {"case": "mnist", "device_name": "a", "quick": False}
    step = {"benchmark": "training_step", "batch_size": 10, "views": 3, **where}
    drawn = {"benchmark": "sampling", "sampler": "churn", "guidance": 0.0, **where}
    lines = [
        {**step, "phase": "noise", "seconds": {"median": 1.0}},
        {**step, "phase": "whole step", "seconds": {"median": 2.0}},
        {**step, "phase": "whole step", "seconds": {"median": 9.0}, "device_name": "b"},
        {**drawn, "evaluations_per_second": 4.0},
        {**drawn, "evaluations_per_second": 5.0},
    ]
    assert reproduce.speeds(lines) == {"a": (15.0, 5.0)}


def test_the_page_is_what_the_lines_say(tmp_path):
    page, results = tmp_path / "reproducing.md", DOCS / "results"
    shutil.copyfile(DOCS / "reproducing.md", page)
    lines = lines_so_far(results / "paper.jsonl")
    reproduce.document(lines, page, read_lines(results / "performance.jsonl"))
    assert page.read_text("utf-8") == (DOCS / "reproducing.md").read_text("utf-8")


def test_fewer_epochs_are_fewer_steps_at_the_same_promise():
    data = open_dataset("digits")
    config = reproduce.settings_of("mnist-eps1", data, 20, ["training.batch_size=64"])
    assert config.training.steps == int(20 * 1437 / 64)
    assert config.privacy.epsilon == 1


def test_a_clock_stops_training_once(monkeypatch):
    killed = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    record = reproduce.TrainingEvent("step", record=object())
    clock = reproduce.Clock(0.0)
    clock(record)
    clock(record)
    assert len(killed) == 1
    reproduce.Clock(None)(record)
    reproduce.Clock(5.0)(record)
    assert len(killed) == 1


def test_a_row_in_pieces_has_a_line_for_each_sampler_and_is_not_done_again(
    shared_data, monkeypatch, tmp_path
):
    page, lines = tmp_path / "page.md", tmp_path / "paper.jsonl"
    page.write_text("".join(reproduce.MARKS))
    call = ["reproduce", "mnist-eps10", f"--data={shared_data}", f"--work={tmp_path}"]
    call += ["--epochs=0.0006", f"--page={page}", f"--lines={lines}", "--set", *SMALL]
    monkeypatch.setattr(sys, "argv", [*call, "training.checkpoint_every=1", "--minutes=0"])
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert stopped.value.code == reproduce.STOPPED
    assert isinstance(stopped.value.__context__, Interrupted)
    monkeypatch.setattr(sys, "argv", [*call, "training.checkpoint_every=1"])
    reproduce.main()
    made = [json.loads(text) for text in lines.read_text().splitlines()]
    assert [(each["sampler"], each["steps"], each["images"]) for each in made] == [
        ("accuracy", 2, 100),
        ("fid", 2, 100),
    ]
    assert made[0]["command"].endswith(" training.checkpoint_every=1")
    before = lines.read_text()
    reproduce.main()
    assert lines.read_text() == before
