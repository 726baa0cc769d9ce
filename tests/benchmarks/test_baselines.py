"""The comparison of Table 2: the page has the means of the lines, and nothing else moves."""

from __future__ import annotations

import json

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
    text = baselines.section([line(10, 0.9, 0.7), line(10, 0.8, 0.7), line(1, 0.5, 0.6)], "digits")
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


def test_the_synthetic_side_is_the_median_of_the_rows_that_are_there_now(
    monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(baselines, "RESULTS", tmp_path)
    own = line(0.2, 0.0, 0.7) | {"repeat": 0}
    del own["synthetic"]
    row = {"set": "mnist", "epsilon": "0.2", "stage": "preset", "seed": 0}
    others = [row | {"stage": "prior alone"}, row | {"set": "fashion"}, row | {"epsilon": "1"}]
    lines = [
        *(other | {"accuracy": {}} for other in others),
        *(
            row | {"seed": seed, "accuracy": dict.fromkeys(baselines.CLASSIFIER_NAMES, value)}
            for seed, value in enumerate((0.95, 0.9, 0.8))
        ),
    ]
    (tmp_path / "recipes.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = next(row for row in baselines.section([own], "mnist").splitlines() if "CNN" in row)
    cells = [cell.strip() for cell in found.split("|")[1:-1]]
    # The last is the paper's, published_figures("MNIST", 0.2).
    assert cells == ["0.2", "CNN", "1", "90.0", "70.0", "+20.0", "69.9"]


def test_the_synthetic_side_needs_its_row(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(baselines, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="--only mnist-0"):
        baselines.synthetic("mnist", {"epsilon": 0.2, "repeat": 0})


def test_a_page_without_marks_is_refused(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(SystemExit, match="no <!-- baselines-digits"):
        baselines.write([line(1, 0.5, 0.6)], page)
