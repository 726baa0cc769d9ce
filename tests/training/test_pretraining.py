"""Networks pretrained on public images: made, begun from, named in the statement."""

from __future__ import annotations

import json
import os
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from dpdm.data.procedural import procedural_images
from dpdm.diffusion.denoiser import BaseDenoiser, InformedBase, PriorBase
from dpdm.diffusion.images import to_uint8
from dpdm.errors import RequestError
from dpdm.networks import load_weights, save_weights
from dpdm.pipeline import stage_models
from dpdm.training.interrupt import Interrupted
from dpdm.training.pretraining import Pretraining, first_weights, pretrain
from dpdm.training.run import train
from dpdm.training.trainer import build_for

SKIP = ("diffusion.base=skip", "network.attention=[]")
HOW = Pretraining("made by code", steps=6, batch_size=8, learning_rate=3e-3, save_every=2)


@pytest.fixture
def images() -> np.ndarray:
    return procedural_images(50, 8, 8, 1, 0)


@pytest.fixture
def pretrained(images, small, tmp_path):
    path = tmp_path / "first.safetensors"
    pretrain(images, small(*SKIP), HOW, path, lambda *_: None)
    return path


def test_a_run_begins_with_the_weights_and_knows_no_class_yet(pretrained, digits, small):
    config = small(*SKIP, f"network.init={pretrained}")
    denoiser = build_for(config, digits.facts("image"), None, first_weights(config, 1))
    weights = load_weights(pretrained)[0]
    own = denoiser.network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    assert not own["class_embedding.weight"].any()
    x, sigma = torch.randn(4, 1, 8, 8), torch.full((4,), 0.3)
    labels = torch.tensor([-1, 0, 5, 9])
    assert torch.equal(denoiser(x, sigma, labels), denoiser(x, sigma, None))


def test_it_learns(images, small, tmp_path):
    losses = []
    how = Pretraining("made by code", steps=150, batch_size=32, learning_rate=3e-3)
    note = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    pretrain(images, small(*SKIP), how, tmp_path / "first.safetensors", note)
    assert losses[-1] < 0.8 * losses[0]


def test_an_interrupted_one_goes_on_to_the_same_weights(images, pretrained, small, tmp_path):
    def stop(step: int, steps: int, loss: float) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "second.safetensors"
    with pytest.raises(Interrupted, match="the same command goes on"):
        pretrain(images, small(*SKIP), HOW, path, stop)
    assert not path.exists()
    with pytest.raises(RequestError, match="other settings"):
        pretrain(images, small(*SKIP), replace(HOW, steps=9), path, stop)
    pretrain(images, small(*SKIP), HOW, path, lambda *_: None)
    first, second = load_weights(pretrained)[0], load_weights(path)[0]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not path.with_name("second.safetensors.partial").exists()


