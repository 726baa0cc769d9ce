"""The scripts that measure speed run, measure what they say, and their page follows the lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import document
import per_unit_gradients
import pytest
import row_process
import sampling
import side_by_side
import training_step
from common import CASES, KEPT, Results, read_lines
from gradient_rows import ROWS

from dpdm import load_config

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
TINY = ("network.base_channels=8", "views.count=1", "training.batch_size=8")


def line(**values: object) -> dict[str, object]:
    machine = {"processor": "CPU", "cores": 2, "memory_gib": 8, "python": "3", "torch": "2"}
    machine |= {"opacus": None, "commit": "abc", "busy_cores": 0.0}
    common = {"device": "cpu", "device_name": "CPU", "threads": 1, "machine": machine}
    return common | values


def gradient_line(row: str, rate: float, started: str, quick: bool = False) -> dict[str, object]:
    seconds = {"median": 8 / rate, "low": 8 / rate, "high": 8 / rate}
    own = {"row": row, "units": 4, "views": 2, "seconds": seconds, "repeats": 3}
    own |= {"images_per_second": rate, "peak_mib": 300.0, "step_mib": 7.0, "peak_ratio": 1.0}
    own |= {"time_ratio": {"median": 64 / rate, "low": 1.0, "high": 1.0}}
    when = {"started": started, "quick": quick}
    return line(benchmark="per_unit_gradients", case="mnist", **own, **when)


def test_rows_are_those_that_can_be_asked_for() -> None:
    names = per_unit_gradients.ROW_NAMES
    assert {name.removesuffix(KEPT) for name in names} == set(ROWS)
    groups = per_unit_gradients.groups(names)
    assert [group[0] for group in groups] == ["plain", "plain kept", "plain bf16 kept"]
    assert sorted(name for group in groups for name in group) == sorted(names)


def test_a_row_is_held_against_the_ordinary_step_with_memory_like_its_own() -> None:
    rows = [SimpleNamespace(name=name) for name in per_unit_gradients.ROW_NAMES]
    plain = {row.name: per_unit_gradients.plain_of(row, rows).name for row in rows}
    assert plain["dpdm"] == plain["loop"] == "plain"
    assert plain["dpdm kept"] == plain["plain kept"] == "plain kept"
    assert plain["Opacus hooks bf16 kept"] == "plain bf16 kept"
    assert plain["dpdm bf16"] == "plain"


def test_each_row_is_a_process_that_steps_when_told(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    command = [sys.executable, SCRIPTS / "per_unit_gradients.py", "--case", "digits", "--row"]
    command += ["plain", "dpdm", "--repeats", "2", "--threads", "1", "--json", out]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=True)
    plain, dpdm = map(json.loads, out.read_text().splitlines())
    assert (plain["row"], dpdm["row"], dpdm["repeats"]) == ("plain", "dpdm", 2)
    assert plain["time_ratio"]["median"] == plain["peak_ratio"] == 1
    assert dpdm["images_per_second"] == pytest.approx(1024 / dpdm["seconds"]["median"])
    assert 0 < dpdm["step_mib"] < dpdm["peak_mib"]
    assert "| dpdm " in done.stdout


def test_a_row_that_fails_says_why_in_its_place() -> None:
    row = row_process.Row("digits", "no such row", "cpu", 1)
    row.wait()
    row.step(warm=True)
    row.close()
    assert row.error == "KeyError: 'no such row'"
    case = CASES["digits"]
    assert per_unit_gradients.line_of(case, row, None)["error"] == row.error


def test_a_phase_is_what_its_function_takes_without_the_phases_within(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 1.0, 6.0, 8.0])  # outer begins, inner begins and ends, outer ends
    monkeypatch.setattr(training_step, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    clock = training_step.Clock(lambda: None)
    inner = clock._timed("inner", lambda: None)
    clock._timed("outer", inner)()
    assert clock.seconds == {"outer": 3.0, "inner": 5.0}


def test_the_phases_of_a_step_add_up_to_it() -> None:
    stop = ["training.max_steps=3", "training.least_signal=0"]
    config = load_config("digits", [*TINY, *stop])
    steps, microbatch = training_step.measure(config, "digits", "cpu", 1.0)
    lines = training_step.lines_of(steps, microbatch, "digits", config, 1.0)
    seen = {each["phase"]: each for each in lines}
    assert set(seen) >= {phase.name for phase in training_step.PHASES}
    assert all(seen[phase.name]["seconds"]["median"] > 0 for phase in training_step.PHASES)
    whole = seen["whole step"]["seconds"]["median"]
    outside = seen["outside the network"]["seconds"]["median"]
    assert 0 < outside < whole


def test_only_what_grows_with_the_units_is_multiplied() -> None:
    step = training_step.Step(2, {"views": 1.0, "noise": 1.0})
    assert training_step.multiplied(step, 3.0) == {"views": 3.0, "noise": 1.0}


def test_each_way_of_taking_microbatches_has_a_line(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    command = [sys.executable, SCRIPTS / "side_by_side.py", "--case", "digits", "--quick"]
    command += ["--threads", "2", "--json", out]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=True)
    lines = read_lines(out)
    assert [each["way"] for each in lines] == list(side_by_side.WAYS)
    assert all(each["images_per_second"] > 0 for each in lines)
    assert f"| {side_by_side.WAYS[-1]} " in done.stdout
    assert "## Microbatches side by side on a CPU" in document.document(lines, "lines.jsonl")


def test_evaluations_of_an_image_are_counted() -> None:
    model = sampling.released("digits", [*TINY, "training.least_signal=0"])
    assert sampling.evaluations(model, "ddim", 0.0, 5) == 5
    assert sampling.evaluations(model, "heun", 0.0, 5) == 9
    assert sampling.evaluations(model, "heun", 3.0, 5) == 18
    assert sampling.evaluations(model, "dpmpp-2m", 0.0, 5) == 5


def test_the_page_shows_the_newest_full_run_and_no_number_of_its_own() -> None:
    lines = [
        gradient_line("plain", 64.0, "2026-01-01"),
        gradient_line("dpdm", 11.0, "2026-01-01"),
        gradient_line("plain", 64.0, "2026-01-02"),
        gradient_line("dpdm", 50.0, "2026-01-02"),
        gradient_line("dpdm", 99.0, "2026-01-03", quick=True),
    ]
    page = document.document(lines, "lines.jsonl")
    assert "50.0" in page
    assert "11.0" not in page
    assert "99.0" not in page
    empty = document.document([], "lines.jsonl")
    assert not re.search(r"\d", empty)


def test_the_page_of_the_docs_is_the_one_that_is_written(tmp_path: Path) -> None:
    document.write(document.RESULTS, tmp_path / "performance.md")
    written = (tmp_path / "performance.md").read_text("utf-8")
    assert document.DOCUMENT.read_text("utf-8") == written


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "results" / "lines.jsonl"
    for value in (1, 2):
        Results("sampling", path, True, "cpu", "CPU", 1).write(case="mnist", value=value)
    assert [each["value"] for each in read_lines(path)] == [1, 2]
