"""Training a downstream classifier: on synthetic images only, and chosen by nothing else.

``lr``: logistic regression on pixels; ``mlp`` and ``cnn``: ``networks.py``; ``resnet`` and ``wrn``:
``residual.py``. The epoch of a network is chosen on a held-out tenth of the synthetic
images. Nothing here ever chooses by a real image: an onlooker's images are only looked at.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dpdm.evaluation.classifiers.networks import ConvolutionalClassifier, perceptron
from dpdm.evaluation.classifiers.residual import FAMILIES, ResidualClassifier
from dpdm.networks import Adam, half_cosine

ClassifierName = Literal["lr", "mlp", "cnn", "resnet", "wrn"]
CLASSIFIER_NAMES: tuple[ClassifierName, ...] = ("lr", "mlp", "cnn")
"""The paper's, trained where no others are asked for."""
AVAILABLE_CLASSIFIERS: tuple[ClassifierName, ...] = (*CLASSIFIER_NAMES, "resnet", "wrn")

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
EpochCallback = Callable[[int, int], None]
"""Called with (epochs done, epochs planned); early stopping jumps to the last."""

MINIMUM_IMAGES = 10
"""Fewer synthetic images than this leave nothing to hold out."""

_PREDICT_BATCH = 1000


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam with cosine decay to zero over at most ``epochs``.

    Training ends early after ``patience`` epochs without a better held-out accuracy (ties: loss).
    """

    batch_size: int
    epochs: int
    patience: int
    learning_rate: float = 1e-3
    held_out: float = 0.1


def recipe(name: ClassifierName, images: int) -> Recipe:
    """The recipe for ``images`` synthetic images: small sets get smaller batches and more epochs.

    The number of epochs falls with the square root of the size, so that the number of gradient
    steps still grows with it: 8 epochs of the CNN at 60,000 images, 20 at 10,000, 30 at 4,000 and
    below.
    """
    batch_size = int(min(128, max(16, 2 ** round(math.log2(max(images, 1) / 20)))))
    most, scale = (100, 5000.0) if name == "mlp" else (30, 2000.0)
    epochs = int(min(most, max(8, round(scale / math.sqrt(max(images, 1))))))
    return Recipe(batch_size=batch_size, epochs=epochs, patience=max(5, epochs // 4))


@dataclass(frozen=True)
class LinearModel:
    """A fitted logistic regression on pixels in [0, 1]: ``classes`` (K,) are those that occurred,
    ``weights`` (K, d) and ``intercepts`` (K,); a single row for two classes, none for one."""

    classes: Labels
    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    def predict(self, images: Images) -> Labels:
        """Class numbers int64 (N,) for uint8 (N, H, W, C)."""
        if not len(self.weights):
            return np.full(len(images), self.classes[0], np.int64)
        scores = _flat(images) @ self.weights.T.astype(np.float32) + self.intercepts
        best = scores[:, 0] > 0 if len(self.weights) == 1 else scores.argmax(1)
        return self.classes[best.astype(np.int64)]


@dataclass(frozen=True)
class TrainedClassifier:
    """A chosen model. ``predict`` maps uint8 (N, H, W, C) to class numbers int64 (N,)."""

    name: ClassifierName
    model: nn.Module | LinearModel
    """For ``lr`` a linear model, else the network at the chosen epoch."""
    held_out_accuracy: float | None
    """Accuracy on the held-out synthetic images at the chosen epoch; None for ``lr``, which has
    no epoch to choose and trains on all of them."""
    epochs: int
    """Epochs of training that the chosen model has seen; 0 for ``lr``."""
    looked_at: tuple[float, ...] = ()
    """Accuracy on the onlooker's images after every epoch; nothing was chosen by it."""

    @property
    def module(self) -> nn.Module | None:
        """The network; None for ``lr``."""
        return None if isinstance(self.model, LinearModel) else self.model

    def predict(self, images: Images) -> Labels:
        """Class numbers int64 (N,) for uint8 (N, H, W, C)."""
        if isinstance(self.model, LinearModel):
            return self.model.predict(images)
        return predict(self.model, images)


