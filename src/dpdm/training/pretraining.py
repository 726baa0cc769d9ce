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
from torch import Tensor

from dpdm import __version__
from dpdm.config import Config
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.images import to_model_space
from dpdm.errors import DpdmError, RequestError
from dpdm.networks import load_into, load_weights, save_weights
from dpdm.release import autocast_dtype, build_denoiser
from dpdm.release.files import read_json, write_text
from dpdm.training.checkpoint import (
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from dpdm.training.draws import keyed_generator
from dpdm.training.interrupt import InterruptFlag
from dpdm.training.loop import falling, plain_training, saved_steps

PROCEDURAL = "procedural"
_KEY = "pretrained"
_CLASSES = "class_embedding."
_EMA_DECAY = 0.999
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
    steps: int = 12_000
    batch_size: int = 256
    learning_rate: float = 3e-3
    seed: int = 0
    save_every: int = 500


def pretrain(
    images: npt.NDArray[np.uint8],
    config: Config,
    how: Pretraining,
    out: Path,
    progress: Callable[[int, int, float], None],
) -> None:
    """Trains the network of ``config`` on public images and writes its weights to the file ``out``.

    What was done so far lies in the folder ``OUT.partial``; a call with the same settings goes on
    there. The network knows no classes: a run adds an embedding of its own, of zeros.

    Args:
        images: (N, H, W, C), treated as public.
        config: ``network`` and ``diffusion`` are used, and ``training.precision``.
        how: the settings of the training.
        out: the file.
        progress: told (step, steps, mean loss of the last steps) after every step.

    Raises:
        RequestError: the base is the prior; another pretraining lies in ``OUT.partial``.
        Interrupted: Ctrl-C; the state is saved.
    """
    if config.diffusion.base == "prior":
        raise RequestError("pretraining: diffusion.base=prior needs a prior; use base=skip")
    shape = (images.shape[3], images.shape[1], images.shape[2])
    about = _description(config, how, shape)
    folder = out.with_name(out.name + ".partial")
    known = read_json(folder / "about.json")
    if known is not None and known != about:
        raise RequestError(
            f"{folder}: holds a pretraining with other settings; delete it, or give another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "about.json", json.dumps(about))
    state = _train(images, config, how, shape, folder, progress)
    save_weights(out, state.ema.tensors, {_KEY: json.dumps(about)})
    shutil.rmtree(folder)


def _train(
    images: npt.NDArray[np.uint8],
    config: Config,
    how: Pretraining,
    shape: tuple[int, int, int],
    folder: Path,
    progress: Callable[[int, int, float], None],
) -> TrainingState:
    # A network is built for whoever takes a step; without a prior its base is c_skip x.
    one_step = config.training.model_copy(update={"steps": 1})
    settings = config.model_copy(update={"training": one_step})
    generator = keyed_generator(how.seed, "initial weights")
    denoiser = build_denoiser(settings, shape, 0, None, generator)
    assert isinstance(denoiser, Denoiser)
    denoiser.precision = autocast_dtype(config.training.precision, torch.device("cpu"))
    state = TrainingState.begin(denoiser.network, "pretraining", _EMA_DECAY)
    if checkpoints := list_checkpoints(folder):
        load_checkpoint(checkpoints[-1], state)
    pool = torch.from_numpy(images)

    def draw(generator: torch.Generator) -> tuple[Tensor, None]:
        chosen = torch.randint(len(pool), (how.batch_size,), generator=generator)
        return to_model_space(pool[chosen]), None

    def rate(step: int) -> float:
        return how.learning_rate * falling(step, how.steps) * min(1.0, (step + 1) / _RAMP)

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


def _description(config: Config, how: Pretraining, shape: tuple[int, int, int]) -> dict[str, Any]:
    network = config.network.model_dump(mode="json")
    return {
        "source": how.source,
        "channels": shape[0],
        "image_size": list(shape[1:]),
        "network": {key: network[key] for key in _SHAPE_SETTINGS},
        "config": config.diffusion.config,
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
    path = _shipped(channels) if init == PROCEDURAL else Path(init)
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


def _shipped(channels: int) -> Path:
    path = resources.files("dpdm.networks") / f"procedural-{channels}.safetensors"
    if not path.is_file():
        raise RequestError(
            f"network.init={PROCEDURAL}: there are shipped weights for grey (1) and RGB (3) "
            f"images, not for {channels} channels; make some with `dpdm pretrain`"
        )
    return Path(str(path))


def _check_fit(init: str, about: dict[str, Any], config: Config, channels: int) -> None:
    network = config.network.model_dump(mode="json")
    wanted = {f"network.{key}": network[key] for key in _SHAPE_SETTINGS}
    wanted |= {"diffusion.config": config.diffusion.config, "data.channels": channels}
    made = {f"network.{key}": value for key, value in about["network"].items()}
    made |= {"diffusion.config": about["config"], "data.channels": about["channels"]}
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
