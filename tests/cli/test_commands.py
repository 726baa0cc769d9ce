"""The command line as people and scripts meet it: output, JSON, exit status, one-line errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from dpdm.cli import app, main
from dpdm.cli.sample import parse_labels
from dpdm.diffusion.samplers import SAMPLERS
from dpdm.errors import RequestError

SMALL = [
    part
    for change in (
        "training.batch_size=64",
        "training.least_signal=0",
        "training.steps=4",
        "training.microbatch=32",
        "views.count=2",
        "network.base_channels=8",
        "network.multipliers=[1]",
        "sampling.count=200",
        "sampling.steps=3",
    )
    for part in ("--set", change)
]


def test_the_help_of_sample_names_every_sampler():
    parameters = typer.main.get_command(app).commands["sample"].params
    (metavar,) = [p.metavar for p in parameters if p.name == "sampler"]
    assert metavar.split("|") == list(SAMPLERS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A small run with everything in it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["run", "digits", "--out", str(folder), *SMALL])
    assert not stopped.value.code
    return folder


def test_a_run_leaves_every_file_of_the_interface(finished):
    release = {path.name for path in (finished / "release").iterdir()}
    assert release == {
        "model.safetensors",
        "model.yaml",
        "privacy.json",
        "PRIVACY.md",
        "samples.npz",
        "report.html",
    }
    private = {path.name for path in (finished / "private").iterdir()}
    assert {
        "config.yaml",
        "ledger.jsonl",
        "checkpoints",
        "metrics.jsonl",
        "evaluation.json",
        "report.html",
    } <= private


def test_the_evaluation_measures_the_stages(finished):
    evaluation = json.loads((finished / "private" / "evaluation.json").read_text())
    assert set(evaluation["accuracy"]) == {"lr", "mlp", "cnn"}
    assert [stage["name"] for stage in evaluation["stages"]] == ["Prior alone", "After DP-SGD"]


def test_the_private_report_has_the_nearest_real_images_and_what_it_all_cost(finished):
    private = (finished / "private" / "report.html").read_text("utf-8")
    for part in ("The closest pairs", "Peak memory of training", "Sampling", "Evaluation"):
        assert part in private
    state = json.loads((finished / "private" / "state.json").read_text())
    assert 2**26 < state["peak_memory_bytes"] < 2**36
    assert state["training_seconds"] > 0
    assert state["sampling_seconds"] > 0
    assert state["evaluation_seconds"] > 0


def test_the_release_report_shows_its_model_at_work_and_no_real_image(finished):
    release = (finished / "release" / "report.html").read_text("utf-8")
    assert "An image starts as pure noise. In 3 steps" in release
    for part in ("The closest pairs", "Peak memory", "What it is worth"):
        assert part not in release


def test_nothing_measured_on_real_data_is_in_the_release(finished):
    evaluation = json.loads((finished / "private" / "evaluation.json").read_text())
    records = (finished / "private" / "metrics.jsonl").read_text().splitlines()
    secrets = [f"{value:.3f}" for value in evaluation["accuracy"].values()]
    secrets += [f"{json.loads(line)['loss']:.4f}" for line in records]
    for path in (finished / "release").iterdir():
        if path.suffix in (".json", ".yaml", ".md", ".html"):
            text = re.sub(r"data:image/png;base64,[^\"]*", "", path.read_text())
            for secret in secrets:
                # As a number of its own: a longer one may begin with the same digits.
                assert not re.search(rf"(?<![\d.]){secret}(?!\d)", text), (path.name, secret)


def test_a_second_run_into_the_same_folder_is_refused_and_names_the_report(dpdm, finished):
    status, out, err = dpdm("run", "digits", "--out", str(finished), *SMALL)
    assert status == 2
    assert out == ""
    assert err.startswith("error:")
    assert "report.html" in err
    assert err.count("\n") == 1


def test_resuming_a_finished_run_says_that_it_is_finished(dpdm, finished):
    status, _, err = dpdm("run", "digits", "--out", str(finished), "--resume", *SMALL)
    assert status == 0
    assert "finished" in err


def test_statement_json_has_the_keys_of_the_interface(dpdm, finished):
    status, out, _ = dpdm("privacy", "statement", str(finished), "--json")
    statement = json.loads(out)
    assert status == 0
    assert {
        "private",
        "epsilon",
        "delta",
        "unit",
        "adjacency",
        "accountant",
        "mechanisms",
        "noise_source",
        "covered",
        "not_covered",
    } <= statement.keys()
    assert {"name", "event", "count"} <= statement["mechanisms"][0].keys()
    assert statement["private"] is True


def test_the_release_alone_samples_and_states(dpdm, finished, tmp_path):
    shutil.copytree(finished / "release", tmp_path / "release")
    status, out, _ = dpdm("privacy", "statement", str(tmp_path / "release"))
    assert status == 0
    assert "epsilon" in out
    status, _, _ = dpdm(
        "sample", str(tmp_path / "release"), "-n", "12", "--out", str(tmp_path / "s.npz")
    )
    assert status == 0
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["images"].shape == (12, 8, 8, 1)
        assert arrays["images"].dtype == np.uint8


@pytest.mark.parametrize("name", ["out.npz", "out.parquet", "folder/"])
def test_samples_open_like_any_data_set(dpdm, finished, tmp_path, name):
    path = str(tmp_path / name)
    status, _, _ = dpdm("sample", str(finished), "-n", "30", "--seed", "1", "--out", path)
    assert status == 0
    status, out, err = dpdm("data", "check", path, "--json")
    report = json.loads(out)
    assert status == 0
    assert report["count"] == 30
    assert report["ready"] is True
    assert "private" not in err


def test_labels_may_be_given_by_name():
    classes = ("healthy", "ill", "0")
    assert parse_labels("ill,0,healthy", classes) == [1, 0, 0]  # what is a number is one
    assert parse_labels("histogram", classes) == "histogram"
    with pytest.raises(RequestError, match="or names: healthy, ill, 0"):
        parse_labels("well", classes)


def test_the_same_seed_draws_the_same_samples(dpdm, finished, tmp_path):
    for name in ("a", "b"):
        dpdm(
            "sample",
            str(finished),
            "-n",
            "5",
            "--seed",
            "7",
            "--out",
            str(tmp_path / f"{name}.npz"),
        )
    with np.load(tmp_path / "a.npz") as one, np.load(tmp_path / "b.npz") as other:
        np.testing.assert_array_equal(one["images"], other["images"])


def test_sampling_does_not_overwrite(dpdm, finished, tmp_path):
    (tmp_path / "s.npz").write_bytes(b"mine")
    status, _, err = dpdm("sample", str(finished), "-n", "5", "--out", str(tmp_path / "s.npz"))
    assert status == 2
    assert "there already" in err
    assert (tmp_path / "s.npz").read_bytes() == b"mine"


def test_evaluate_writes_and_prints_json(dpdm, finished, tmp_path):
    samples = str(finished / "release" / "samples.npz")
    target = tmp_path / "e.json"
    status, _, _ = dpdm("evaluate", samples, "--test", "digits@test", "--json", str(target))
    assert status == 0
    accuracy = json.loads(target.read_text())["accuracy"]
    assert set(accuracy) == {"lr", "mlp", "cnn"}
    assert all(0 <= value <= 1 for value in accuracy.values())


def test_ledger_json_counts_the_mechanisms(dpdm, finished):
    status, out, _ = dpdm("privacy", "ledger", str(finished), "--json")
    summary = json.loads(out)
    assert status == 0
    counts = {entry["name"]: entry["count"] for entry in summary["mechanisms"]}
    assert counts["DP-SGD step"] == 4


def test_a_tampered_ledger_is_refused_by_line(dpdm, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    ledger = tmp_path / "run" / "private" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:2] + lines[3:]))
    status, _, err = dpdm("privacy", "ledger", str(tmp_path / "run"))
    assert status == 1
    assert "line 3" in err


def test_report_is_written_again(dpdm, finished, tmp_path):
    status, _, _ = dpdm("report", str(finished), "--out", str(tmp_path / "private.html"))
    assert status == 0
    assert "not covered" in (tmp_path / "private.html").read_text().lower()


def test_plan_says_what_a_run_would_cost(dpdm):
    status, out, _ = dpdm("plan", "digits", *SMALL, "--json")
    forecast = json.loads(out)
    assert status == 0
    assert forecast["noise_multiplier"] > 0
    assert forecast["image_passes"] == 4 * 64 * 2
    assert forecast["seconds"] > 0
    assert forecast["memory_bytes"] > 0


def test_plan_warns_where_the_data_is_too_small(dpdm):
    status, _, err = dpdm("plan", "digits", *SMALL, "--set", "privacy.epsilon=0.05")
    assert status == 0
    assert err.count("warning:") == 2


def test_presets_list_and_print(dpdm):
    status, out, _ = dpdm("presets", "--json")
    rows = {row["name"]: row for row in json.loads(out)["presets"]}
    assert status == 0
    assert rows["mnist-eps10"]["noise_multiplier"] == pytest.approx(2.380, rel=1e-3)
    assert rows["mnist-eps10"]["image_passes"] == 4394 * 4096 * 32
    status, out, _ = dpdm("presets", "mnist-eps10")
    assert status == 0
    assert "batch_size: 4096" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "digitz"], "did you mean digits"),
        (["run", "digits", "--set", "training.stps=3"], "did you mean training.steps"),
        (["run", "digits", "--set", "privacy.epsilon=0"], "privacy.epsilon"),
        (["run", "digits", "--set", "privacy.epsilon=.inf"], "privacy.epsilon"),
        (["run", "digits", "--set", "privacy.epsilon=.nan"], "privacy.epsilon"),
        (["run", "digits", "--set", "privacy.delta=0.01"], "delta"),
        (["run", "digits", "--set", "privacy.epsilon=1e-9"], "epsilon"),
        (["run", "digits", "--data", "/nowhere"], "/nowhere"),
        (["run", "digits", "--device", "tpu"], "--device"),
        (["train", "digits", "--resume", "--out", "/tmp/not-a-run-of-dpdm"], "no run to resume"),
        (["sample", "/nowhere"], "/nowhere"),
        (["privacy", "statement", "/nowhere"], "/nowhere"),
        (["privacy", "plan", "--sample-rate", "0.1"], "Missing option"),
        (
            [
                "privacy",
                "plan",
                "--delta",
                "1e-5",
                "--sample-rate",
                "0",
                "--steps",
                "1",
                "--epsilon",
                "1",
            ],
            "sample rate",
        ),
        (["data", "fetch", "imagenet"], "imagenet"),
        (["evaluate", "/nowhere", "--test", "digits@test"], "/nowhere"),
        (["evaluate", "digits", "--test", "digits@test", "--metrics", "fid"], "fid"),
        (["presets", "nonsense"], "nonsense"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_two(dpdm, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    status, out, err = dpdm(*arguments)
    lines = [line for line in err.splitlines() if line]
    assert status == 2
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith("error:")
    assert says in lines[0]
    assert not (tmp_path / "runs").exists()


def test_one_set_takes_several_settings(dpdm):
    several = ["training.steps=3", "training.batch_size=32", "training.least_signal=0"]
    status, out, _ = dpdm("plan", "digits", "--set", *several, "views.count=2", "--json")
    assert status == 0
    forecast = json.loads(out)
    assert (forecast["steps"], forecast["image_passes"]) == (3, 3 * 32 * 2)


def test_module_and_script_are_the_same_program():
    module = subprocess.run(
        [sys.executable, "-m", "dpdm", "--version"], capture_output=True, text=True, check=True
    )
    script = subprocess.run(
        [Path(sys.executable).parent / "dpdm", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert module.stdout == script.stdout != ""


def test_checking_a_promise_does_not_wait_for_torch(tmp_path):
    ledger = str(tmp_path / "shared.jsonl")
    commands = [
        ["statement", "zoo:fashion-eps10"],
        ["open-ledger", ledger, "--dataset", "scans", "--epsilon", "8", "--delta", "1e-6"],
        ["ledger", ledger],
        ["plan", "--delta", "1e-5", "--epsilon", "3", "--sample-rate", "0.01", "--steps", "10"],
    ]
    code = (
        "import sys; from dpdm.cli import main\n"
        f"for command in {commands}:\n"
        "    try: main(['privacy', *command])\n"
        "    except SystemExit as end: assert not end.code, command\n"
        "    assert 'torch' not in sys.modules, command"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_more_samples_than_memory_holds_are_refused_before_anything_is_spent(dpdm, tmp_path):
    count = 10**13
    status, _, err = dpdm(
        "run", "digits", "--out", tmp_path / "a", "--set", f"sampling.count={count}"
    )
    assert status == 2
    assert err.startswith(f"error: sampling.count {count}: so many images of 8x8x1 take ")
    assert not (tmp_path / "a").exists()


def test_an_interrupt_of_a_command_is_one_line(dpdm, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dpdm.data.list_datasets", interrupted)
    assert dpdm("data", "list") == (130, "", "error: interrupted\n")


def test_more_images_than_memory_holds_are_not_drawn(dpdm, finished, tmp_path):
    status, _, err = dpdm("sample", finished, "-n", 10**13, "--out", tmp_path / "a.npz")
    assert status == 2
    assert err.startswith(f"error: -n {10**13}: so many images of 8x8x1 take ")


def test_an_interrupt_while_modules_load_is_one_line():
    code = (
        "import sys; import dpdm.__main__ as program\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'dpdm.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "program.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "RUN", "--out", "RUN/release/report.html"],
        ["report", "RUN", "--out", "RUN/release/more/private.html"],
        ["evaluate", "RUN", "--test", "digits@test", "--json", "RUN/release/evaluation.json"],
        ["evaluate", "RUN", "--test", "digits@test", "--cache", "RUN/release/cache"],
        ["privacy", "audit", "digits", "--out", "RUN/release/audit.json"],
        ["sweep", "digits", "--vary", "views.count=1,2", "--out", "RUN/release/sweep"],
        ["evaluate", "RUN", "--test", "digits@test", "--cache", "RUN/release"],
        ["train", "digits", "--out", "RUN/release/second"],
        ["run", "digits", "--out", "RUN/release", "--force"],
        [
            "privacy",
            "open-ledger",
            "RUN/release/a",
            "--dataset",
            "scans",
            "--epsilon",
            "1",
            "--delta",
            "1e-6",
        ],
    ],
)
def test_what_is_private_is_not_written_into_a_release(dpdm, finished, arguments):
    before = {file: file.read_bytes() for file in (finished / "release").iterdir()}
    status, _, err = dpdm(*(word.replace("RUN", str(finished)) for word in arguments))
    assert status == 2
    assert "made to be shared" in err
    assert {file: file.read_bytes() for file in (finished / "release").iterdir()} == before


@pytest.mark.parametrize("command", ["run", "train", "sweep"])
@pytest.mark.parametrize("out", ["scans", "scans/run", None])
def test_a_run_is_not_made_inside_of_its_data(dpdm, tmp_path, monkeypatch, command, out):
    folder = tmp_path / "scans"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name / "0.png")
    monkeypatch.chdir(folder if out is None else tmp_path)
    where = ["--data", "." if out is None else "scans", *(["--out", out] if out else [])]
    vary = ["--vary", "prior.clusters=1,2"] if command == "sweep" else []
    status, _, err = dpdm(command, "own-prior", *where, *vary)
    assert status == 2
    assert "lies in the data" in err
    assert not [*tmp_path.glob("**/private")]


def test_a_ledger_whose_last_records_were_cut_off_is_not_called_whole(dpdm, finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "run")
    ledger = copy / "private" / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))
    status, out, err = dpdm("privacy", "ledger", str(copy))
    assert (status, out) == (1, "")
    assert "fewer uses of the data than the release states" in err


@pytest.mark.parametrize("name", ["x.jpg", "nowhere/file/x.npz"])
def test_sample_refuses_a_place_before_it_draws(dpdm, tmp_path, monkeypatch, name):
    monkeypatch.setattr("dpdm.release.model.Model.sample", lambda *_, **__: pytest.fail("drawn"))
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "file").write_text("mine")
    status, _, err = dpdm("sample", "zoo:mnist-eps0.2", "-n", "1", "--out", str(tmp_path / name))
    assert status in (1, 2)
    assert err.startswith("error:")


def test_plan_says_what_a_run_would_be_refused_for(dpdm, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    dpdm(
        "privacy", "open-ledger", str(ledger), "--dataset", "d", "--epsilon", "1", "--delta", "1e-4"
    )
    for path, says in ((ledger, "the budget is 1"), (tmp_path / "none.jsonl", "no such file")):
        status, out, err = dpdm("plan", "digits", *SMALL, "--set", f"privacy.ledger={path}")
        assert status != 0
        assert "promise" in out
        assert says in err
    status, _, err = dpdm("plan", "digits", *SMALL, "--set", "privacy.noise_seed=1")
    assert status == 0
    assert "NOT PRIVATE" in err


def test_images_that_are_left_out_are_named(dpdm, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):
        Image.fromarray(np.full((8, 8), 60 * index, np.uint8)).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no image")
    skipping = ["--data", str(folder), "--set", "data.on_error=skip", "training.steps=0"]
    _, _, err = dpdm("plan", "own-prior", *skipping)
    assert "left out of" in err
    assert "broken.png" in err


def test_check_warns_of_dark_images_and_of_classes_without_any(dpdm, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 15, np.uint8)).save(tmp_path / "images" / "cat" / "0.png")
    status, out, _ = dpdm("data", "check", str(tmp_path / "images"))
    assert status == 0
    assert "warning: no pixel is brighter than 15 of 255" in out
    assert "warning: no images of 'dog'" in out


def test_the_status_of_a_check_says_whether_the_data_can_be_trained_on(dpdm, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for side in (8, 9):
        Image.fromarray(np.full((side, side), 200, np.uint8)).save(folder / f"{side}.png")
    status, out, _ = dpdm("data", "check", folder)
    assert status == 1
    assert "not ready: " in out.splitlines()[-1]
    status, out, _ = dpdm("data", "check", folder, "--json")
    assert status == 1
    assert json.loads(out)["ready"] is False
    status, out, _ = dpdm("data", "check", folder, "--image-size", 8)
    assert status == 0
    assert out.splitlines()[-1] == "ready to train"


def test_a_check_of_many_sizes_and_problems_fits_a_screen(dpdm, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(60):
        shape = (20 + index, 20, 3) if index % 2 else (20 + index, 20)
        Image.fromarray(np.full(shape, 200, np.uint8)).save(folder / f"{index}.png")
        (folder / f"broken-{index}.png").write_bytes(b"")
    Image.fromarray(np.full((79, 20), 200, np.uint8)).save(folder / "again.png")
    status, out, _ = dpdm("data", "check", folder)
    assert status == 1
    assert "sizes seen: 79 x 20 (2), " in out
    assert "and 50 more (all with --json)" in out
    assert out.count("problem: ") == 11
    assert len(json.loads(dpdm("data", "check", folder, "--json")[1])["problems"]) == 60
    for broken in folder.glob("broken-*.png"):
        broken.unlink()
    _, out, _ = dpdm("data", "check", folder)
    assert "differ in channels, 31 with 1 channel and 30 with 3 channels, and in size" in out
    assert "set data.channels=1 (grey) or data.channels=3 (RGB), and data.image_size" in out


def test_a_damaged_test_split_is_not_called_absent(dpdm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for index in range(30):
                pixels = np.random.default_rng(index).integers(0, 255, (8, 8), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / name / f"{index}.png")
    arguments = ["run", "own-prior", "--data", "set", "--set", "sampling.count=4"]
    arguments += ["privacy.delta=1e-4", "evaluation.memorisation=false"]
    damaged = tmp_path / "set" / "test" / "cat" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    _, _, err = dpdm(*arguments, "--out", "damaged")
    assert "no test images: " in err
    assert "0.png" in err
    shutil.rmtree(tmp_path / "set" / "test")
    _, _, err = dpdm(*arguments, "--out", "absent")
    assert "no test images: " not in err
    assert "not evaluated: no labelled test images" in err
