"""A training that is attacked: canaries in its data, an attacker at its releases, a verdict."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpdm.audit.attack import AuditSession, Witness, correct_guesses
from dpdm.audit.bounds import one_run_epsilon
from dpdm.audit.canaries import (
    ENTRY,
    Array,
    Canaries,
    CanaryUnits,
    Chosen,
    ImageCanaries,
    image_canaries,
    with_images,
)
from dpdm.audit.checks import Check, all_checks
from dpdm.config import Config
from dpdm.data import Dataset
from dpdm.data.catalogue import NAMED
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.images import to_model_space
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.views import draw_views
from dpdm.errors import RequestError
from dpdm.networks import Labeller
from dpdm.privacy import Ledger
from dpdm.promise.wording import at_least, at_most
from dpdm.release.build import build_denoiser, diffusion_of
from dpdm.release.precision import resolve_device
from dpdm.training.draws import keyed_generator
from dpdm.training.events import Callback
from dpdm.training.folder import open_run_folder
from dpdm.training.interrupt import InterruptFlag
from dpdm.training.plan import settle
from dpdm.training.run import noise_source, seal
from dpdm.training.trainer import Trainer

WHITE_BOX = "gradient-space"

_BLANKS = 256
_IMAGES_PER_CANARY = 0.1
_BLACK_BOX_GUESSES = 0.2
_BLACK_BOX_VIEWS = 16
_IMAGES_PER_GROUP = 4

ACCESS = (
    "every value that left a mechanism: noised statistics and the noised gradient of every step",
    "all settings, the mechanisms' noise multipliers and clip norms, and the sample rate",
    "the directions of the gradient-space canaries, and every real image",
    "not: the noise, who was sampled in a step, and which canaries were in the data",
    "for canaries that are images: only the trained model's loss on them",
)


@dataclass(frozen=True)
class Family:
    """What one kind of canary showed.

    Attributes:
        kind: ``gradient-space``, ``random``, ``blank`` or ``mislabelled``.
        count: canaries.
        included: how many of them were in the data.
        guesses: how many the attacker guessed; fixed before he looked.
        correct: how many guesses were right.
        epsilon_lower_bound: what they refute at the audit's confidence.
    """

    kind: str
    count: int
    included: int
    guesses: int
    correct: int
    epsilon_lower_bound: float

    def bound(self, delta: float, confidence: float) -> float:
        """What the guesses refute at another confidence."""
        return one_run_epsilon(self.count, self.guesses, self.correct, delta, confidence)


@dataclass(frozen=True)
class AuditResult:
    """An audit's verdict.

    Attributes:
        epsilon_lower_bound: of the gradient-space canaries, the family chosen beforehand; true
            with probability ``confidence`` or more.
        epsilon_claimed: by the ledger of the audited run.
        delta: at which both hold.
        confidence: of each family's bound on its own.
        access: what the attack saw, in sentences.
        canaries: one entry for each family.
        checks: with what was seen.
        seconds: of the whole audit.
    """

    epsilon_lower_bound: float
    epsilon_claimed: float
    delta: float
    confidence: float
    access: tuple[str, ...]
    canaries: tuple[Family, ...]
    checks: tuple[Check, ...]
    seconds: float

    @property
    def faults(self) -> tuple[str, ...]:
        """What contradicts the claim, a sentence each; none is a pass.

        Any family may, so that each is judged at 1 - (1 - ``confidence``) / families: where the
        claim is true, none contradicts it with probability ``confidence`` or more.
        """
        level = 1 - (1 - self.confidence) / max(1, len(self.canaries))
        bounds = [(family.kind, family.bound(self.delta, level)) for family in self.canaries]
        found = [
            f"{kind} canaries show an epsilon above {at_least(bound)}, "
            f"but {at_most(self.epsilon_claimed)} is claimed"
            for kind, bound in bounds
            if bound > self.epsilon_claimed
        ]
        failed = (check for check in self.checks if not check.passed)
        return (*found, *(f"check failed: {check.name} ({check.seen})" for check in failed))

    def to_json(self) -> dict[str, Any]:
        """Plain values, the ``faults`` among them."""
        return asdict(self) | {"faults": list(self.faults)}


def run_audit(
    config: Config,
    dataset: Dataset,
    *,
    canaries: int = 1000,
    confidence: float = 0.95,
    seed: int | None = None,
    runs: int = 1,
    device: str = "auto",
    progress: Callback | None = None,
) -> AuditResult:
    """Trains for real with canaries in the data, attacks what is released, and bounds epsilon.

    The run has a folder and a ledger of its own, both deleted. The result is computed with
    knowledge of the data: on private data it is private.

    Args:
        config: the settings whose claim is audited.
        dataset: data to train on; the claim is about any data.
        canaries: gradient-space canaries m; a tenth as many of each kind of image.
        confidence: with which each bound holds on its own; with which all do together, for the
            verdict (:attr:`AuditResult.faults`).
        seed: of the canaries; the noise is that of the configuration.
        runs: trainings, each with canaries of its own. They count as one mechanism on all their
            canaries, since each canary touches one of them.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: told how the trainings go on.

    Raises:
        RequestError: settings that make no promise or do not fit the data; too few canaries.
        DpdmError: a mechanism that the audit cannot attack.
    """
    started = time.perf_counter()
    if not config.privacy.enabled:
        raise RequestError("privacy.enabled=false claims nothing; there is nothing to audit")
    if canaries < 10 or runs < 1 or not 0 < confidence < 1:
        raise RequestError(
            f"{canaries} canaries, {runs} runs, confidence {confidence:g}: an audit needs 10 "
            "canaries, one run, and a confidence between 0 and 1"
        )
    if not config.data.labels:
        dataset = dataset.without_labels()
    entropy = np.random.SeedSequence(seed).spawn(runs)
    done = [
        _audited_run(
            config, dataset, canaries, confidence, np.random.default_rng(e), device, progress
        )
        for e in entropy
    ]
    families = tuple(
        _family(kind, [run.guesses[kind] for run in done], config.privacy.delta, confidence)
        for kind in done[0].guesses
    )
    return AuditResult(
        epsilon_lower_bound=families[0].epsilon_lower_bound,
        epsilon_claimed=max(run.epsilon for run in done),
        delta=config.privacy.delta,
        confidence=confidence,
        access=ACCESS,
        canaries=families,
        checks=tuple(check for run in done for check in run.checks),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class Guessed:
    """Scores (m,) of a family, who was included (m,), and how many may be guessed."""

    scores: Array
    included: Chosen
    guesses: int


@dataclass(frozen=True)
class _Done:
    guesses: dict[str, Guessed]
    checks: list[Check]
    epsilon: float


def _family(kind: str, parts: list[Guessed], delta: float, confidence: float) -> Family:
    scores = np.concatenate([part.scores for part in parts])
    included = np.concatenate([part.included for part in parts])
    guesses = sum(part.guesses for part in parts)
    correct = correct_guesses(scores, included, guesses)
    bound = one_run_epsilon(len(scores), guesses, correct, delta, confidence)
    return Family(kind, len(scores), int(included.sum()), guesses, correct, bound)


class _AuditedTrainer(Trainer):
    """The trainer as it is, with a parameter for the canaries' gradients; it keeps what it made."""

    denoiser: torch.nn.Module

    def _train(self, denoiser: Denoiser, mixture: Mixture | None) -> Any:
        self._add_entry(denoiser.network, self.device)
        return super()._train(denoiser, mixture)

    def _fresh_labeller(self) -> Labeller:
        labeller = super()._fresh_labeller()
        self._add_entry(labeller, torch.device("cpu"))
        return labeller

    def _add_entry(self, module: torch.nn.Module, device: torch.device) -> None:
        width = self.session.witness.canaries.width  # type: ignore[attr-defined]
        own = torch.nn.Parameter(torch.zeros(width, device=device), requires_grad=False)
        module.register_parameter(ENTRY, own)

    def _release(
        self, network: dict[str, torch.Tensor] | None, mixture: Mixture | None, *_: object
    ) -> None:
        self.denoiser = build_denoiser(
            self.config, self.facts.image_shape, len(self.facts.classes), mixture
        ).to(self.device)
        if network is not None:
            trained = {name: value for name, value in network.items() if name != ENTRY}
            assert isinstance(self.denoiser, Denoiser)
            self.denoiser.network.load_state_dict(trained)