def test_the_statement_names_what_it_was_pretrained_on(pretrained, digits, small, tmp_path):
    run = train(digits, small(*SKIP, f"network.init={pretrained}"), tmp_path / "run")
    known = run.statement()["treated_as_public"]
    assert "What the network was pretrained on: made by code." in known
    assert str(tmp_path) not in (run.release / "model.yaml").read_text()
    run.model().sample(2)
    plain = train(digits, small(*SKIP), tmp_path / "plain")
    assert not any("pretrained" in line for line in plain.statement()["treated_as_public"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("network.base_channels=12", "network.base_channels=8, and this run has 12"),
        ("network.patch=2", "network.patch=1"),
        ("network.noise_frequencies=[1.0, 0.1]", "network.noise_frequencies"),
        ("diffusion.config=v", "diffusion.config=edm, and this run has v"),
        ("diffusion.base=informed", "diffusion.base=skip, and this run has informed"),
    ],
)
def test_weights_for_other_settings_are_refused_before_anything_is_spent(
    pretrained, digits, small, tmp_path, change, message
):
    config = small(*SKIP, f"network.init={pretrained}", change)
    with pytest.raises(RequestError, match=message):
        train(digits, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_base_that_pretraining_does_not_have_is_refused(small):
    for base in ("auto", "prior"):
        with pytest.raises(RequestError, match=r"set diffusion\.base=informed or skip"):
            small("network.init=procedural", f"diffusion.base={base}")


def test_pretraining_for_a_base_that_takes_none_is_refused(images, small, tmp_path):
    with pytest.raises(RequestError, match="use skip, or informed"):
        pretrain(images, small(), HOW, tmp_path / "first.safetensors", lambda *_: None)


def test_without_a_prior_the_base_that_auto_stands_for_is_pretrained(images, small, tmp_path):
    config = small("prior.enabled=false", "network.attention=[]")
    path = tmp_path / "first.safetensors"
    pretrain(images, config, HOW, path, lambda *_: None)
    begun = config.model_copy(
        update={"network": config.network.model_copy(update={"init": str(path)})}
    )
    assert first_weights(begun, 1) is not None


@pytest.mark.parametrize("base", ["skip", "informed"])
def test_read_only_public_images_give_no_warning(base, images, small, tmp_path):
    images.flags.writeable = False  # as those of a data set are
    config = small(f"diffusion.base={base}", "network.attention=[]")
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pretrain(images, config, HOW, tmp_path / "first.safetensors", lambda *_: None)
    finally:
        torch.set_warn_always(False)


def test_an_informed_network_learns_from_a_prior_of_public_images(images, digits, small, tmp_path):
    informed = small("diffusion.base=informed", "network.attention=[]")
    losses, path = [], tmp_path / "first.safetensors"
    many = procedural_images(600, 8, 8, 1, 0)
    how = Pretraining("made by code", steps=60, batch_size=32, learning_rate=3e-3)
    note = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    pretrain(many, informed, how, path, note)
    assert losses[-1] < losses[0]

    run = train(
        digits,
        informed.model_copy(
            update={"network": informed.network.model_copy(update={"init": str(path)})}
        ),
        tmp_path / "run",
    )
    model = run.model()
    assert isinstance(model.denoiser.base, InformedBase)
    assert model.denoiser.network.stem.weight.shape[1] == 2
    images, _ = model.sample(20, seed=0)
    assert images.std() > 10


@pytest.mark.parametrize("base", ["skip", "informed"])
def test_the_stage_of_the_prior_alone_is_drawn_from_the_prior(base, digits, small, tmp_path):
    settings = (f"diffusion.base={base}", "network.attention=[]")
    path, many = tmp_path / "first.safetensors", procedural_images(600, 8, 8, 1, 0)
    pretrain(many, small(*settings), HOW, path, lambda *_: None)
    run = train(digits, small(*settings, f"network.init={path}"), tmp_path / "run")
    first, before, *_ = stage_models(run)
    assert (first.name, before.name) == ("Prior alone", "Pretrained")
    assert isinstance(first.model.denoiser, BaseDenoiser)
    assert isinstance(first.model.denoiser.base, PriorBase)
    images, labels = first.model.sample(20, seed=0)
    drawn = run.model().mixture.sample(torch.from_numpy(labels), torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(images, to_uint8(drawn))


def test_what_an_informed_network_learns_does_not_depend_on_an_interruption(small, tmp_path):
    informed = small("diffusion.base=informed", "network.attention=[]")
    many = procedural_images(600, 8, 8, 1, 0)

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    pretrain(many, informed, HOW, first, lambda *_: None)
    with pytest.raises(Interrupted):
        pretrain(many, informed, HOW, second, stop)
    pretrain(many, informed, HOW, second, lambda *_: None)
    ours, theirs = load_weights(first)[0], load_weights(second)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_pretrained_network_is_released_without_gradient_steps(
    pretrained, digits, small, tmp_path
):
    config = small(
        *SKIP,
        f"network.init={pretrained}",
        "training.steps=0",
        "sampling.sampler=heun",
        "sampling.start=prior",
        "sampling.sigma_max=0.5",
        "sampling.sigma_min=0.05",
    )
    run = train(digits, config, tmp_path / "run")
    assert all("step" not in use["name"] for use in run.statement()["mechanisms"])
    released = load_weights(run.release / "model.safetensors")[0]
    for name, value in load_weights(pretrained)[0].items():
        assert torch.equal(released[f"network.{name}"], value)
    images, labels = run.model().sample(20, seed=0)
    assert images.std() > 10
    assert labels.tolist() == [i % 10 for i in range(20)]


def test_files_of_other_making_are_refused(digits, small, tmp_path):
    other = tmp_path / "other.safetensors"
    save_weights(other, {"x": torch.zeros(1)}, {"pretrained": "no JSON"})
    for path, message in ((other, "must say what"), (tmp_path / "none", "no such file")):
        config = small(*SKIP, f"network.init={path}")
        with pytest.raises(RequestError, match=message):
            first_weights(config, 1)


def test_the_file_says_how_it_was_made(pretrained):
    about = json.loads(load_weights(pretrained)[1]["pretrained"])
    assert about["source"] == "made by code"
    assert about["steps"] == 6
    assert about["channels"] == 1
