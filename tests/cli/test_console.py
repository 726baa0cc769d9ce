"""What is printed is what was given: no markup, no emoji, nothing that a stream cannot hold."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dpdm.cli import console, main
from dpdm.cli.console import note, out, table


def test_names_in_brackets_and_colons_are_printed_as_they_are(capsys):
    table(("class", "n"), [("[other]", 1), ("cat[/b]", 2), ("a:x:b", 3)], title="[all]")
    out.print("[red]x[/red]")
    note("class a:x:b of [bold]")
    printed = capsys.readouterr()
    for name in ("[all]", "[other]", "cat[/b]", "a:x:b", "[red]x[/red]"):
        assert name in printed.out
    assert "class a:x:b of [bold]" in printed.err


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("a fault of ours"), False),
    ],
)
def test_too_little_memory_is_one_line_whoever_finds_it(error, known, capsys, monkeypatch):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("dpdm.cli.app", fails)
    with pytest.raises(SystemExit if known else RuntimeError):
        main(["data", "list"])
    assert ("out of memory; use smaller batches" in capsys.readouterr().err) == known


def test_a_file_name_of_no_encoding_is_printed_all_the_same(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / os.fsdecode(b"bad\xff.png")).write_bytes(b"no image")
    done = subprocess.run(
        [sys.executable, "-m", "dpdm", "data", "check", str(tmp_path / "images")],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert b"bad\\udcff.png" in done.stdout


def test_a_narrow_terminal_loses_nothing(monkeypatch, capsys):
    monkeypatch.setattr(console, "out", Console(width=40))
    table(("name", "number", "what"), [("a" * 30, 10_000, "b" * 60)])
    printed = capsys.readouterr().out
    assert "a" * 30 in printed
    assert "10000" in printed
    assert printed.count("b") == 61  # one of them is of "number"


def test_a_reader_that_goes_away_is_no_failure():
    shell = f"set -o pipefail; {sys.executable} -m dpdm presets --json | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"{\n", b"")


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, True), (60.0, False)])
def test_whoever_waits_for_data_to_be_read_is_told_how_far_it_is(
    tmp_path, monkeypatch, capsys, seconds, shown
):
    for number in range(3):
        Image.fromarray(np.full((4, 4), 200, np.uint8)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(console, "_SHORT_SECONDS", seconds)
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(tmp_path)])
    assert ended.value.code == 0
    told = capsys.readouterr().err
    assert (f"reading images of {tmp_path}: 3 of 3" in told) is shown
