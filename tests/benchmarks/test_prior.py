"""The page of the prior alone: rows of a set, and a section that is written between its markers."""

from __future__ import annotations

from pathlib import Path

import prior


def line(name: str, epsilon: str, cnn: float, seed: int = 0) -> dict:
    accuracy = {"lr": 0.8, "mlp": 0.9, "cnn": cnn}
    seconds = {"fit_seconds": 8.0, "sample_seconds": 4.0}
    return {"set": name, "epsilon": epsilon, "seed": seed, "accuracy": accuracy, **seconds}


def test_a_row_is_the_median_of_its_runs_beside_goal_and_paper() -> None:
    rows = prior.table(
        [line("mnist", "1", c, s) for s, c in enumerate((0.97, 0.99, 0.98))], "mnist"
    )
    assert rows[2:] == [
        "| 1 | 3 | 80.0 (80.0 to 80.0) | 90.0 (90.0 to 90.0) | 98.0 (97.0 to 99.0) | 97.0 | 95.3 "
        "| 8 | 4 |"
    ]


def test_the_page_is_written_between_its_markers_alone(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"before\n{prior.BEGIN}\nold\n{prior.END}\nafter\n", "utf-8")
    for _ in range(2):
        prior.document([line("fashion", "10", 0.8)], page)
    text = page.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("Fashion-MNIST") == 2
    assert "mnist.png" not in text.replace("prior-fashion.png", "")
