"""The section of docs/results.md that is written from the lines of sweeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sweeps


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A docs folder, and beside it one finished sweep of two cells."""
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results.md").write_text("# Results\n\nBefore.\n")
    folder = tmp_path / "sweeps" / "digits-configs"
    folder.mkdir(parents=True)
    lines = [
        {
            **dict.fromkeys(sweeps.KEPT, 1),
            "values": {"diffusion.config": name},
            "accuracy": {"lr": 0.5, "mlp": 0.6, "cnn": 0.7},
            "frechet_measure": "fd-pixels",
            "cell": "cell",
            "somewhere": "/home/somebody/runs",
        }
        for name in ("v", "edm")
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "docs"


def run(monkeypatch: pytest.MonkeyPatch, docs: Path, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["sweeps.py", "--docs", str(docs), *arguments])
    sweeps.main()
    return (docs / "results.md").read_text()


def test_tables_and_figures_are_put_between_markers_and_replaced(monkeypatch, docs: Path) -> None:
    given = str(docs.parent / "sweeps")
    text = run(monkeypatch, docs, "--sweeps", given)
    assert text.startswith("# Results\n\nBefore.\n")
    assert "| edm | 1 | 1 | 50.0 | 60.0 | 70.0 | 1.000 | 1 |" in text
    assert (docs / "results" / "sweep-digits-configs.png").is_file()
    (docs / "results.md").write_text(text + "\nFindings.\n")
    again = run(monkeypatch, docs)
    assert again == text + "\nFindings.\n"


def test_no_path_of_a_machine_is_copied(monkeypatch, docs: Path) -> None:
    run(monkeypatch, docs, "--sweeps", str(docs.parent / "sweeps"))
    assert "somebody" not in (docs / "results" / "sweep-digits-configs.jsonl").read_text()


def test_without_lines_it_says_what_to_give(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results.md").write_text("# Results\n")
    with pytest.raises(SystemExit, match="--sweeps DIR"):
        run(monkeypatch, tmp_path)
