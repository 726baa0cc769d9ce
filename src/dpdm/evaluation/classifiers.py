"""The three downstream classifiers of the DPDM paper (arXiv 2210.09929), on synthetic images only.

``lr``: logistic regression on pixels. ``mlp``: pixels, 100, classes, with ReLU. ``cnn``:
convolutions of 32, 64 and 128 channels and size 3, each with max-pool and ReLU; dropout 0.5;
dense 128.
The epoch of ``mlp`` and ``cnn`` is chosen on a held-out tenth of the synthetic images. Nothing here
ever sees a real image before the choice is made, so nothing here can choose by one.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

ClassifierName = Literal["lr", "mlp", "cnn"]
CLASSIFIER_NAMES: tuple[ClassifierName, ...] = ("lr", "mlp", "cnn")

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
EpochCallback = Callable[[int, int], None]
"""Called with (epochs done, epochs planned); early stopping jumps to the last."""

MINIMUM_IMAGES = 10
"""Fewer synthetic images than this leave nothing to hold out."""

_PREDICT_BATCH = 1000

_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


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
class TrainedClassifier:
    """A chosen model. ``predict`` maps uint8 (N, H, W, C) to class numbers int64 (N,)."""

    name: ClassifierName
    predict: Callable[[Images], Labels]
    held_out_accuracy: float | None
    """Accuracy on the held-out synthetic images at the chosen epoch; None for ``lr``, which has
    no epoch to choose and trains on all of them."""
    epochs: int
    """Epochs of training that the chosen model has seen; 0 for ``lr``."""
    module: nn.Module | None = None
    """The network at the chosen epoch; None for ``lr``."""


def train_classifier(
    name: ClassifierName,
    images: Images,
    labels: Labels,
    classes: int,
    *,
    seed: int = 0,
    on_epoch: EpochCallback | None = None,
) -> TrainedClassifier:
    """Train one classifier on synthetic images.

    images: uint8 (N, H, W, C), any size, N >= ``MINIMUM_IMAGES``; labels: int64 (N,) in
    0..classes-1, where a class may be missing. The result depends on the arguments alone: the
    global random state is neither read nor changed. ``lr`` is deterministic and ignores the seed.
    """
    if name == "lr":
        trained = _train_logistic_regression(images, labels)
        if on_epoch is not None:
            on_epoch(1, 1)
        return trained
    generator = torch.Generator().manual_seed(seed)
    height, width, channels = images.shape[1:]
    module: nn.Module
    if name == "mlp":
        module = _mlp(channels * height * width, classes, generator)
    else:
        module = ConvolutionalClassifier(channels, (height, width), classes, generator)
    best = _fit(
        module,
        _pixels(images),
        torch.from_numpy(labels.astype(np.int64)),
        recipe(name, len(images)),
        generator,
        on_epoch,
    )
    module.load_state_dict(best.state)

    def predict(test_images: Images) -> Labels:
        return _logits(module, _pixels(test_images)).argmax(1).numpy().astype(np.int64)

    return TrainedClassifier(name, predict, best.accuracy, best.epoch, module)


def _train_logistic_regression(images: Images, labels: Labels) -> TrainedClassifier:
    def flat(values: Images) -> NDArray[np.float32]:
        return values.reshape(len(values), -1).astype(np.float32) / np.float32(255)

    present = np.unique(labels)
    if len(present) == 1:  # scikit-learn refuses a single class; the answer is that class
        only = int(present[0])
        return TrainedClassifier("lr", lambda x: np.full(len(x), only, np.int64), None, 0)
    model = LogisticRegression(max_iter=200)
    with warnings.catch_warnings():
        # 200 iterations end short of the optimum on large sets, where the accuracy is long settled.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(flat(images), labels)
    return TrainedClassifier(
        "lr", lambda x: np.asarray(model.predict(flat(x)), dtype=np.int64), None, 0
    )


class _SeededDropout(nn.Module):
    """Dropout that draws from its own generator, where ``nn.Dropout`` draws from the global one."""

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.rate = rate
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.rate
        return x * torch.empty_like(x).bernoulli_(keep, generator=self.generator) / keep


def _initialised(module: _Layer, generator: torch.Generator) -> _Layer:
    """He initialisation from the given generator; the module must come without memory (meta)."""
    module.to_empty(device="cpu")
    nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    return _initialised(nn.Linear(inputs, outputs, device="meta"), generator)


def _mlp(pixels: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        _linear(pixels, 100, generator),
        nn.ReLU(),
        _linear(100, classes, generator),
    )


class ConvolutionalClassifier(nn.Module):
    """The paper's CNN for any image size: (N, C, H, W) in [-1, 1] -> (N, classes) logits.

    Convolutions are padded by one, so that they keep the size. Max-pooling halves it after each of
    the three as long as both sides are at least 4: 28x28 ends at 3x3 and 8x8 at 2x2. What is larger
    than 8x8 after the third (images above 71 pixels) is averaged to 8x8, so that the
    dense layer does not grow with the image.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, width = size
        for inputs, outputs in ((channels, 32), (32, 64), (64, 128)):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, device="meta")
            layers.append(_initialised(convolution, generator))
            if min(height, width) >= 4:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            layers.append(nn.ReLU())
        if height > 8 or width > 8:
            height, width = min(height, 8), min(width, 8)
            layers.append(nn.AdaptiveAvgPool2d((height, width)))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            _SeededDropout(0.5, generator),
            _linear(128 * height * width, 128, generator),
            nn.ReLU(),
            _linear(128, classes, generator),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.4x on a CPU

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.features(x))
        return logits


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
) -> _Best:
    """Train and return the epoch that is best on the held-out synthetic images."""
    order = torch.randperm(len(labels), generator=generator)
    held_out = order[: max(1, round(plan.held_out * len(labels)))]
    train = order[len(held_out) :]
    optimizer = torch.optim.Adam(module.parameters(), lr=plan.learning_rate, fused=True)
    steps = plan.epochs * math.ceil(len(train) / plan.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best = _Best(-1.0, math.inf, 0, {})
    for epoch in range(1, plan.epochs + 1):
        module.train()
        shuffled = train[torch.randperm(len(train), generator=generator)]
        for batch in torch.split(shuffled, plan.batch_size):
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(_scaled(pixels[batch])), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        logits = _logits(module, pixels[held_out])
        accuracy = float((logits.argmax(1) == labels[held_out]).float().mean())
        held_out_loss = float(functional.cross_entropy(logits, labels[held_out]))
        if (accuracy, -held_out_loss) > (best.accuracy, -best.loss):
            state = {key: value.clone() for key, value in module.state_dict().items()}
            best = _Best(accuracy, held_out_loss, epoch, state)
        stop = epoch - best.epoch >= plan.patience
        if on_epoch is not None:
            on_epoch(plan.epochs if stop else epoch, plan.epochs)
        if stop:
            break
    return best


def _pixels(images: Images) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def network_input(images: Images) -> Tensor:
    """What ``mlp`` and ``cnn`` are given: uint8 (N, H, W, C) as (N, C, H, W) in [-1, 1]."""
    return _scaled(_pixels(images))


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32) / 127.5 - 1


@torch.no_grad()
def _logits(module: nn.Module, pixels: Tensor) -> Tensor:
    module.eval()
    return torch.cat([module(_scaled(part)) for part in torch.split(pixels, _PREDICT_BATCH)])
