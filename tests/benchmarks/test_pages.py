"""What the documents say is what the result lines say: `make results` changes nothing."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import baselines
import colour
import digits
import pytest
import recipes
import trials

DOCS = Path(__file__).parents[2] / "docs"
MEASURED = [name for name in baselines.REPEATS if baselines.lines_of(name).is_file()]


def lines(name: str) -> list[dict]:
    text = (DOCS / "results" / f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("digits", digits.document),
        *((f"baselines-{name}", partial(baselines.write, name=name)) for name in MEASURED),
        ("recipes", recipes.document),
        ("colour", colour.document),
    ],
)
def test_tables_of_the_page_are_those_of_the_lines(name, write, tmp_path):
    page = tmp_path / "results.md"
    shutil.copyfile(DOCS / "results.md", page)
    write(lines(name), page)
    assert page.read_text("utf-8") == (DOCS / "results.md").read_text("utf-8")


def test_the_page_of_trials_is_that_of_its_lines(tmp_path):
    page = tmp_path / "trials.md"
    shutil.copyfile(DOCS / "trials.md", page)
    trials.document(lines("trials"), page)
    assert page.read_text("utf-8") == (DOCS / "trials.md").read_text("utf-8")


def test_a_trial_has_a_cell_for_every_column():
    rows = [(line, row) for line in lines("trials") for row in line["rows"]]
    assert [row for line, row in rows if len(row) != len(line["columns"])] == []


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
