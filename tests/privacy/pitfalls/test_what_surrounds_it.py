"""The known ways to be wrong around a mechanism: 2, 9, 10 and 11 of docs/privacy.md's twelve.

Each has an attack on the code as it is, which must fail, and the same attack on the code with its
guard taken out, which must succeed: so the test would see the fault. The others are in
``test_what_is_released.py``.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpdm.config import load_config
from dpdm.data import Dataset, open_dataset, opening
from dpdm.diffusion.configs import dm_config
from dpdm.evaluation import report
from dpdm.pipeline import sample_release, write_reports
from dpdm.privacy import DpSgdStep, PrivateUnits, Session, SystemNoise, mechanisms, noise, units
from dpdm.training import run, trainer, view_gradients
from dpdm.training.run import Run, train
from dpdm.training.seeded_noise import SeededNoise

SMALL = (
    "training.batch_size=8",
    "training.microbatch=8",
    "training.least_signal=0",
    "training.checkpoint_every=100",
    "network.base_channels=4",
    "network.multipliers=[1]",
    "network.blocks=1",
    "network.attention=[]",
    "network.noise_frequencies=[2.0, 0.1]",
    "views.count=1",
    "warmup.steps=0",
    "diffusion.base=skip",
    "privacy.accountant=rdp",
    "privacy.delta=1e-3",
    "sampling.count=4",
    "sampling.steps=2",
)
STEPS = ("training.steps=4", "prior.enabled=false")
PRIOR_ALONE = ("training.steps=0", "prior.dimension=4", "prior.clusters=1")
SEEDED = "privacy.noise_seed=1"


def images(size: int) -> Dataset:
    """Images of two classes; the declared number is 100, whatever the number is."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, 4, 4, 1), dtype=np.uint8)
    return Dataset("d", (4, 4, 1), ("a", "b"), 100, True, pixels, np.arange(size) % 2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int, Any]]:
    """Every release, as it leaves: (mechanism, step, value)."""
    left: list[tuple[Any, int, Any]] = []

    def publish(self: Session, mechanism: Any, step: int, value: Any) -> Any:
        left.append((mechanism, step, value))
        return value

    monkeypatch.setattr(Session, "publish", publish)
    return left


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Folders for runs, one after another."""
    return (tmp_path / str(number) for number in count())


def contents(made: Run) -> dict[str, bytes]:
    """The release's files. Without hashes: of these files, and of the ledger, which holds times."""
    files = {path.name: path.read_bytes() for path in sorted(made.release.iterdir())}
    return {name: re.sub(rb"\b[0-9a-f]{64}\b", b"-", data) for name, data in files.items()}


# 2. A normaliser, sample rate or learning rate computed from the private size


def attack_2(published: list, place: Iterator[Path]) -> bool:
    """The number of units is itself private. A sample rate B / N, a schedule or an expected batch
    computed from it stands in the release to be read; and where only the divisor follows it, the
    deviation of the noise, sigma C / B, gives it away: with thousands of coordinates one data set
    is told from its neighbour by that alone (Opacus issue 819: a batch size
    expected from N, rounded down). Returns whether an attacker who sees the release and the noised
    gradients tells 100 images from 99."""

    def seen(size: int) -> tuple[list[bytes], float]:
        published.clear()
        made = train(images(size), load_config("digits", [*SMALL, *STEPS, SEEDED]), next(place))
        values = torch.cat([v.flatten() for *_, value in published for v in value.values()])
        released = contents(made)
        return [released[n] for n in ("privacy.json", "PRIVACY.md", "model.yaml")], values.std()

    (texts, deviation), (others, other) = seen(100), seen(99)
    return texts != others or abs(float(deviation / other) - 1) > 0.05


def test_2_nothing_that_leaves_is_computed_from_the_private_size(published, place):
    assert not attack_2(published, place)


def test_2_undone_a_plan_made_from_the_private_size_is_read(monkeypatch, published, place):
    proper = Dataset.facts

    def counted(self, unit):
        return replace(proper(self, unit), public_size=len(self.private_images))

    monkeypatch.setattr(Dataset, "facts", counted)
    assert attack_2(published, place)


def test_2_undone_a_divisor_made_from_the_private_size_is_measured(monkeypatch, published, place):
    proper = DpSgdStep.release

    def by_size(self, data, *rest):
        expected = int(data._count(units.DOOR) * self.sample_rate)
        return proper(replace(self, expected_units=expected), data, *rest)

    monkeypatch.setattr(DpSgdStep, "release", by_size)
    assert attack_2(published, place)


# 9. Auxiliary information