def _audited_run(
    config: Config,
    dataset: Dataset,
    count: int,
    confidence: float,
    generator: np.random.Generator,
    device: str,
    progress: Callback | None,
) -> _Done:
    images = image_canaries(dataset, round(_IMAGES_PER_CANARY * count), generator)
    facts = dataset.facts(config.privacy.unit)
    _, real = seal(with_images(dataset, images), config)
    canaries = Canaries(count, _BLANKS, generator)
    config, plan = settle(config, facts)
    privacy, noise = config.privacy, noise_source(config)
    witness = Witness(canaries)
    with tempfile.TemporaryDirectory(prefix="dpdm-audit-") as place:
        folder = open_run_folder(Path(place) / "run", config, {}, resume=False, force=False)
        with Ledger.create(
            folder.ledger,
            dataset=facts.name,
            unit=privacy.unit,
            noise_source=noise.description,
        ) as ledger:
            trainer = _AuditedTrainer(
                facts,
                CanaryUnits(real, canaries),
                config,
                plan,
                folder,
                AuditSession(ledger, noise, witness),
                InterruptFlag(),
                progress or (lambda event: None),
                resolve_device(device),
            )
            trainer.run()
            spent = ledger.epsilon(privacy.delta, privacy.accountant)
    guesses = witness.guesses(privacy.delta, confidence)
    found = {WHITE_BOX: Guessed(witness.scores(), canaries.included, guesses)}
    for family in images:
        scores = -_losses(trainer, family)
        scores -= float(np.median(scores))
        number = max(1, round(_BLACK_BOX_GUESSES * len(scores)))
        found[family.kind] = Guessed(scores, family.included, number)
    return _Done(found, all_checks(witness, noise, ledger), spent)


