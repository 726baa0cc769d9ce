"""What the documents say is what the result lines say: `make results` changes nothing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import accountants
import baselines
import colour
import corners
import denoisers
import digits
import grey
import protocol
import pytest
import recipes
import sizes
import trials

import audit
from dpdm import load_config

DOCS = Path(__file__).parents[2] / "docs"
MEASURED = [name for name in baselines.REPEATS if baselines.lines_of(name).is_file()]


def lines(name: str) -> list[dict]:
    text = (DOCS / "results" / f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "write", "page"),
    [
        ("digits", digits.document, "results.md"),
        *(
            (f"baselines-{name}", partial(baselines.write, name=name), "results.md")
            for name in MEASURED
        ),
        ("recipes", recipes.document, "results.md"),
        ("recipes", recipes.summarise, "../README.md"),
        ("colour", colour.document, "results.md"),
        ("grey", grey.document, "results.md"),
        ("corners", corners.document, "results.md"),
        ("protocol", protocol.document, "results.md"),
        ("sizes", sizes.document, "results.md"),
        ("trials", trials.document, "trials.md"),
        ("accountants", accountants.document, "privacy.md"),
        ("audit", audit.document, "privacy.md"),
    ],
)
def test_tables_of_a_page_are_those_of_the_lines(name, write, page, tmp_path):
    copy = tmp_path / Path(page).name
    shutil.copyfile(DOCS / page, copy)
    write(lines(name), copy)
    assert copy.read_text("utf-8") == (DOCS / page).read_text("utf-8")


def test_a_trial_has_a_cell_for_every_column():
    rows = [(line, row) for line in lines("trials") for row in line["rows"]]
    assert [row for line, row in rows if len(row) != len(line["columns"])] == []


def test_every_file_of_lines_has_its_command():
    listed = (DOCS / "results" / "README.md").read_text("utf-8")
    files = [file.name for file in (DOCS / "results").glob("*.jsonl")]
    assert [name for name in files if f"| `{name}` |" not in listed] == []
    scripts = re.findall(r"python (benchmarks/\w+\.py)", listed)
    assert scripts
    assert [name for name in scripts if not (DOCS.parent / name).is_file()] == []


@pytest.mark.parametrize(
    "command", [command for line in lines("trials") for command in line["again"]]
)
def test_a_command_that_asks_a_trial_again_is_one(command):
    words = shlex.split(command)
    if words[:2] == ["dpdm", "sweep"]:
        return
    if words[1] == "benchmarks/denoisers.py":
        options = denoisers.made_parser().parse_args(words[2:])
        recipes.row_config(*options.row.split("-"), recipes.PRESET, options.set)
        return
    if words[1] == "benchmarks/colour.py":
        asked = colour.made_parser().parse_args(words[2:])
        load_config(asked.preset, asked.set)
        return
    assert words[:2] == ["python", "benchmarks/recipes.py"]
    options = recipes.made_parser().parse_args(words[2:])
    assert options.held_out
    for row in options.only:
        for stage in options.stage:
            recipes.row_config(*row.split("-"), stage, options.set)


def test_runs_of_trials_with_other_settings_have_other_folders():
    settings = [[], ["views.count=4"], ["views.count=2"]]
    names = [recipes.folder_name("mnist", "10", recipes.PAPER, 0, more) for more in settings]
    assert len(set(names)) == 3
    assert names[0] == "mnist-10-papers-method-0"


def test_a_stage_is_the_median_of_its_runs_with_their_range():
    runs = [{"stages": [{"name": "Prior alone", "lr": v, "mlp": v, "cnn": v}]} for v in (0.5, 0.7)]
    assert digits.table(runs)[2:] == [
        "| Prior alone | 60.0 (50.0 to 70.0) | 60.0 (50.0 to 70.0) | 60.0 (50.0 to 70.0) |"
    ]


def test_every_picture_of_the_page_is_there():
    text = (DOCS / "results.md").read_text("utf-8")
    named = [part.split(")")[0] for part in text.split("](")[1:] if part.startswith("results/")]
    assert named
    assert [name for name in named if not (DOCS / name).is_file()] == []