def attack_9(monkeypatch: pytest.MonkeyPatch, place: Iterator[Path]) -> bool:
    """Losses, clipped shares and accuracies on real images come from private data without noise.
    They are logged for the operator; but whatever they decide (the best checkpoint, when to stop,
    a number in the report) leaves with the release. (jax_privacy, pitfalls.)

    Trains twice with the same noise. The second time every logged number and every evaluation is
    another; returns whether any byte of the release is."""

    def released(accuracy: float) -> tuple[dict[str, bytes], str]:
        made = train(images(100), load_config("digits", [*SMALL, *STEPS, SEEDED]), next(place))
        sample_release(made)
        evaluation = {"accuracy": {"lr": accuracy}, "test_images": 9, "seeds": 1, "notes": []}
        (made.folder.private / "evaluation.json").write_text(json.dumps(evaluation))
        write_reports(made)
        return contents(made), made.folder.metrics.read_text()

    first, log = released(0.9)
    proper = mechanisms.PrivateStepStatistics
    with monkeypatch.context() as other:
        other.setattr(
            mechanisms,
            "PrivateStepStatistics",
            lambda count, loss, clipped, nonfinite: proper(count + 1, -loss, 0.5, 3),
        )
        second, other_log = released(0.1)
    assert log != other_log
    return first != second


def test_9_no_byte_of_the_release_depends_on_losses_or_evaluation(monkeypatch, place):
    assert not attack_9(monkeypatch, place)


def test_9_undone_stopping_by_the_loss_is_seen(monkeypatch, place):
    proper = trainer.dp_sgd

    def until_it_rises(*given):
        before = None
        for record in proper(*given):
            yield record
            if before is not None and record.loss > before:
                return
            before = record.loss

    monkeypatch.setattr(trainer, "dp_sgd", until_it_rises)
    assert attack_9(monkeypatch, place)


def test_9_undone_the_checkpoint_with_the_best_loss_is_seen(monkeypatch, place):
    proper = trainer.Trainer._drive

    def drive(self, records, state, steps):
        kept = {}

        def watched():
            for record in records:
                kept[record.loss] = {k: v.clone() for k, v in state.ema.tensors.items()}
                yield record

        proper(self, watched(), state, steps)
        for name, value in kept[min(kept)].items():
            state.ema.tensors[name].copy_(value)

    monkeypatch.setattr(trainer.Trainer, "_drive", drive)
    assert attack_9(monkeypatch, place)


def test_9_undone_an_accuracy_in_the_released_report_is_seen(monkeypatch, place):
    monkeypatch.setattr(report, "release_part", lambda content: content)
    assert attack_9(monkeypatch, place)


# 10. Preprocessing learnt from the data


def attack_10_files(folder: Path, kind: str) -> bool:
    """Standardising by the mean of the data, stretching contrast to its extremes, or cropping to
    what its images have in common are statistics that no mechanism released. (Tramer and
    Boneh 2021 pay for theirs.) Returns whether an image, as it is
    read and resized, changes when a bright one joins the set."""
    dim = np.random.default_rng(0).integers(0, 100, (3, 8, 8), dtype=np.uint8)
    bright = np.full((1, 8, 8), 255, np.uint8)
    read = []
    for name, pixels in (("fewer", dim), ("more", np.concatenate([dim, bright]))):
        place = folder / name
        place.mkdir()
        if kind == "npz":
            np.savez(place / "set.npz", images=pixels)
            place = place / "set.npz"
        else:
            for number, image in enumerate(pixels):
                Image.fromarray(image).save(place / f"{number}.png")
        read.append(open_dataset(place, image_size=4).private_images)
    return not np.array_equal(read[0], read[1][:3])


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_10_a_file_is_read_the_same_whatever_the_others_are(tmp_path, kind):
    assert not attack_10_files(tmp_path, kind)


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_10_undone_contrast_stretched_over_the_set_is_seen(monkeypatch, tmp_path, kind):
    proper = opening.prepare

    def stretched(*given):
        prepared = proper(*given)
        largest = int(prepared.images.max())
        return replace(prepared, images=(prepared.images * (255 / largest)).astype(np.uint8))

    monkeypatch.setattr(opening, "prepare", stretched)
    assert attack_10_files(tmp_path, kind)


def attack_10_training() -> bool:
    """The same on the way from stored pixels to what the network sees: returns whether an image
    changes with its company."""
    config = load_config("digits", SMALL)
    denoiser = SimpleNamespace(config=dm_config("edm"))
    pixels = torch.randint(0, 100, (3, 4, 4, 1), dtype=torch.uint8)
    pixels[2] = 255
    shown = []
    for size in (2, 3):
        generator = torch.Generator().manual_seed(0)
        given = (config, denoiser, pixels[:size], None, size, generator)
        shown.append(view_gradients._views(*given)[0][:2])  # type: ignore[arg-type]
    return not torch.equal(*shown)


def test_10_an_image_is_shown_to_the_network_on_a_fixed_scale():
    assert not attack_10_training()


def test_10_undone_standardising_by_the_batch_is_seen(monkeypatch):
    proper = view_gradients.to_model_space

    def standardised(pixels, device):
        shown = proper(pixels, device)
        return (shown - shown.mean()) / shown.std()

    monkeypatch.setattr(view_gradients, "to_model_space", standardised)
    assert attack_10_training()


# 11. Randomness