@torch.no_grad()
def _losses(trainer: _AuditedTrainer, family: ImageCanaries) -> Array:
    """(m,) denoising loss of the trained model on each image, over views the same for all."""
    denoiser, settings = trainer.denoiser.eval(), diffusion_of(trainer.config)
    place, shape = trainer.device, trainer.facts.image_shape
    images = to_model_space(family.images, place)
    labels = None if family.labels is None else torch.from_numpy(family.labels).to(place)
    sigma, noise = draw_views(
        "stratified",
        settings,
        1,
        _BLACK_BOX_VIEWS,
        shape,
        generator=keyed_generator(0, "audit views"),
        device=place,
    )
    total = torch.zeros(len(images), device=place)
    for level, drawn in zip(sigma, noise, strict=True):
        levels = level.expand(len(images))
        x = images + level * drawn
        errors = (denoiser(x, levels, labels) - images).square()
        total += settings.weight(levels) * errors.flatten(1).mean(dim=1)
    scores: Array = (total / len(sigma)).double().cpu().numpy()
    return scores


def stand_in(config: Config, name: str | None) -> Dataset:
    """Random images in the shape, classes and number of a data set that has a name; without one, of
    two classes in the shape and number that the configuration has. Where groups are the unit, every
    four images are one.

    Raises:
        RequestError: no such data set; nothing says shape or number.
    """
    data, grouped = config.data, config.privacy.unit == "group"
    each = _IMAGES_PER_GROUP if grouped else 1
    classes: tuple[str, ...]
    if name is None:
        if not (data.image_size and data.channels and data.public_size):
            raise RequestError(
                f"{config.name}: names no data; say what yours are like with --set "
                "data.image_size=28 data.channels=1 data.public_size=1000, or give --data SPEC"
            )
        like, size, classes = "images", each * data.public_size, ("0", "1")
        shape = (data.image_size, data.image_size, data.channels)
    else:
        known = NAMED.get(name.partition("@")[0])
        if known is None:
            raise RequestError(f"{name}: not a named data set; give --data SPEC")
        height, width, channels = known.shape
        height, width = data.image_size or height, data.image_size or width
        shape = (height, width, data.channels or channels)
        like, size, classes = f"images like {known.title}", known.train, known.classes
    generator = np.random.default_rng(0)
    labels = generator.integers(0, len(classes), size)
    return Dataset(
        name=f"random {like}",
        shape=shape,
        classes=classes if data.labels else (),
        public_size=data.public_size or math.ceil(size / each),
        public_size_declared=True,
        private_images=generator.integers(0, 256, (size, *shape), dtype=np.uint8),
        private_labels=labels if config.data.labels else None,
        private_groups=np.arange(size) // each if grouped else None,
    )
