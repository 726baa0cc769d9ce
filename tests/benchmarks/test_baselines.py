"""The comparison of Table 2: the page has the means of the lines, and nothing else moves."""

from __future__ import annotations

import baselines
import pytest


def line(epsilon: float, synthetic: float, private: float) -> dict:
    names = baselines.CLASSIFIER_NAMES
    return {
        "epsilon": epsilon,
        "synthetic": dict.fromkeys(names, synthetic),
        "baseline": {"accuracy": dict.fromkeys(names, private)},
        "threads": 1,
        "machine": {"processor": "a processor", "torch": "2", "commit": "abc"},
    }


def test_a_row_has_means_spreads_and_their_difference() -> None:
    text = baselines.section([line(10, 0.9, 0.7), line(10, 0.8, 0.7), line(1, 0.5, 0.6)])
    rows = [row.split("|")[1:-1] for row in text.splitlines() if "CNN" in row]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1", "CNN", "1", "50.0", "60.0", "-10.0"],
        ["10", "CNN", "2", "85.0 ± 7.1", "70.0 ± 0.0", "+15.0"],
    ]


def test_only_what_lies_between_the_marks_is_written_anew(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- baselines-mnist -->\nold\n<!-- /baselines-mnist -->\nafter\n")
    baselines.write([line(1, 0.5, 0.6)], page, "mnist")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    baselines.write([line(1, 0.5, 0.6)], page, "mnist")
    assert page.read_text() == text


def test_the_synthetic_side_needs_its_row(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(baselines, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="--only mnist-0"):
        baselines.of_recipe("mnist", None, tmp_path, 0.2, 0)


def test_a_page_without_marks_is_refused(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(SystemExit, match="no <!-- baselines-digits"):
        baselines.write([line(1, 0.5, 0.6)], page)
