"""Shared by all tests: real data where it is, a zoo of one's own; examples of hypothesis are never
failed for the time they take."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # read by Triton when it is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("dpdm", deadline=None)
settings.load_profile("dpdm")


@pytest.fixture
def shared_data() -> Path:
    """The folder with the official MNIST and the repackaged Fashion-MNIST."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("DPDM_TEST_DATA", beside))
    if not (path / "mnist" / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"no MNIST in {path}; set DPDM_TEST_DATA to the folder that has mnist/")
    return path


@pytest.fixture
def dpdm(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: ``dpdm(*arguments)`` -> exit status, standard output,
    standard error."""
    from dpdm.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def make_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``make_zoo(name, card)``: a zoo of one model, a prior of the digits, in the shipped one's
    place; returns its folder."""

    def make(name: str, card: dict[str, Any]) -> Path:
        from dpdm import load_config, open_dataset
        from dpdm.release import zoo
        from dpdm.training.run import train

        root = tmp_path / "zoo"
        config = load_config("digits", ["training.steps=0"])
        run = train(open_dataset("digits"), config, tmp_path / "r")
        shutil.copytree(run.release, root / name)
        (root / f"{name}.json").write_text(json.dumps(card))
        monkeypatch.setattr(zoo, "zoo_root", lambda: root)
        return root

    return make
