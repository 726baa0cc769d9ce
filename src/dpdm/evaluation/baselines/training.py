"""DP-SGD on the real images for a classifier: the same mechanism as of a diffusion model.

One image is one view, and a unit's gradient is that of the mean loss over its images. What the
optimiser sees is the noised mean gradient and nothing else of the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpdm.errors import DpdmError
from dpdm.evaluation.baselines.factors import factored_gradients
from dpdm.evaluation.baselines.recipe import DpRecipe
from dpdm.evaluation.classifiers.networks import ConvolutionalClassifier, linear, perceptron
from dpdm.evaluation.classifiers.training import ClassifierName, scaled
from dpdm.networks import half_cosine, load_into, load_weights, save_weights
from dpdm.privacy import DpSgdStep, PrivateUnits, Session, validate
from dpdm.privacy.gradients import PerUnit


def private_network(
    name: ClassifierName, shape: tuple[int, int, int], classes: int, seed: int
) -> nn.Module:
    """The paper's classifier as it is trained with DP-SGD, for images of ``shape`` (H, W, C).

    The layers are those of ``classifiers/networks.py`` but for the CNN's dropout, which is left
    out: noise and clipping regularise more than enough (one run on held-out training digits at
    epsilon 10: 89.9% with it, 91.6% without). Initial weights are public: they follow from the
    seed, and those of ``lr`` are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width, channels = shape
    pixels = height * width * channels
    network: nn.Module
    if name == "lr":
        only = linear(pixels, classes, generator)
        nn.init.zeros_(only.weight)
        network = nn.Sequential(nn.Flatten(), only)
    elif name == "mlp":
        network = perceptron(pixels, classes, generator)
    else:
        size = (height, width)
        network = ConvolutionalClassifier(channels, size, classes, generator, nn.Identity())
    return network


def losses(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (N,) of images (N, C, H, W) in [-1, 1] with labels (N,)."""
    return functional.cross_entropy(network(images), labels, reduction="none")


@dataclass
class TrainingState:
    """What a step changes: weights, momentum, and how many steps they have seen."""

    network: nn.Module
    optimiser: torch.optim.SGD
    step: int = 0

    @classmethod
    def fresh(cls, network: nn.Module, recipe: DpRecipe) -> TrainingState:
        """Before the first step."""
        return cls(network, torch.optim.SGD(network.parameters(), 1.0, recipe.momentum))

    def save(self, path: Path, ledger_head: str) -> None:
        """Writes the state; ``ledger_head`` is the hash of the ledger's last record."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            tensors[f"momentum.{name}"] = self.optimiser.state[parameter]["momentum_buffer"]
        about = {"step": self.step, "ledger_head": ledger_head}
        save_weights(path, tensors, {"state": json.dumps(about)})

    def load(self, path: Path) -> str:
        """Reads what :meth:`save` wrote, and returns the hash.

        Raises DpdmError where the file is damaged or of another network.
        """
        tensors, metadata = load_weights(path)
        try:
            about = json.loads(metadata["state"])
            step, head = int(about["step"]), str(about["ledger_head"])
        except (KeyError, ValueError):
            raise DpdmError(f"{path}: not a state of this version of dpdm") from None
        weights = {n.removeprefix("network."): t for n, t in tensors.items() if n[0] == "n"}
        load_into(self.network, weights, source=str(path))
        for name, parameter in self.network.named_parameters():
            self.optimiser.state[parameter]["momentum_buffer"] = tensors[f"momentum.{name}"]
        self.step = step
        return head


def dp_sgd(
    state: TrainingState, units: PrivateUnits, recipe: DpRecipe, session: Session
) -> Iterator[int]:
    """Steps until the ledger holds as many as the noise was solved for; yields how many are done.

    ``units`` holds uint8 images (N, C, H, W) and labels (N,) as tensors. The learning rate is half
    a cosine down to 0.
    """
    ledger, network = session.ledger, state.network
    assert ledger is not None
    mechanism = DpSgdStep(
        sample_rate=recipe.sample_rate,
        noise_multiplier=recipe.noise_multiplier,
        max_grad_norm=recipe.max_grad_norm,
        expected_units=recipe.expected_units,
        microbatch=recipe.microbatch,
        images_per_unit=recipe.images_per_unit,
    )

    def unit_gradients(images: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, PerUnit]]:
        inputs = (scaled(images), labels)
        return factored_gradients(network, losses, inputs, recipe.images_per_unit)

    parameters = {name: value.detach() for name, value in network.named_parameters()}
    while ledger.count(mechanism.event) < recipe.steps:
        network.train()
        noised, _ = mechanism.release(units, unit_gradients, parameters, session, state.step)
        for name, parameter in network.named_parameters():
            parameter.grad = noised[name].to(parameter.dtype)
        rate = recipe.learning_rate * half_cosine(state.step, recipe.steps)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.step()
        state.step += 1
        yield state.step


def check_network(network: nn.Module, shape: tuple[int, int, int]) -> None:
    """Two random images, nothing private: none may influence the other's loss or gradient."""
    height, width, channels = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, channels, height, width), generator=generator) * 2 - 1
    validate(network, losses, (images, torch.zeros(2, dtype=torch.int64)))