def attack_11_stored(published: list, place: Iterator[Path]) -> bool:
    """Noise that can be computed again can be subtracted. The attacker knows the code, the data
    and the whole run folder: he tries every number that stands in any of its files, and
    the usual ones, as the seed, and compares with the noise on the class counts. Returns whether he
    finds it. (jax_privacy, pitfalls.)"""
    made = train(images(100), load_config("digits", [*SMALL, *PRIOR_ALONE]), next(place))
    mechanism, step, value = published[0]
    observed = (value[0, :2] - 50.0) / mechanism.deviation
    texts = [path.read_bytes().decode(errors="ignore") for path in made.path.rglob("*.*")]
    numbers = {int(n) for text in texts for n in re.findall(r"\d{1,20}", text)}
    key = (mechanism.name, step)
    return any(
        np.allclose(SeededNoise(seed).gaussian(value.shape, key=key)[0, :2], observed, atol=1e-6)
        for seed in {*range(10), 42, 1234, 2**32 - 1, *numbers}
    )


def test_11_nothing_in_the_run_folder_gives_the_noise(published, place):
    assert not attack_11_stored(published, place)


def test_11_undone_noise_from_the_settings_seed_is_found(monkeypatch, published, place):
    class Convenient(SeededNoise):
        private = True

        def __init__(self, draws):
            super().__init__(load_config("digits").training.seed, draws)

    monkeypatch.setattr(run, "SystemNoise", Convenient)
    assert attack_11_stored(published, place)


def attack_11_generators() -> bool:
    """A library's global generator is predictable, and its seed is often fixed for the sake of
    reproducible experiments. Returns whether fixing all of them fixes the noise."""

    def drawn() -> np.ndarray:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        source = SystemNoise()
        return np.append(source.gaussian(20, key=("g", 0)), source.poisson_mask(20, 0.5, key=()))

    return bool((drawn()[:20] == drawn()[:20]).all())


def test_11_seeds_of_torch_numpy_and_python_do_not_reach_the_noise():
    assert not attack_11_generators()


def test_11_undone_noise_from_numpys_generator_is_fixed_by_a_seed(monkeypatch):
    weak = SimpleNamespace(urandom=np.random.bytes)
    monkeypatch.setattr(noise, "os", weak)
    assert attack_11_generators()


def attack_11_shared(source: Any) -> float:
    """If sampling and noise come from one stream, the published noise says who was sampled, and
    there is no amplification: here the radius of a Box-Muller pair is large exactly where the same
    word puts a unit in the sample. All gradients are zero, so what leaves is the noise. Returns the
    share of 4,000 units whose membership in the sample the attacker says rightly."""
    size, samples, left = 4000, [], []

    def mask(n, rate, *, key):
        samples.append(source.poisson_mask(n, rate, key=key))
        return samples[-1]

    class Listening(Session):
        def spend(self, mechanism, step):
            return self.noise

        def publish(self, mechanism, step, value):
            left.append(value["weight"].double().numpy())
            return value

    def no_gradient(rows, labels):
        return torch.zeros(len(rows)), {"weight": torch.zeros(len(rows), 2 * size)}

    mechanism = DpSgdStep(0.5, 1.0, 1.0, 1.0, 64)
    like = {"weight": torch.zeros(2 * size)}
    data = PrivateUnits(torch.zeros(size, 1))
    listened = SimpleNamespace(gaussian=source.gaussian, poisson_mask=mask)
    mechanism.release(data, no_gradient, like, Listening(None, listened), 0)
    squares = left[0][:size] ** 2 + left[0][size:] ** 2
    return float(np.mean((squares > 2 * np.log(2)) == samples[0]))


SOURCES = [SystemNoise(), SeededNoise(1)]


@pytest.mark.parametrize("source", SOURCES, ids=["system", "seeded"])
def test_11_the_noise_says_nothing_of_the_sample(source):
    assert attack_11_shared(source) == pytest.approx(0.5, abs=0.05)  # 6 standard deviations


def test_11_undone_one_stream_for_noise_and_sampling_is_seen(monkeypatch):
    proper = SeededNoise._words
    monkeypatch.setattr(SeededNoise, "_words", lambda self, key: proper(self, ("one",)))
    assert attack_11_shared(SeededNoise(1)) > 0.99


def attack_11_statement(place: Iterator[Path]) -> bool:
    """Whether a run with a chosen seed is passed off as private."""
    made = train(images(100), load_config("digits", [*SMALL, *PRIOR_ALONE, SEEDED]), next(place))
    first = (made.release / "PRIVACY.md").read_text("utf-8").strip().splitlines()[:3]
    return bool(made.statement()["private"]) or "NOT PRIVATE" not in " ".join(first)


def test_11_a_run_with_a_chosen_seed_says_that_it_is_not_private(place):
    assert not attack_11_statement(place)


def test_11_undone_a_seeded_source_that_calls_itself_private_is_seen(monkeypatch, place):
    monkeypatch.setattr(SeededNoise, "private", True)
    assert attack_11_statement(place)
