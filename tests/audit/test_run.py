"""An audit of a whole training: what it reports, the faults it finds, and its command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dpdm.audit import AuditResult, Family, run_audit, stand_in
from dpdm.audit.bounds import one_run_epsilon
from dpdm.audit.canaries import image_canaries, with_images
from dpdm.cli import main
from dpdm.config import Config, load_config
from dpdm.data import Dataset, open_dataset
from dpdm.diffusion.objective import denoising_loss
from dpdm.errors import RequestError
from dpdm.privacy import SystemNoise
from dpdm.release.build import build_denoiser
from dpdm.training.loop import _MeanGradients

SMALL = [
    "training.batch_size=64",
    "training.steps=3",
    "training.microbatch=64",
    "training.least_signal=0",
    "views.count=1",
    "network.base_channels=8",
    "network.multipliers=[1]",
]


def small(*changes: str) -> Config:
    return load_config("digits", [*SMALL, *changes])


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_a_sound_training_passes_with_a_bound_below_its_claim_and_well_above_zero(digits):
    result = run_audit(small(), digits, canaries=300, seed=0)
    assert result.faults == ()
    assert 1.0 < result.epsilon_lower_bound < result.epsilon_claimed <= 10
    assert [family.kind for family in result.canaries] == [
        "gradient-space",
        "random",
        "blank",
        "mislabelled",
    ]
    names = " ".join(check.name for check in result.checks)
    for mechanism in ("moments", "class means", "pooled scatter", "class scatter", "DP-SGD step"):
        assert mechanism in names


def test_pilots_and_votes_are_attacked_as_every_statistic_is(digits):
    config = small("training.steps=0", "prior.normalise=auto", "privacy.epsilon=60")
    result = run_audit(config, digits, canaries=100, seed=0)
    assert result.faults == ()
    assert result.epsilon_lower_bound < result.epsilon_claimed <= 60
    names = " ".join(check.name for check in result.checks)
    for mechanism in ("pilot (affine) poses", "pilot (none) moments", "votes for a kind of image"):
        assert f"{mechanism}: noise as claimed" in names
        assert f"{mechanism}: one unit moves the release no further" in names


def test_the_steps_of_a_labeller_are_attacked_beside_those_of_the_network(digits):
    labeller = ("labeller.enabled=true", "labeller.epochs=3", "labeller.batch_size=1024")
    result = run_audit(small(*labeller), digits, canaries=60, seed=0)
    assert result.faults == ()
    names = [check.name for check in result.checks]
    for mechanism in ("labeller step", "DP-SGD step"):
        assert f"{mechanism}: noise as claimed" in names
        assert f"{mechanism}: each step has a sample of its own" in names


def test_a_training_that_warms_up_is_attacked_as_one_that_does_not(digits):
    warmup = ("warmup.steps=2", "warmup.pool=64", "warmup.batch_size=32")
    result = run_audit(small(*warmup), digits, canaries=60, seed=0)
    assert result.faults == ()
    assert any("DP-SGD step" in check.name for check in result.checks)


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_mean_gradient_is_zero_where_none_is_required(in_parts):
    """In parts as on a GPU; the audit's entry requires no gradient."""
    denoiser = build_denoiser(small(), (1, 8, 8), 0, None, torch.Generator().manual_seed(0))
    parameters = dict(denoiser.network.named_parameters())
    denoiser.network.register_parameter(
        "audit_canaries", torch.nn.Parameter(torch.ones(3), requires_grad=False)
    )
    mean_gradients = _MeanGradients(denoiser, denoiser.network)
    if in_parts:
        mean_gradients._together = partial(mean_gradients._in_parts, 2)
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 8, 1, 8, 8, generator=generator)
    sigma = torch.rand(8, generator=generator) + 0.1
    loss, found = mean_gradients(x, sigma, noise, None)
    assert set(found) == {*parameters, "audit_canaries"}
    assert not found["audit_canaries"].any()
    mean = denoising_loss(denoiser, x, sigma, noise, None).mean()
    torch.testing.assert_close(loss, mean.detach())
    expected = torch.autograd.grad(mean, list(parameters.values()), materialize_grads=True)
    for name, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], gradient)


def verdict(*families: Family) -> AuditResult:
    bound = families[0].epsilon_lower_bound
    return AuditResult(bound, 0.1, 1e-5, 0.95, (), families, (), 1.0)


def test_of_several_families_each_is_judged_at_a_level_that_holds_for_all_together():
    """15 of 20 right: a bound of 0.17 at 95 %, of none at 98.75 %."""
    lucky = Family("random", 100, 50, 20, 15, one_run_epsilon(100, 20, 15, 1e-5, 0.95))
    others = [Family(kind, 100, 50, 20, 10, 0.0) for kind in ("gradient-space", "blank", "grey")]
    assert lucky.epsilon_lower_bound > 0.1
    assert verdict(*others, lucky).faults == ()
    assert len(verdict(lucky).faults) == 1
    [fault] = verdict(*others, replace(lucky, correct=19)).faults
    assert fault.startswith("random canaries show an epsilon above")


