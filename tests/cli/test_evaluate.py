"""``dpdm evaluate`` on samples and on a run: tables, JSON, what is kept on the private side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dpdm.cli import main
from dpdm.data import open_dataset

SMALL = (
    "training.steps=0",
    "warmup.steps=0",
    "sampling.count=200",
    "sampling.steps=3",
    "evaluation.classifiers=false",
)


@pytest.fixture(autouse=True)
def _no_network_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DPDM_DATA", raising=False)
    monkeypatch.setenv("DPDM_CACHE", str(tmp_path / "no-cache"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of the prior alone, not evaluated."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    settings = [part for change in SMALL for part in ("--set", change)]
    with pytest.raises(SystemExit) as stopped:
        main(["run", "digits", "--out", str(folder), *settings])
    assert not stopped.value.code
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the run to change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


REAL = ("--train", "digits", "--test", "digits@test")


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> str:
    """Training images as if they were synthetic."""
    real = open_dataset("digits")
    path = tmp_path_factory.mktemp("copies") / "copies.npz"
    np.savez(path, images=real.private_images[:300], labels=real.private_labels[:300])
    return str(path)


def test_json_has_the_names_of_the_interface_and_nothing_else_is_printed(dpdm, copies):
    status, out, _ = dpdm(
        "evaluate", copies, *REAL, "--metrics", "fid,kid,prdc,memorisation", "--json", "-"
    )
    result = json.loads(out)
    assert status == 0
    assert {"precision", "recall", "density", "coverage", "memorisation", "fd-cnn"} <= set(result)
    assert not {"fid", "kid", "accuracy"} & set(result)
    assert result["memorisation"]["flagged"] is True
    assert "picture" not in out


def test_a_person_gets_tables_a_verdict_and_how_to_get_fid(dpdm, copies):
    status, out, err = dpdm("evaluate", copies, *REAL, "--metrics", "fid,prdc,memorisation")
    assert status == 0
    for part in ("fd-cnn", "precision (cnn)", "near-copies"):
        assert part in out
    assert "Signs of memorisation" in err
    assert "--inception download" in err


def test_a_runs_evaluation_is_kept_and_shown_in_its_private_report_alone(dpdm, run):
    release = {path.name: path.read_bytes() for path in (run / "release").iterdir()}
    metrics = ("--metrics", "fid,prdc,per-class,memorisation")
    assert dpdm("evaluate", str(run), *REAL, *metrics)[0] == 0
    kept = json.loads((run / "private" / "evaluation.json").read_text())
    assert kept["synthetic_images"] == 200
    assert any((run / "private" / "cache").glob("*.npy"))
    assert dpdm("evaluate", str(run), *REAL, "--metrics", "kid")[0] == 0
    assert {**kept, "notes": []}.items() <= {
        **json.loads((run / "private" / "evaluation.json").read_text()),
        "notes": [],
    }.items()
    assert dpdm("report", str(run))[0] == 0
    private = (run / "private" / "report.html").read_text()
    for part in ('id="distances"', 'id="memorisation"', "kd-cnn"):
        assert part in private
    assert {path.name: path.read_bytes() for path in (run / "release").iterdir()} == release


def test_a_run_without_samples_says_what_to_do(dpdm, run):
    (run / "release" / "samples.npz").unlink()
    status, _, err = dpdm("evaluate", str(run), *REAL, "--metrics", "fid")
    assert status == 2
    assert "dpdm report" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--metrics", "fid", "--test", "digits@test"), "--train"),
        (("--metrics", "memorisation", "--train", "digits"), "--test"),
        ((*REAL, "--metrics", "fid", "--inception", "/nowhere.pt"), "/nowhere.pt"),
        ((*REAL, "--metrics", "fid", "--features", "/nowhere.pt"), "/nowhere.pt"),
        ((*REAL, "--metrics", "nonsense"), "nonsense"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_two(dpdm, copies, arguments, says):
    status, out, err = dpdm("evaluate", copies, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert status == 2
    assert out == ""
    assert len(lines) == 1
    assert says in lines[0]


def test_the_baseline_of_a_run_is_at_its_epsilon_and_in_its_report(dpdm, run):
    status, out, err = dpdm("evaluate", str(run), *REAL, "--classifiers", "lr", *BASELINE)
    assert status == 0
    assert "DP-SGD on real, epsilon 10" in out
    assert "difference" in out
    assert "compose to epsilon" in err
    assert list((run / "private" / "baselines").glob("lr-0-*/ledger.jsonl"))
    kept = json.loads((run / "private" / "evaluation.json").read_text())
    assert kept["baseline"]["delta"] == 1e-4
    assert dpdm("report", str(run))[0] == 0
    assert "Beside DP-SGD on the real images" in (run / "private" / "report.html").read_text()
    assert "DP-SGD on the real" not in (run / "release" / "report.html").read_text()


BASELINE = ("--baseline", "dpsgd")


def test_a_baseline_says_what_it_lacks(dpdm, copies, tmp_path):
    def error(*options):
        status, _, err = dpdm("evaluate", copies, *REAL, *options)
        assert status == 2
        return err

    assert "--baseline-out DIR" in error(*BASELINE, "--epsilon", "1", "--delta", "1e-4")
    assert "needs --epsilon E and --delta D" in error(*BASELINE, "--cache", str(tmp_path))
    assert "add --baseline dpsgd" in error("--epsilon", "1")
