"""First weights from public images: made by ``dpdm pretrain``, given to a run by ``network.init``.

A network that already knows edges, strokes and surfaces has less to learn from noised gradients.
Nothing private is read; the statement names the public images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpdm import __version__
from dpdm.config import Config
from dpdm.data.paths import user_path
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.images import to_model_space
from dpdm.diffusion.mixture import Mixture
from dpdm.errors import DpdmError, RequestError
from dpdm.networks import half_cosine, load_into, load_weights, save_weights
from dpdm.privacy import PrivateUnits, Session, SystemNoise
from dpdm.release.build import build_denoiser
from dpdm.release.files import read_json, write_text
from dpdm.release.precision import autocast_dtype, place
from dpdm.training.checkpoint import (
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from dpdm.training.draws import keyed_generator
from dpdm.training.interrupt import InterruptFlag
from dpdm.training.loop import plain_training, random_rows, saved_steps
from dpdm.training.plan import prior_design
from dpdm.training.prior import fit_prior

PROCEDURAL = "procedural"
_KEY = "pretrained"
_CLASSES = "class_embedding."
_EMA_DECAY = 0.999
_CLUSTERS, _IMAGES_A_CLUSTER, _COARSE = 30, 200, 14
"""Public images without classes: the most clusters, the fewest images of one on average, and the
resolution at which they are alike."""

_AT_A_TIME = 1024
"""Images made coarse together: all of them as numbers would be gigabytes."""

_RAMP = 100
"""Steps over which the learning rate rises, before a cosine takes it down to 0."""

_SHAPE_SETTINGS = (
    "base_channels",
    "multipliers",
    "blocks",
    "attention",
    "patch",
    "noise_frequencies",
)


@dataclass(frozen=True)
class Pretraining:
    """How a network is pretrained.

    Attributes:
        source: the public images, in words or by name; the statement gives it.
        steps: of Adam.
        batch_size: images a step.
        learning_rate: at its highest.
        seed: of weights and batches.
        save_every: steps between checkpoints.
    """

    source: str
    steps: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    save_every: int = 500


def pretrain(
    images: npt.NDArray[np.uint8],
    config: Config,
    how: Pretraining,
    out: Path,
    progress: Callable[[int, int, float], None],
    device: torch.device | str = "cpu",
) -> None:
    """Trains the network of ``config`` on public images and writes its weights to the file ``out``.

    What was done so far lies in the folder ``OUT.partial``; a call with the same settings goes on
    there. The network knows no classes: a run adds an embedding of its own, of zeros. Where it will
    be informed by a prior, it learns to be by one of the public images, whose clusters stand for
    classes.

    Args:
        images: (N, H, W, C), treated as public.
        config: ``network``, ``diffusion`` and ``prior`` are used, and ``training.precision``.
        how: the settings of the training.
        out: the file.
        progress: told (step, steps, mean loss of the last steps) after every step.
        device: where to train.

    Raises:
        RequestError: the base is the prior; another pretraining lies in ``OUT.partial``.
        Interrupted: Ctrl-C; the state is saved.
    """
    if config.base == "prior":
        raise RequestError(
            f"pretraining: diffusion.base={config.diffusion.base} has no use for it; use skip, or "
            "informed"
        )
    shape = (images.shape[3], images.shape[1], images.shape[2])
    about = _description(config, how, images.shape)
    folder = out.with_name(out.name + ".partial")
    known = read_json(folder / "about.json")
    if known is not None and known != about:
        raise RequestError(
            f"{folder}: holds a pretraining with other settings; delete it, or give another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "about.json", json.dumps(about))
    state = _train(images, config, how, shape, folder, progress, torch.device(device))
    save_weights(out, state.ema.tensors, {_KEY: json.dumps(about)})
    shutil.rmtree(folder)


def _train(
    images: npt.NDArray[np.uint8],
    config: Config,
    how: Pretraining,
    shape: tuple[int, int, int],
    folder: Path,
    progress: Callable[[int, int, float], None],
    device: torch.device,
) -> TrainingState:
    # A network is built for whoever takes a step.
    settings = config.with_settings("training", steps=1)
    generator = keyed_generator(how.seed, "initial weights")
    clusters, mixture = None, None
    if config.base == "informed":
        clusters, mixture = _public_prior(images, config, how.seed)
    denoiser = build_denoiser(settings, shape, 0, mixture, generator)
    assert isinstance(denoiser, Denoiser)
    place(denoiser, device)
    denoiser.precision = autocast_dtype(config.training.precision, device)
    state = TrainingState.begin(denoiser.network, "pretraining", _EMA_DECAY)
    denoiser.network = _ClassBlind(denoiser.network)
    if checkpoints := list_checkpoints(folder):
        load_checkpoint(checkpoints[-1], state)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        chosen = random_rows(len(images), how.batch_size, generator).cpu()
        theirs = None if clusters is None else clusters[chosen].to(device)
        return to_model_space(images[chosen.numpy()], device), theirs

    def rate(step: int) -> float:
        return how.learning_rate * half_cosine(step, how.steps) * min(1.0, (step + 1) / _RAMP)

    def save() -> None:
        save_checkpoint(folder, state, "")

    loss, afterwards = 0.0, f"saved in {folder}: the same command goes on"
    with InterruptFlag() as interrupt:
        records = plain_training(denoiser, draw, rate, state, how.steps, how.seed)
        steps = (how.steps, save, how.save_every, interrupt, afterwards)
        for record in saved_steps(records, *steps):
            loss = record.loss if not loss else 0.98 * loss + 0.02 * record.loss
            progress(record.step, how.steps, loss)
    return state


class _ClassBlind(nn.Module):
    """A network that is told of no class: a base alone is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        found: Tensor = self.network(inputs, c_noise, None)
        return found