def test_what_is_written_of_an_audit_holds_its_faults():
    found = Family("random", 100, 50, 20, 19, 1.3)
    result = verdict(Family("gradient-space", 100, 50, 20, 10, 0.0), found)
    assert result.to_json()["faults"] == list(result.faults) != []


def test_canaries_of_several_runs_count_together(digits):
    result = run_audit(small("training.steps=0"), digits, canaries=100, runs=2, seed=0)
    assert result.canaries[0].count == 200
    assert result.epsilon_claimed <= 10


def test_a_training_with_half_the_noise_is_found_out(digits, monkeypatch):
    whole = SystemNoise.gaussian
    monkeypatch.setattr(
        SystemNoise, "gaussian", lambda self, shape, *, key: 0.5 * whole(self, shape, key=key)
    )
    result = run_audit(small("training.steps=0"), digits, canaries=100, seed=0)
    assert any("noise as claimed" in fault for fault in result.faults)


def test_a_group_is_a_unit_like_any_other(digits):
    grouped = Dataset(
        name="persons",
        shape=digits.shape,
        classes=digits.classes,
        public_size=400,
        public_size_declared=True,
        private_images=digits.private_images[:1200],
        private_labels=digits.private_labels[:1200],
        private_groups=np.arange(1200) // 3,
    )
    result = run_audit(small("privacy.unit=group"), grouped, canaries=100, seed=0)
    assert result.faults == ()


def test_what_cannot_be_audited_is_refused(digits):
    with pytest.raises(RequestError, match="claims nothing"):
        run_audit(small("privacy.enabled=false"), digits)
    with pytest.raises(RequestError, match="10"):
        run_audit(small(), digits, canaries=3)
    with pytest.raises(RequestError, match="give --data"):
        stand_in(small(), "elsewhere")


def test_image_canaries_are_in_the_data_exactly_where_the_coin_said_so(digits):
    families = image_canaries(digits, 20, np.random.default_rng(0))
    data = with_images(digits, families)
    added = data.private_images[digits.private_count :]
    expected = [family.images[family.included] for family in families]
    np.testing.assert_array_equal(added, np.concatenate(expected))
    assert data.public_size == digits.public_size
    blank = next(family for family in families if family.kind == "blank")
    assert (blank.images == blank.images[:, :1, :1, :1]).all()


def test_a_mislabelled_canary_has_another_label_than_its_image(digits):
    families = image_canaries(digits, 50, np.random.default_rng(0))
    wrong = next(family for family in families if family.kind == "mislabelled")
    true = {
        image.tobytes(): label
        for image, label in zip(digits.private_images, digits.private_labels, strict=True)
    }
    labels = np.array([true[image.tobytes()] for image in wrong.images])
    assert (labels != wrong.labels).all()


def test_other_presets_are_audited_on_random_images_of_their_shape_and_number():
    data = stand_in(load_config("cifar10-eps10"), "cifar10")
    assert (data.shape, data.private_count, len(data.classes)) == ((32, 32, 3), 50_000, 10)


def test_a_preset_without_data_is_audited_on_images_as_its_settings_say():
    with pytest.raises(RequestError, match=r"data\.image_size=28 .*or give --data"):
        stand_in(load_config("own"), None)
    like = ["data.image_size=28", "data.channels=1", "data.public_size=300"]
    data = stand_in(load_config("own", like), None)
    assert (data.shape, data.private_count, data.public_size) == ((28, 28, 1), 300, 300)
    assert len(data.classes) == 2


def test_where_groups_are_the_unit_random_images_have_groups():
    config = load_config("cifar10-eps10", ["privacy.unit=group"])
    data = stand_in(config, "cifar10")
    assert np.bincount(data.private_groups).tolist() == [4] * 12_500
    assert data.facts("group").public_size == 12_500
    like = ["data.image_size=8", "data.channels=1", "data.public_size=300"]
    group = [*like, "privacy.unit=group", "training.steps=0", "privacy.epsilon=10"]
    config = load_config("own", group)
    data = stand_in(config, None)
    assert (data.private_count, data.private_units("group"), data.public_size) == (1200, 300, 300)
    assert run_audit(config, data, canaries=20, seed=0).faults == ()


def test_the_command_prints_one_json_object_and_writes_the_same(tmp_path: Path, capsys):
    file = tmp_path / "audit.json"
    settings = [part for change in SMALL for part in ("--set", change)]
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "privacy",
                "audit",
                "digits",
                *settings,
                "--canaries",
                "100",
                "--json",
                "--out",
                str(file),
            ]
        )
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(file.read_text())
    assert set(printed) == {
        "epsilon_lower_bound",
        "epsilon_claimed",
        "delta",
        "confidence",
        "access",
        "canaries",
        "checks",
        "faults",
        "seconds",
    }


def test_the_command_ends_with_one_line_and_status_1_where_the_claim_is_contradicted(capsys):
    """A seed that someone chose: the noise can be drawn again."""
    settings = [part for change in [*SMALL, "privacy.noise_seed=1"] for part in ("--set", change)]
    with pytest.raises(SystemExit) as ended:
        main(["privacy", "audit", "digits", *settings, "--canaries", "100"])
    assert ended.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: the audit contradicts the claim: check failed: noise cannot")
