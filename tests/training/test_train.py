"""What a training leaves on disk, what it spends, and that interruptions change neither."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import dpdm
from dpdm import pipeline
from dpdm.errors import DpdmError, RequestError
from dpdm.networks import load_weights
from dpdm.privacy import epsilon, read_ledger
from dpdm.promise.planning import poisson_sampled_gaussian
from dpdm.release.seal import check_release
from dpdm.training import run as run_module
from dpdm.training import trainer
from dpdm.training.folder import RunFolder, RunLock
from dpdm.training.interrupt import Interrupted
from dpdm.training.plan import make_plan
from dpdm.training.prior import fit_prior
from dpdm.training.run import train

FORK = multiprocessing.get_context("fork")


def weights(run_path: Path) -> dict[str, torch.Tensor]:
    return load_weights(run_path / "release" / "model.safetensors")[0]


def steps_in_ledger(path: Path) -> int:
    ledger = read_ledger(path / "private" / "ledger.jsonl")
    return sum(count for name, _, count in ledger.counted_events() if name == "DP-SGD step")


def interrupt_at(step: int):
    def callback(event) -> None:
        if event.record is not None and event.record.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return callback


def test_a_run_has_a_release_and_a_private_side(digits, small, tmp_path):
    run = train(digits, small(), tmp_path / "run")
    released = {path.name for path in run.release.iterdir()}
    assert released == {"model.safetensors", "model.yaml", "privacy.json", "PRIVACY.md"}
    private = {path.name for path in run.folder.private.iterdir()}
    assert {"config.yaml", "ledger.jsonl", "checkpoints", "metrics.jsonl"} <= private


def test_the_statement_holds_the_planned_promise_and_no_more(digits, small, tmp_path):
    statement = train(digits, small(), tmp_path / "run").statement()
    assert statement["private"] is True
    assert statement["delta"] == 1e-4
    assert 9.9 < statement["epsilon"] <= 10.0
    names = [use["name"] for use in statement["mechanisms"]]
    assert "DP-SGD step" in names
    assert "prior class means" in names


def test_max_steps_reports_the_epsilon_of_the_steps_that_ran(digits, small, tmp_path):
    config = small("training.max_steps=3", "prior.enabled=false")
    run = train(digits, config, tmp_path / "run")
    plan = make_plan(config, public_size=1437, classes=10, pixels=64)
    event = poisson_sampled_gaussian(64 / 1437, plan.noise_multiplier)
    assert run.statement()["epsilon"] == pytest.approx(epsilon([(event, 3)], 1e-4))
    assert run.statement()["epsilon"] < 10.0
    assert epsilon([(event, 6)], 1e-4) <= 10.0


def test_a_run_stopped_at_max_steps_goes_on_when_it_is_raised(digits, small, tmp_path):
    seeded = ("privacy.noise_seed=1",)
    train(digits, small("training.max_steps=3", *seeded), tmp_path / "run")
    train(digits, small(*seeded), tmp_path / "run", resume=True)
    train(digits, small(*seeded), tmp_path / "whole")
    assert steps_in_ledger(tmp_path / "run") == 6
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(digits, small, tmp_path, at):
    config = small("privacy.noise_seed=1", "network.dropout=0.2")
    train(digits, config, tmp_path / "whole")
    with pytest.raises(Interrupted, match="--resume"):
        train(digits, config, tmp_path / "run", callback=interrupt_at(at))
    train(digits, config, tmp_path / "run", resume=True)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=0, atol=0)
    assert steps_in_ledger(tmp_path / "run") == 6


def test_interrupted_warm_up_resumes_to_the_same_weights(digits, small, tmp_path):
    config = small(
        "privacy.noise_seed=1", "warmup.steps=6", "warmup.pool=100", "diffusion.base=skip"
    )
    train(digits, config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(digits, config, tmp_path / "run", callback=interrupt_at(3))
    train(digits, config, tmp_path / "run", resume=True)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=0, atol=0)


def test_a_release_of_an_interrupted_run_does_not_exist_yet(digits, small, tmp_path):
    with pytest.raises(Interrupted):
        train(digits, small(), tmp_path / "run", callback=interrupt_at(2))
    with pytest.raises(RequestError, match="--resume"):
        dpdm.load(tmp_path / "run")


def test_steps_that_are_done_again_are_counted_again_and_the_budget_still_holds(
    digits, small, tmp_path
):
    config = small()
    with pytest.raises(Interrupted):
        train(digits, config, tmp_path / "run", callback=interrupt_at(5))
    folder = RunFolder(tmp_path / "run")
    for checkpoint in sorted(folder.checkpoints.glob("1-*"))[1:]:
        checkpoint.unlink()  # as if the last one had not been written: four steps are done again
    train(digits, config, tmp_path / "run", resume=True)
    statement = json.loads((folder.release / "privacy.json").read_text())
    assert steps_in_ledger(tmp_path / "run") >= 6
    assert statement["epsilon"] <= 10.0
    assert folder.read_state()["budget_stop"] is True


def test_killed_in_the_middle_of_a_step_the_ledger_counts_every_step_begun(digits, small, tmp_path):
    """The child is killed by -9 without warning; what it had printed as begun must be counted."""
    run, config = tmp_path / "run", small("training.steps=12")
    metrics = run / "private" / "metrics.jsonl"

    def logged() -> int:
        return len(metrics.read_text().splitlines()) if metrics.is_file() else 0

    for resume in (False, True):
        before = logged()
        child = FORK.Process(target=train, args=(digits, config, run), kwargs={"resume": resume})
        child.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.is_alive() and logged() == before:
            time.sleep(0.01)
        time.sleep(0.05)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert logged() > before
    train(digits, config, run, resume=True)
    assert steps_in_ledger(run) >= logged()
    statement = json.loads((run / "release" / "privacy.json").read_text())
    assert statement["epsilon"] <= 10.0


def test_an_existing_run_is_refused_and_keeps_its_files(digits, small, tmp_path):
    train(digits, small(), tmp_path / "run")
    before = (tmp_path / "run" / "private" / "ledger.jsonl").read_bytes()
    with pytest.raises(RequestError, match="--resume"):
        train(digits, small(), tmp_path / "run")
    assert (tmp_path / "run" / "private" / "ledger.jsonl").read_bytes() == before


def test_force_moves_the_old_run_aside_with_its_ledger(digits, small, tmp_path):
    train(digits, small(), tmp_path / "run")
    train(digits, small(), tmp_path / "run", force=True)
    assert steps_in_ledger(tmp_path / "run.previous-1") == 6
    assert steps_in_ledger(tmp_path / "run") == 6


def test_resuming_a_finished_run_says_so_and_spends_nothing(digits, small, tmp_path):
    train(digits, small(), tmp_path / "run")
    messages = []
    train(digits, small(), tmp_path / "run", resume=True, callback=messages.append)
    assert "finished" in messages[-1].message
    assert steps_in_ledger(tmp_path / "run") == 6


def test_resuming_with_other_settings_is_refused_by_key(digits, small, tmp_path):
    with pytest.raises(Interrupted):
        train(digits, small(), tmp_path / "run", callback=interrupt_at(2))
    with pytest.raises(RequestError, match=r"privacy\.epsilon"):
        train(digits, small("privacy.epsilon=20"), tmp_path / "run", resume=True)


def test_resuming_with_other_data_is_refused(digits, small, tmp_path):
    with pytest.raises(Interrupted):
        train(digits, small(), tmp_path / "run", callback=interrupt_at(2))
    other = dpdm.open_dataset("digits", public_size=1000)
    with pytest.raises(RequestError, match="public_size 1437"):
        train(other, small(), tmp_path / "run", resume=True)


@pytest.mark.parametrize("how", [{}, {"force": True}, {"resume": True}])
def test_a_folder_of_other_files_is_left_alone(digits, small, tmp_path, how):
    (tmp_path / "mine" / "cats").mkdir(parents=True)
    (tmp_path / "mine" / "cats" / "1.png").write_text("mine")
    with pytest.raises(RequestError, match="other files"):
        train(digits, small(), tmp_path / "mine", **how)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["cats"]


def test_force_works_in_the_run_folder_itself(digits, small, tmp_path, monkeypatch):
    train(digits, small(), tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    run = train(digits, small(), ".", force=True)
    assert steps_in_ledger(tmp_path / "run.previous-1") == 6
    assert run.folder.path == tmp_path / "run"
    assert steps_in_ledger(tmp_path / "run") == 6


def test_a_line_of_metrics_that_a_kill_tore_costs_no_other(digits, small, tmp_path):
    run = train(digits, small(), tmp_path / "run")
    lines = run.folder.metrics.read_bytes().splitlines(keepends=True)
    run.folder.metrics.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    for line in lines[4:]:
        run.folder.append_metrics(json.loads(line))
    assert [record["step"] for record in run.folder.read_metrics()] == [1, 2, 3, 4, 5, 6]


def test_settings_that_do_not_fit_are_refused_before_a_folder_is_made(digits, small, tmp_path):
    for change, named in (
        ("training.batch_size=5000", "training.batch_size"),
        ("privacy.delta=0.001", "delta"),
        ("network.patch=3", "network.patch"),
        ("prior.share=1", "prior.share"),
    ):
        with pytest.raises(RequestError, match=named):
            train(digits, small(change), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_one_clear_error(digits, small, tmp_path):
    with pytest.raises(Interrupted):
        train(digits, small(), tmp_path / "run", callback=interrupt_at(2))
    folder = RunFolder(tmp_path / "run")
    for checkpoint in folder.checkpoints.glob("1-*"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    with pytest.raises(DpdmError, match="safetensors"):
        train(digits, small(), tmp_path / "run", resume=True)


def test_without_privacy_there_is_no_ledger_and_the_statement_says_so(digits, small, tmp_path):
    run = train(digits, small("privacy.enabled=false"), tmp_path / "run")
    assert not run.folder.ledger.exists()
    assert run.statement()["private"] is False
    assert run.statement()["epsilon"] is None
    assert "NOT PRIVATE" in (run.release / "PRIVACY.md").read_text().splitlines()[0]


def test_a_chosen_noise_seed_is_reproducible_and_not_private(digits, small, tmp_path):
    runs = [
        train(digits, small("privacy.noise_seed=3"), tmp_path / name) for name in ("one", "two")
    ]
    for name, value in weights(runs[0].path).items():
        torch.testing.assert_close(weights(runs[1].path)[name], value, rtol=0, atol=0)
    assert runs[0].statement()["private"] is False
    assert "NOT PRIVATE" in (runs[0].release / "PRIVACY.md").read_text().splitlines()[0]


def test_two_private_runs_differ(digits, small, tmp_path):
    runs = [train(digits, small(), tmp_path / name) for name in ("one", "two")]
    assert any(
        not torch.equal(value, weights(runs[1].path)[name])
        for name, value in weights(runs[0].path).items()
    )


def test_the_prior_alone_is_a_release(digits, small, tmp_path):
    run = train(digits, small("training.steps=0"), tmp_path / "run")
    assert run.statement()["epsilon"] == pytest.approx(10.0, rel=0.01)
    assert run.statement()["epsilon"] <= 10.0
    images, labels = run.model().sample(30, seed=0)
    assert images.shape == (30, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    by_diffusion, _ = run.model().sample(10, sampler="heun", steps=5, seed=0)
    assert by_diffusion.shape == (10, 8, 8, 1)


def test_what_only_a_sampler_reads_is_refused_where_there_is_none(digits, small, tmp_path):
    model = train(digits, small("training.steps=0"), tmp_path / "run").model()
    for option in ({"steps": 3}, {"guidance": 2.0}):
        with pytest.raises(RequestError, match="name a sampler"):
            model.sample(2, **option)
        model.sample(2, sampler="heun", **{"steps": 2, **option})
    for wrong in ({"count": 2.5}, {"count": 2, "seed": 1.5}, {"count": 2, "labels": [1.5]}):
        with pytest.raises(RequestError, match="whole number"):
            model.sample(**wrong)
    drawn, _ = model.sample(np.int64(2), seed=np.int64(3))
    np.testing.assert_array_equal(drawn, model.sample(2, seed=3)[0])


def test_unlabelled_images_train_and_sample(digits, small, tmp_path):
    unlabelled = dpdm.Dataset(
        name="mine",
        shape=digits.shape,
        classes=(),
        public_size=digits.public_size,
        public_size_declared=False,
        private_images=digits.private_images,
        private_labels=None,
        private_groups=None,
    )
    images, labels = train(unlabelled, small(), tmp_path / "run").model().sample(4, seed=0)
    assert images.shape == (4, 8, 8, 1)
    assert set(labels) == {-1}


def test_no_file_of_the_release_names_the_data(digits, small, tmp_path):
    config = small("data.spec=/secret/ward-7/scans")
    run = train(digits, config, tmp_path / "run")
    for path in run.release.iterdir():
        assert b"ward-7" not in path.read_bytes()


def test_the_release_does_not_hold_the_exact_size_unless_it_is_treated_as_public(
    digits, small, tmp_path
):
    declared = dpdm.open_dataset("digits", public_size=1400)
    run = train(declared, small(), tmp_path / "run")
    for path in run.release.iterdir():
        if path.suffix in (".yaml", ".json", ".md"):
            # As a number of its own: these digits may stand inside a hash or a longer number.
            assert not re.search(r"(?<![\w.])1,?437(?!\w)", path.read_text())
    statement = run.statement()
    assert any("1400" in line.replace(",", "") for line in statement["treated_as_public"])


def test_the_release_alone_samples_and_states_elsewhere(digits, small, tmp_path):
    run = train(digits, small(), tmp_path / "run")
    here = run.model().sample(8, seed=5)[0]
    shutil.copytree(run.release, tmp_path / "elsewhere" / "release")
    shutil.rmtree(run.path)
    model = dpdm.load(tmp_path / "elsewhere" / "release")
    np.testing.assert_array_equal(model.sample(8, seed=5)[0], here)
    assert model.statement["private"] is True


def test_the_released_config_is_one_that_trains(digits, small, tmp_path):
    run = train(digits, small(), tmp_path / "run")
    description = yaml.safe_load((run.release / "model.yaml").read_text())
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(description["config"]))
    again = dpdm.load_config(tmp_path / "again.yaml", ["training.max_steps=1"])
    train(digits, again, tmp_path / "again")


def test_labels_are_uniform_given_or_from_the_noised_histogram(digits, small, tmp_path):
    model = train(digits, small("training.steps=0"), tmp_path / "run").model()
    assert np.bincount(model.sample(100, seed=0)[1]).tolist() == [10] * 10
    assert set(model.sample(6, labels=[3, 4], seed=0)[1]) == {3, 4}
    drawn = model.sample(2000, labels="histogram", seed=0)[1]
    assert np.bincount(drawn, minlength=10).min() > 100
    with pytest.raises(RequestError, match="classes are 0 to 9"):
        model.sample(5, labels=[11])
    without = train(digits, small("prior.enabled=false"), tmp_path / "without").model()
    with pytest.raises(RequestError, match="no noised class histogram"):
        without.sample(5, labels="histogram")


def test_the_losses_of_the_log_fall_on_the_private_side_only(digits, small, tmp_path):
    run = train(digits, small(), tmp_path / "run")
    records = run.folder.read_metrics()
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(record["loss"]) for record in records)
    assert not any("loss" in path.name or "metrics" in path.name for path in run.release.iterdir())


def test_gradient_steps_that_would_be_noise_are_left_out_and_the_prior_has_the_budget(
    digits, small, tmp_path
):
    messages = []
    config = small("training.least_signal=1000")
    run = train(digits, config, tmp_path / "run", callback=messages.append)
    assert any("least_signal" in event.message for event in messages)
    assert "DP-SGD step" not in [use["name"] for use in run.statement()["mechanisms"]]
    assert run.statement()["epsilon"] == pytest.approx(10.0, rel=0.01)
    assert train(digits, config, tmp_path / "run", resume=True).path == run.path


def test_a_batch_is_lowered_to_what_its_largest_rate_allows_of_the_declared_size(
    digits, small, tmp_path
):
    messages = []
    config = small("training.batch_size=5000", "training.largest_rate=0.5", "training.steps=1")
    run = train(digits, config, tmp_path / "run", callback=messages.append)
    assert any("training.batch_size=718" in event.message for event in messages)
    step = next(use for use in run.statement()["mechanisms"] if use["name"] == "DP-SGD step")
    assert step["event"]["sample_rate"] == 718 / 1437
    assert train(digits, config, tmp_path / "run", resume=True).path == run.path


def test_labels_can_be_left_out(digits, small, tmp_path):
    run = train(digits, small("data.labels=false", "training.steps=0"), tmp_path / "run")
    assert run.model().classes == ()


def forget_everything_but_the_ledger(run_path: Path) -> None:
    """As if the machine had stopped while the prior was being fitted."""
    for part in ("release", "private/checkpoints"):
        shutil.rmtree(run_path / part)
        (run_path / part).mkdir()
    state = run_path / "private" / "state.json"
    state.write_text(json.dumps({"data": json.loads(state.read_text())["data"]}))


def test_a_prior_that_was_spent_and_lost_is_not_released_twice_beyond_the_budget(
    digits, small, tmp_path
):
    config = small("training.steps=0")
    train(digits, config, tmp_path / "run")
    before = (tmp_path / "run" / "private" / "ledger.jsonl").read_bytes()
    forget_everything_but_the_ledger(tmp_path / "run")
    with pytest.raises(DpdmError, match="would exceed epsilon 10"):
        train(digits, config, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "private" / "ledger.jsonl").read_bytes() == before


def test_a_prior_fitted_twice_leaves_fewer_steps_within_the_budget(digits, small, tmp_path):
    config = small("prior.share=0.3", "training.max_steps=0")
    train(digits, config, tmp_path / "run")
    forget_everything_but_the_ledger(tmp_path / "run")
    config = small("prior.share=0.3")
    statement = train(digits, config, tmp_path / "run", resume=True).statement()
    counts = {use["name"]: use["count"] for use in statement["mechanisms"]}
    assert counts["prior moments"] == 2
    assert counts.get("DP-SGD step", 0) < 6
    assert statement["epsilon"] <= 10.0


def test_no_labeller_is_trained_beyond_the_budget_after_a_histogram_was_spent_twice(
    digits, small, tmp_path, monkeypatch
):
    config = small(
        "privacy.epsilon=2",
        "prior.enabled=false",
        "diffusion.base=skip",
        "privacy.histogram_share=0.66",
        "labeller.enabled=true",
        "labeller.share=0.62",
        "training.steps=3",
    )

    def killed(path, *_):
        raise Interrupted(f"{path.name} was not written")

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "save_weights", killed)
        with pytest.raises(Interrupted, match="histogram"):
            train(digits, config, tmp_path / "run")
    with pytest.raises(DpdmError, match="would exceed epsilon 2"):
        train(digits, config, tmp_path / "run", resume=True)
    events = read_ledger(tmp_path / "run" / "private" / "ledger.jsonl").counted_events()
    assert [(name, count) for name, _, count in events] == [("class histogram", 2)]


def test_a_labeller_that_was_stopped_goes_on_within_the_budget(digits, small, tmp_path):
    config = small("labeller.enabled=true", "labeller.share=0.3", "training.checkpoint_every=1")

    def stop(event):
        if event.record is not None and event.record.phase == "labeller":
            raise Interrupted("now")

    with pytest.raises(Interrupted):
        train(digits, config, tmp_path / "run", callback=stop)
    statement = train(digits, config, tmp_path / "run", resume=True).statement()
    assert statement["epsilon"] <= 10.0
    assert {"labeller step", "DP-SGD step"} <= {use["name"] for use in statement["mechanisms"]}


@pytest.mark.parametrize("at", ["write_statement", "write_release_model", "seal_release"])
def test_a_release_that_was_killed_half_way_is_made_again_and_sealed(
    digits, small, tmp_path, monkeypatch, at
):
    """With samples of an earlier release of the run, of fewer steps, in its folder."""
    run = train(digits, small("training.max_steps=1"), tmp_path / "run")
    pipeline.sample_release(run)

    def killed(*_):
        raise Interrupted("now")

    with monkeypatch.context() as patched:
        patched.setattr(trainer, at, killed)
        with pytest.raises(Interrupted):
            train(digits, small(), tmp_path / "run", resume=True)
    again = train(digits, small(), tmp_path / "run", resume=True)
    assert again.folder.finished
    assert check_release(again.release).intact
    assert not (again.release / "samples.npz").exists()
    straight = train(digits, small(), tmp_path / "straight")
    assert again.statement()["mechanisms"] == straight.statement()["mechanisms"]


@pytest.mark.parametrize("private", ["true", "false"])
@pytest.mark.parametrize("how", ["resume", "force"])
def test_a_folder_in_which_another_process_trains_is_left_alone(
    digits, small, tmp_path, how, private
):
    config = small(f"privacy.enabled={private}")
    with pytest.raises(Interrupted):
        train(digits, config, tmp_path / "run", callback=interrupt_at(2))
    with RunLock(tmp_path / "run"), pytest.raises(RequestError, match="another process trains"):
        train(digits, config, tmp_path / "run", **{how: True})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert train(digits, config, tmp_path / "run", **{how: True}).folder.finished


def test_a_folder_stays_locked_while_a_run_goes_on_in_it(digits, small, tmp_path):
    refused = []

    def another(event) -> None:
        if event.record is not None and event.record.step == 2:
            with pytest.raises(RequestError, match="another process trains") as error:
                train(digits, small(), tmp_path / "run", force=True)
            refused.append(error)

    train(digits, small(), tmp_path / "run", callback=another)
    train(digits, small(), tmp_path / "run", force=True, callback=another)
    assert len(refused) == 2


def test_resume_and_force_together_are_refused(digits, small, tmp_path):
    with pytest.raises(RequestError, match="give one of the two"):
        train(digits, small(), tmp_path / "run", resume=True, force=True)


@pytest.mark.parametrize("steps", [0, 6])
def test_ctrl_c_while_statistics_are_released_stops_the_run(
    digits, small, tmp_path, monkeypatch, capfd, steps
):
    config = small(f"training.steps={steps}")

    def fit(*about):
        os.kill(os.getpid(), signal.SIGINT)
        return fit_prior(*about)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "fit_prior", fit)
        with pytest.raises(Interrupted, match="finished" if steps == 0 else "step 1 of 6"):
            train(digits, config, tmp_path / "run")
    assert "stopping once what is being done is saved" in capfd.readouterr().err
    assert train(digits, config, tmp_path / "run", resume=True).statement()["epsilon"] <= 10.0


def test_a_renewal_that_was_killed_before_the_seal_is_done_again(
    digits, small, tmp_path, monkeypatch
):
    train(digits, small(), tmp_path / "run")
    other = small("sampling.steps=4")

    def killed(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "seal_release", killed)
        with pytest.raises(OSError, match="no space"):
            train(digits, other, tmp_path / "run", resume=True)
    run = train(digits, other, tmp_path / "run", resume=True)
    assert check_release(run.release).intact
    pipeline.sample_release(run)


def test_settings_that_were_edited_do_not_make_a_seeded_run_private(digits, small, tmp_path):
    seeded = small("privacy.noise_seed=1")
    with pytest.raises(Interrupted):
        train(digits, seeded, tmp_path / "run", callback=interrupt_at(2))
    path = tmp_path / "run" / "private" / "config.yaml"
    path.write_text(path.read_text().replace("noise_seed: 1", "noise_seed: null"))
    with pytest.raises(RequestError, match=r"privacy\.noise_seed says otherwise now"):
        train(digits, small(), tmp_path / "run", resume=True)


def test_other_test_images_or_settings_are_another_evaluation(digits, small, tmp_path):
    test = dpdm.open_dataset("digits@test")
    settings = ("evaluation.stages=false", "evaluation.memorisation=false")
    run = train(digits, small(*settings), tmp_path / "run")
    pipeline.sample_release(run)
    assert not pipeline.is_evaluated(run, test)
    pipeline.evaluate_run(run, digits, test)
    assert pipeline.is_evaluated(run, test)
    others = replace(test, private_labels=(test.private_labels + 1) % 10)
    assert not pipeline.is_evaluated(run, others)
    more = train(digits, small(*settings, "evaluation.seeds=2"), tmp_path / "run", resume=True)
    assert not pipeline.is_evaluated(more, test)


def test_a_run_whose_ledger_is_lost_does_not_go_on(digits, small, tmp_path):
    with pytest.raises(Interrupted):
        train(digits, small(), tmp_path / "run", callback=interrupt_at(2))
    (tmp_path / "run" / "private" / "ledger.jsonl").unlink()
    with pytest.raises(DpdmError, match=r"ledger\.jsonl: missing"):
        train(digits, small(), tmp_path / "run", resume=True)


def test_a_run_whose_ledger_was_cut_short_does_not_go_on(digits, small, tmp_path):
    with pytest.raises(Interrupted):
        train(digits, small(), tmp_path / "run", callback=interrupt_at(4))
    ledger = tmp_path / "run" / "private" / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(DpdmError, match="does not contain the line it once ended with"):
        train(digits, small(), tmp_path / "run", resume=True)


def test_a_seeded_run_repeats_steps_that_the_ledger_already_holds(digits, small, tmp_path):
    config = small("privacy.noise_seed=1")
    train(digits, config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(digits, config, tmp_path / "run", callback=interrupt_at(6))
    checkpoints = sorted(RunFolder(tmp_path / "run").checkpoints.glob("1-*"))
    checkpoints[-1].unlink()  # as if it had not been written: the ledger is ahead of the weights
    train(digits, config, tmp_path / "run", resume=True)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=0, atol=0)
    assert steps_in_ledger(tmp_path / "run") == 6


def test_a_finished_run_takes_other_sampling_settings_and_draws_anew(digits, small, tmp_path):
    prior = small("training.steps=0", "sampling.count=40")
    run = train(digits, prior, tmp_path / "run")
    pipeline.sample_release(run)
    pipeline.keep_evaluation(run, {"accuracy": {"lr": 0.5}})
    weights = (run.release / "model.safetensors").read_bytes()
    same = train(digits, prior, tmp_path / "run", resume=True)
    assert (same.release / "samples.npz").is_file()
    assert pipeline.read_evaluation(same)
    other = small("training.steps=0", "sampling.count=60", "sampling.steps=7")
    again = train(digits, other, tmp_path / "run", resume=True)
    assert not (again.release / "samples.npz").exists()
    assert pipeline.read_evaluation(again) is None
    assert (again.folder.private / "evaluation-before.json").is_file()
    assert again.model().config.sampling.steps == 7
    pipeline.sample_release(again)
    assert len(pipeline.read_samples(again)[0]) == 60
    assert (again.release / "model.safetensors").read_bytes() == weights
    assert again.statement()["epsilon"] == run.statement()["epsilon"]
    assert check_release(again.release).intact


def test_a_run_does_not_go_on_with_other_images(digits, small, tmp_path):
    with pytest.raises(Interrupted):
        train(digits, small(), tmp_path / "run", callback=interrupt_at(2))
    images = np.array(digits.private_images)
    images[0] = 255 - images[0]
    other = replace(digits, private_images=images)
    with pytest.raises(RequestError, match="are not those that the run"):
        train(other, small(), tmp_path / "run", resume=True)
    assert train(digits, small(), tmp_path / "run", resume=True).folder.finished


def test_what_a_person_should_know_of_a_promise_is_said_before_it_is_made(digits, small, tmp_path):
    def said(data, *changes):
        events = []
        with pytest.raises(Interrupted):
            train(
                data,
                small(*changes),
                tmp_path / f"run{len(list(tmp_path.iterdir()))}",
                callback=lambda event: events.append(event) or interrupt_at(1)(event),
            )
        return " ".join(event.message for event in events if event.message)

    assert "the exact number of images, 1,437" in said(digits)
    declared = dpdm.open_dataset("digits", public_size=1400)
    assert "exact number" not in said(declared)
    assert "is declared, and" not in said(declared)
    typo = replace(digits, public_size=140, public_size_declared=True)
    assert "data.public_size=140 is declared, and there are 1,437 images" in said(typo)
    grouped = replace(digits, private_groups=np.arange(1437) // 3)
    assert "privacy.unit=group" in said(grouped)