def _public_prior(
    images: npt.NDArray[np.uint8], config: Config, seed: int
) -> tuple[Tensor, Mixture]:
    """Each public image's cluster (N,), and a prior with the clusters as classes.

    Fitted as a run fits its own, without noise.
    """
    count, height, width, channels = images.shape
    coarse = torch.cat(
        [
            functional.adaptive_avg_pool2d(
                to_model_space(images[first : first + _AT_A_TIME]), min(_COARSE, height, width)
            )
            for first in range(0, count, _AT_A_TIME)
        ]
    ).flatten(1)
    from sklearn.cluster import MiniBatchKMeans  # takes a second, and most trainings do not need it

    classes = max(1, min(_CLUSTERS, count // _IMAGES_A_CLUSTER))
    search = MiniBatchKMeans(classes, n_init=1, random_state=seed)
    labels = search.fit_predict(coarse.numpy()).astype(np.int64)
    public = config.with_settings("privacy", enabled=False)
    if config.prior.normalise == "auto":  # the clusters are no classes to choose by
        public = public.with_settings("prior", normalise="none")
    design = prior_design(public, count, classes, height * width * channels, [])
    assert design is not None
    mixture = fit_prior(
        PrivateUnits(images, labels),
        (channels, height, width),
        classes,
        design,
        Session(None, SystemNoise()),
        seed,
        config.prior.augment,
        config.prior.detail,
    )
    return torch.from_numpy(labels), mixture


def _description(config: Config, how: Pretraining, shape: tuple[int, ...]) -> dict[str, Any]:
    count, height, width, channels = shape
    network, informed = config.network.model_dump(mode="json"), config.base == "informed"
    return {
        "source": how.source,
        "images": count,
        "channels": channels,
        "image_size": [height, width],
        "network": {key: network[key] for key in _SHAPE_SETTINGS},
        "config": config.diffusion.config,
        "base": config.base,
        "prior": config.prior.model_dump(mode="json") if informed else None,
        "sigma_range": config.diffusion.model_dump(mode="json")["sigma_range"],
        "steps": how.steps,
        "batch_size": how.batch_size,
        "learning_rate": how.learning_rate,
        "seed": how.seed,
        "software": f"dpdm {__version__}",
    }


@dataclass(frozen=True)
class FirstWeights:
    """Pretrained weights by name, the public images they come from, and what named them."""

    tensors: dict[str, Tensor]
    source: str
    init: str


def first_weights(config: Config, channels: int) -> FirstWeights | None:
    """What ``network.init`` names; None where it is unset.

    Raises:
        RequestError: no such file, one of other making, or one for other settings or channels.
        DpdmError: the file is damaged.
    """
    init = config.network.init
    if init is None:
        return None
    path = _shipped(channels, config) if init == PROCEDURAL else user_path(init)
    if not path.is_file():
        raise RequestError(
            f"network.init={init}: no such file; use {PROCEDURAL}, or a file that `dpdm pretrain` "
            "wrote"
        )
    tensors, metadata = load_weights(path)
    try:
        about: dict[str, Any] = json.loads(metadata[_KEY])
    except (KeyError, ValueError):
        raise RequestError(
            f"network.init={init}: not written by `dpdm pretrain`; it must say what it was "
            "pretrained on"
        ) from None
    _check_fit(init, about, config, channels)
    return FirstWeights(tensors, str(about["source"]), init)


def _shipped(channels: int, config: Config) -> Path:
    """Of the network's width, or else of the small network: what does not fit is then named."""
    base, folder = config.base, resources.files("dpdm.networks")
    name = f"procedural-{channels}{'-informed' if base == 'informed' else ''}"
    path = folder / f"{name}-{config.network.base_channels}.safetensors"
    if not path.is_file():
        path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise RequestError(
            f"network.init={PROCEDURAL}: no weights are shipped for images of {channels} channels "
            f"and diffusion.base={base}; make some with `dpdm pretrain`, or set network.init=null, "
            "or data.channels=1 or 3"
        )
    return Path(str(path))


def _check_fit(init: str, about: dict[str, Any], config: Config, channels: int) -> None:
    network = config.network.model_dump(mode="json")
    wanted = {f"network.{key}": network[key] for key in _SHAPE_SETTINGS}
    wanted |= {"diffusion.config": config.diffusion.config, "diffusion.base": config.base}
    wanted |= {"data.channels": channels}
    made = {f"network.{key}": value for key, value in about["network"].items()}
    made |= {"diffusion.config": about["config"], "diffusion.base": about["base"]}
    made |= {"data.channels": about["channels"]}
    for key, value in wanted.items():
        if made.get(key) != value:
            raise RequestError(
                f"network.init={init}: was made with {key}={made.get(key)}, and this run has "
                f"{value}; use its setting, or make weights with `dpdm pretrain`"
            )


def begin_from(denoiser: Denoiser, first: FirstWeights) -> None:
    """Puts pretrained weights into a fresh network; its class embedding begins at zero.

    Raises:
        RequestError: the weights do not fit the network.
    """
    own = denoiser.network.state_dict()
    zeros = {
        name: torch.zeros_like(value) for name, value in own.items() if name.startswith(_CLASSES)
    }
    try:
        load_into(denoiser.network, {**first.tensors, **zeros}, source=f"network.init={first.init}")
    except DpdmError as error:
        raise RequestError(str(error)) from None
