"""The same images give the same tensors and the same run, whichever way they come in."""

from __future__ import annotations

import gzip
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dpdm
from dpdm.data import write_samples

SMALL = (
    "training.batch_size=64",
    "training.least_signal=0",
    "training.steps=3",
    "training.microbatch=32",
    "views.count=2",
    "network.base_channels=8",
    "network.multipliers=[1]",
    "privacy.noise_seed=1",
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """The digits as a folder, an npz, a parquet file and a folder of IDX files."""
    folder = tmp_path_factory.mktemp("formats")
    data = dpdm.open_dataset("digits")
    found = {}
    for kind, name in (("folder", "images"), ("npz", "d.npz"), ("parquet", "d.parquet")):
        write_samples(folder / name, data.private_images, data.private_labels, data.classes)
        found[kind] = str(folder / name)
    idx = folder / "idx"
    idx.mkdir()
    count = len(data.private_images)
    with gzip.open(idx / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">IIII", 2051, count, 8, 8) + data.private_images.tobytes())
    with gzip.open(idx / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">II", 2049, count) + data.private_labels.astype(np.uint8).tobytes())
    found["idx"] = str(idx)
    return found


def drawn_from_a_run(data: dpdm.data.Dataset, folder: Path) -> np.ndarray:
    return dpdm.train(data, dpdm.load_config("digits", SMALL), folder).model().sample(10, seed=0)[0]


@pytest.fixture(scope="module")
def drawn_from_digits(tmp_path_factory) -> np.ndarray:
    return drawn_from_a_run(dpdm.open_dataset("digits"), tmp_path_factory.mktemp("digits") / "run")


@pytest.mark.parametrize("kind", ["folder", "npz", "parquet", "idx"])
def test_every_format_gives_the_same_tensors_and_the_same_release(
    sources, drawn_from_digits, tmp_path, kind
):
    reference, data = dpdm.open_dataset("digits"), dpdm.open_dataset(sources[kind])
    np.testing.assert_array_equal(data.private_images, reference.private_images)
    np.testing.assert_array_equal(data.private_labels, reference.private_labels)
    assert data.classes == reference.classes
    np.testing.assert_array_equal(drawn_from_a_run(data, tmp_path / "run"), drawn_from_digits)


def arguments(run: Path, *more: str) -> list[str]:
    settings = [part for change in SMALL[:-1] for part in ("--set", change)]
    return ["train", "digits", "--out", str(run), *settings, "--set", "training.steps=400", *more]


def test_ctrl_c_saves_exits_130_and_resume_goes_on(dpdm, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dpdm", *arguments(run)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "private" / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    assert err.splitlines()[-1].startswith("error: interrupted after DP-SGD step")
    assert "Traceback" not in err
    steps = len((run / "private" / "metrics.jsonl").read_text().splitlines())
    assert steps < 400
    more = ("--resume", "--set", f"training.max_steps={steps + 2}")
    status, _, said = dpdm(*arguments(run, *more))
    assert status == 0, said
    assert len((run / "private" / "metrics.jsonl").read_text().splitlines()) == steps + 2


def test_the_paper_s_method_runs_on_mnist(shared_data, tmp_path):
    """The preset mnist-eps10 with the paper's network; small batches, to be quick."""
    data = dpdm.open_dataset(str(shared_data / "mnist"))
    config = dpdm.load_config(
        "mnist-eps10",
        [
            "training.max_steps=2",
            "training.microbatch=2",
            "views.count=2",
            "training.batch_size=8",
        ],
    )
    run = dpdm.train(data, config, tmp_path / "run")
    model = run.model()
    assert sum(p.numel() for p in model.denoiser.network.parameters()) == 1_753_345
    images, _ = model.sample(2, steps=2, sampler="ddim", seed=0)
    assert images.shape == (2, 28, 28, 1)
    assert run.statement()["epsilon"] < 10