def train_classifier(
    name: ClassifierName,
    images: Images,
    labels: Labels,
    classes: int,
    *,
    seed: int = 0,
    on_epoch: EpochCallback | None = None,
    onlooker: tuple[Images, Labels] | None = None,
) -> TrainedClassifier:
    """Train one classifier on synthetic images.

    images: uint8 (N, H, W, C), any size, N >= ``MINIMUM_IMAGES``; labels: int64 (N,) in
    0..classes-1, where a class may be missing. The result depends on the arguments alone: the
    global random state is neither read nor changed. ``lr`` is deterministic and ignores the seed.
    onlooker: images and labels on which every epoch's accuracy is written down beside; all epochs
    are then run, and the choice is the same as without.
    """
    if name == "lr":
        model = _logistic_regression(images, labels)
        if on_epoch is not None:
            on_epoch(1, 1)
        looked = [] if onlooker is None else [_share(model.predict(onlooker[0]), onlooker[1])]
        return TrainedClassifier("lr", model, None, 0, tuple(looked))
    generator = torch.Generator().manual_seed(seed)
    module = build_network(name, images.shape[1:], classes, generator)
    look = None
    if onlooker is not None:
        real, truth = onlooker
        look = lambda: _share(predict(module, real), truth)  # noqa: E731
    pixels = _pixels(images), torch.from_numpy(labels.astype(np.int64))
    best, seen = _fit(module, *pixels, recipe(name, len(images)), generator, on_epoch, look)
    module.load_state_dict(best.state)
    return TrainedClassifier(name, module, best.accuracy, best.epoch, seen)


def build_network(
    name: ClassifierName, shape: tuple[int, ...], classes: int, generator: torch.Generator
) -> nn.Module:
    """A network with fresh weights for images of ``shape`` (H, W, C)."""
    height, width, channels = shape
    if name == "mlp":
        return perceptron(channels * height * width, classes, generator)
    if name == "cnn":
        return ConvolutionalClassifier(channels, (height, width), classes, generator)
    return ResidualClassifier(FAMILIES[name], channels, (height, width), classes, generator)


def _flat(images: Images) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _logistic_regression(images: Images, labels: Labels) -> LinearModel:
    present = np.unique(labels)
    if len(present) == 1:  # scikit-learn refuses a single class; the answer is that class
        return LinearModel(present, np.empty((0, images[0].size)), np.empty(0))
    # Takes a second to import, and many commands train no classifier.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=200)
    with warnings.catch_warnings():
        # 200 iterations end short of the optimum on large sets, where the accuracy is long settled.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_flat(images), labels)
    return LinearModel(present, model.coef_.astype(np.float64), model.intercept_.astype(np.float64))


def _share(predicted: Labels, labels: Labels) -> float:
    return float((predicted == labels).mean())


class _Best(NamedTuple):
    accuracy: float
    loss: float
    epoch: int
    state: dict[str, Tensor]


def _fit(
    module: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    plan: Recipe,
    generator: torch.Generator,
    on_epoch: EpochCallback | None,
    look: Callable[[], float] | None = None,
) -> tuple[_Best, tuple[float, ...]]:
    """Train; the epoch that is best on the held-out synthetic images, and what ``look`` saw."""
    order = torch.randperm(len(labels), generator=generator)
    held_out = order[: max(1, round(plan.held_out * len(labels)))]
    train = order[len(held_out) :]
    optimiser, step = Adam(module, fused=True), 0
    steps = plan.epochs * math.ceil(len(train) / plan.batch_size)
    best, seen, chosen = _Best(-1.0, math.inf, 0, {}), list[float](), False
    for epoch in range(1, plan.epochs + 1):
        module.train()
        shuffled = train[torch.randperm(len(train), generator=generator)]
        for batch in torch.split(shuffled, plan.batch_size):
            module.zero_grad()
            loss = functional.cross_entropy(module(scaled(pixels[batch])), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
            optimiser.step(gradients, plan.learning_rate * half_cosine(step, steps))
            step += 1
        logits = _logits(module, pixels[held_out])
        accuracy = float((logits.argmax(1) == labels[held_out]).float().mean())
        held_out_loss = float(functional.cross_entropy(logits, labels[held_out]))
        if not chosen and (accuracy, -held_out_loss) > (best.accuracy, -best.loss):
            state = {key: value.clone() for key, value in module.state_dict().items()}
            best = _Best(accuracy, held_out_loss, epoch, state)
        chosen = chosen or epoch - best.epoch >= plan.patience
        if look is not None:
            seen.append(look())
        stop = chosen and look is None
        if on_epoch is not None:
            on_epoch(plan.epochs if stop else epoch, plan.epochs)
        if stop:
            break
    return best, tuple(seen)


def _pixels(images: Images) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def network_input(images: Images) -> Tensor:
    """What the networks are given: uint8 (N, H, W, C) as (N, C, H, W) in [-1, 1]."""
    return scaled(_pixels(images))


def scaled(pixels: Tensor) -> Tensor:
    """uint8 pixels in [-1, 1], float32."""
    return pixels.to(torch.float32) / 127.5 - 1


def predict(module: nn.Module, images: Images) -> Labels:
    """Class numbers int64 (N,) that a network gives uint8 (N, H, W, C)."""
    return _logits(module, _pixels(images)).argmax(1).numpy().astype(np.int64)


@torch.no_grad()
def _logits(module: nn.Module, pixels: Tensor) -> Tensor:
    module.eval()
    return torch.cat([module(scaled(part)) for part in torch.split(pixels, _PREDICT_BATCH)])
