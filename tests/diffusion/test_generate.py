"""From a denoiser to uint8 images, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpdm.diffusion.generate import generate
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.samplers import SAMPLERS
from dpdm.errors import DpdmError, RequestError

SHAPE = (3, 2, 4)


class Flat(nn.Module):
    """Every image of class y is the grey level 40 y, whatever the noise; records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.trained: list[bool] = []

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        self.sizes.append(len(x))
        self.trained.append(self.training)
        level = torch.zeros(len(x)) if labels is None else labels
        return (40.0 * level / 127.5 - 1.0).reshape(-1, 1, 1, 1).expand_as(x)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_images_follow_their_labels() -> None:
    labels = torch.tensor([3, 0, 1, 1, 6])
    images = generate(Flat(), labels, SHAPE, steps=3, batch_size=2)
    assert images.dtype == np.uint8
    assert images.shape == (5, 2, 4, 3)
    assert (images == 40 * labels.numpy().reshape(-1, 1, 1, 1)).all()


def test_no_batch_is_larger_than_allowed() -> None:
    denoiser = Flat()
    generate(
        denoiser, torch.zeros(7, dtype=torch.long), SHAPE, sampler="ddim", steps=2, batch_size=3
    )
    assert denoiser.sizes == [3, 3, 3, 3, 1, 1]


def test_guidance_moves_images_away_from_no_label() -> None:
    # Label -1 has the level -40, label 2 the level 80: 80 + 0.5 (80 + 40) = 140.
    images = generate(Flat(), torch.tensor([2, 2]), SHAPE, steps=2, guidance=0.5)
    assert (images == 140).all()


def test_a_model_without_classes_draws_a_count() -> None:
    assert generate(Flat(), None, SHAPE, count=4, steps=2).shape == (4, 2, 4, 3)


def test_no_images_are_an_empty_array() -> None:
    assert generate(Flat(), None, SHAPE, count=0, steps=2).shape == (0, 2, 4, 3)


def test_a_seed_and_a_batch_size_fix_the_images(make_mixture: Callable[..., Mixture]) -> None:
    mixture = make_mixture(SHAPE, dimension=10, dtype=torch.float32)
    labels = torch.arange(7) % 3

    def draw(generator: torch.Generator) -> np.ndarray:
        return generate(
            mixture.posterior_mean,
            labels,
            SHAPE,
            steps=8,
            batch_size=3,
            sampler_options={"s_churn": 5.0},
            generator=generator,
        )

    generator = seeded()
    first = draw(generator)
    assert (first == draw(seeded())).all()
    assert (first != draw(generator)).any()


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_images_of_a_prior_have_its_mean(
    make_mixture: Callable[..., Mixture], sampler: str
) -> None:
    small = torch.full((3, 3), 0.01)
    means = 0.5 * torch.rand(3, 4, 10, generator=seeded()) - 0.25
    mixture = make_mixture(
        SHAPE, dimension=10, variances=small, floor=small[0], means=means, dtype=torch.float32
    )
    labels = torch.full((1500,), 1)
    images = generate(
        mixture.posterior_mean, labels, SHAPE, sampler=sampler, steps=60, generator=seeded()
    )
    # Averaging over components by hand; small variances keep the images inside [-1, 1].
    z = torch.cat([mixture.weights[1] @ mixture.means[1], torch.zeros(14)]).unsqueeze(0)
    expected = (mixture.frame.to_images(z)[0].permute(1, 2, 0).numpy() + 1.0) * 127.5
    error = np.abs(images.mean(0) - expected)
    assert (error < 5.0 * images.std(0) / 1500**0.5 + 0.5).all()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "parts"), [(120, [30] * 4), (40, [20] * 2), (17, [9, 8]), (9, [9]), (1, [1])]
)
def test_two_cores_denoise_equal_parts_of_a_batch_with_a_thread_each(
    two_threads: None, count: int, parts: list[int]
) -> None:
    found = []

    def denoiser(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        assert not torch.is_grad_enabled()
        assert labels is not None
        assert len(x) == len(sigma) == len(labels)
        found.append((len(x), torch.get_num_threads()))
        return (40.0 * labels / 127.5 - 1.0).reshape(-1, 1, 1, 1).expand_as(x)

    labels = torch.arange(count) % 6
    images = generate(denoiser, labels, (1, 28, 28), sampler="ddim", steps=1)
    assert (images == 40 * labels.numpy().reshape(-1, 1, 1, 1)).all()
    assert sorted(found, reverse=True) == [(rows, 1 if len(parts) > 1 else 2) for rows in parts]


@pytest.mark.parametrize("labelled", [True, False])
def test_two_cores_draw_what_one_draws(
    two_threads: None, make_mixture: Callable[..., Mixture], labelled: bool
) -> None:
    shape = (1, 28, 28)
    mixture = make_mixture(shape, dimension=10, dtype=torch.float32)
    parts = []

    def denoiser(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        parts.append(len(x))
        return mixture.posterior_mean(x, sigma, labels)

    def draw() -> np.ndarray:
        labels = torch.arange(60) % 3 if labelled else None
        guidance = 0.5 if labelled else 0.0
        return generate(
            denoiser, labels, shape, count=60, steps=8, guidance=guidance, generator=seeded()
        ).astype(int)

    side_by_side = draw()
    assert max(parts) == 30
    torch.set_num_threads(1)
    assert np.abs(draw() - side_by_side).max() <= 1  # rounding


def test_an_error_in_a_part_of_a_batch_is_raised(two_threads: None) -> None:
    def fail(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        raise ValueError("no such estimate")

    with pytest.raises(ValueError, match="no such estimate"):
        generate(fail, None, (1, 28, 28), count=60, steps=2)


def test_progress_counts_steps_over_all_batches() -> None:
    seen: list[tuple[int, int]] = []
    generate(
        Flat(),
        torch.zeros(5, dtype=torch.long),
        SHAPE,
        steps=3,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 9) for done in range(1, 10)]


def test_a_denoiser_in_training_mode_samples_in_evaluation_mode_and_goes_back() -> None:
    denoiser = Flat().train()
    generate(denoiser, None, SHAPE, count=1, steps=2)
    assert not any(denoiser.trained)
    assert denoiser.training


def test_values_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(DpdmError, match=r"not finite \(heun, 2 steps, images 0 to 1\)"):
        generate(
            lambda x, sigma, labels: x * torch.nan, None, SHAPE, count=2, sampler="heun", steps=2
        )


def test_an_unknown_sampler_is_refused_with_the_nearest_right_one() -> None:
    with pytest.raises(RequestError, match=r"sampler='huen'.*did you mean heun\?"):
        generate(Flat(), None, SHAPE, count=1, sampler="huen")


def test_an_option_of_another_sampler_is_refused() -> None:
    with pytest.raises(RequestError, match=r"sampling\.s_churn is not for the sampler heun"):
        generate(Flat(), None, SHAPE, count=1, sampler="heun", sampler_options={"s_churn": 1.0})
    with pytest.raises(RequestError, match=r"which takes s_churn, s_min, s_max, s_noise"):
        generate(Flat(), None, SHAPE, count=1, sampler_options={"churn": 1.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"sampling\.count=None"),
        ({"count": -1}, r"sampling\.count=-1"),
        ({"count": 1, "batch_size": 0}, r"sampling\.batch_size=0"),
        ({"count": 1, "guidance": 1.0}, "needs a model with classes"),
    ],
)
def test_requests_out_of_range_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        generate(Flat(), None, SHAPE, **arguments)  # type: ignore[arg-type]
