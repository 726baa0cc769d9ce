"""The shipped presets are the rows of the paper: its figures, counted again from its own facts.

Facts (Dockhorn et al. 2023, appendix): batch size, noise multiplicity, epochs, delta, DM config.
Sizes of the training sets: MNIST and Fashion-MNIST 60,000; CelebA 162,770; CIFAR-10 50,000;
ImageNet 1,281,167.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dpdm.config import Config, load_config, preset, preset_names, preset_row, to_yaml
from dpdm.training.forecast import preset_noise


@dataclass(frozen=True)
class Row:
    """One row of the paper, and what its data set looks like."""

    epsilon: float
    size: int
    batch: int
    epochs: int
    views: int
    delta: float
    config: str
    attention: tuple[int, ...]
    shape: tuple[int, int, int]
    classes: int
    multipliers: tuple[int, ...] = (1, 2, 2)
    spec: str | None = None

    @property
    def steps(self) -> int:
        return self.epochs * self.size // self.batch


def grey(epsilon: float, spec: str) -> Row:
    small = epsilon == 0.2
    return Row(
        epsilon, 60_000, 4096, 50 if small else 300, 32, 1e-5, "v" if small else "edm", (7,),
        (1, 28, 28), 10, spec=spec,
    )  # fmt: skip


def faces(epsilon: float, side: int) -> Row:
    return Row(
        epsilon, 162_770, 2048, 300, 32 if side == 32 else 8, 1e-6, "edm", (8, 16),
        (3, side, side), 0, (1, 2, 2) if side == 32 else (1, 1, 2, 2), "celeba",
    )  # fmt: skip


def cifar(epsilon: float) -> Row:
    return Row(epsilon, 50_000, 2048, 500, 8, 1e-5, "edm", (16,), (3, 32, 32), 10, spec="cifar10")


ROWS = {
    **{f"mnist-eps{e:g}": grey(e, "mnist") for e in (0.2, 1, 10)},
    **{f"fashion-eps{e:g}": grey(e, "fashion") for e in (0.2, 1, 10)},
    **{f"celeba32-eps{e:g}": faces(e, 32) for e in (1, 10)},
    **{f"celeba64-eps{e:g}": faces(e, 64) for e in (1, 10)},
    **{f"cifar10-eps{e:g}": cifar(e) for e in (1, 10)},
    "imagenet32-eps10": Row(
        10, 1_281_167, 2048, 100, 8, 7e-7, "edm", (8, 16), (3, 32, 32), 1000
    ),
}  # fmt: skip

rows = pytest.mark.parametrize("name", ROWS)


OWN = [f"{name}-cpu-eps{e}" for name in ("mnist", "fashion") for e in ("0.2", "1", "10")]
OWN += ["cifar10-cpu-eps1", "cifar10-cpu-eps10"]
FOR_A_GPU = [f"{name}-gpu-eps{e}" for name in ("mnist", "fashion") for e in ("1", "10")]
OWN += FOR_A_GPU
FOR_ANY_DATA = ("digits", "own", "own-prior")


def test_every_row_of_the_paper_and_our_own_presets_are_shipped() -> None:
    assert set(preset_names()) == {*FOR_ANY_DATA, *OWN, *ROWS}


@pytest.mark.parametrize("name", OWN)
def test_a_preset_for_a_cpu_has_a_prior_and_the_parts_that_it_says(name: str) -> None:
    config = preset(name)
    assert config.name == name
    assert config.about.startswith("own: ")
    assert config.prior.enabled
    alone = "statistics alone" in config.about
    assert config.labeller.enabled == ("labeller" in config.about) != alone
    assert config.network.init == (None if alone else "procedural")
    assert config.sampling.start == ("noise" if alone else "prior")
    assert config.warmup.steps == 0
    without = alone or "no gradient steps" in config.about
    assert without == (config.training.steps == 0)
    assert config.data.spec == name.split("-")[0]
    assert config.privacy.epsilon == float(name.split("-eps")[1])
    assert config.privacy.delta == 1e-5
    assert config.sampling.count == 60_000


def test_own_presets_are_listed_before_those_of_the_paper() -> None:
    first = preset_names()[: len(FOR_ANY_DATA) + len(OWN)]
    assert set(first) == {*FOR_ANY_DATA, *OWN}


@pytest.mark.parametrize("name", ["digits", *ROWS])
def test_a_preset_is_called_by_the_name_it_has_inside(name: str) -> None:
    assert preset(name).name == name


@rows
def test_a_preset_says_which_row_it_is(name: str) -> None:
    about = preset(name).about
    assert about.startswith(("paper: ", "not a row of the paper: "))
    assert f"epsilon {ROWS[name].epsilon:g}" in about


@pytest.mark.parametrize("name", ["celeba64-eps1", "cifar10-eps1"])
def test_a_setting_the_paper_does_not_report_says_so(name: str) -> None:
    assert preset(name).about.startswith("not a row of the paper: ")


@pytest.mark.parametrize("name", ["digits", *ROWS])
def test_written_out_and_read_again_a_preset_is_the_same(name: str, tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(preset(name)), "utf-8")
    assert load_config(path) == preset(name)


@rows
def test_the_method_is_the_papers_own(name: str) -> None:
    config = preset(name)
    assert not config.prior.enabled
    assert config.warmup.steps == 0
    assert config.diffusion.config == ROWS[name].config
    assert config.views.law == "iid"


@rows
def test_batch_steps_views_and_promise_are_the_papers(name: str) -> None:
    config, row = preset(name), ROWS[name]
    assert config.training.batch_size == row.batch
    assert config.training.steps == row.steps
    assert config.training.max_steps is None
    assert config.views.count == row.views
    assert (config.privacy.epsilon, config.privacy.delta) == (row.epsilon, row.delta)
    assert config.privacy.max_grad_norm == 1.0
    assert config.privacy.enabled


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("mnist-eps0.2", 732),
        ("mnist-eps1", 4394),
        ("mnist-eps10", 4394),
        ("celeba32-eps10", 23843),
        ("cifar10-eps10", 12207),
        ("imagenet32-eps10", 62556),
    ],
)
def test_steps_are_the_epochs_rounded_down(name: str, steps: int) -> None:
    assert preset(name).training.steps == steps


@rows
def test_optimiser_and_average_are_the_papers(name: str) -> None:
    training = preset(name).training
    assert training.learning_rate == 3e-4
    assert training.schedule == "constant"
    assert training.ema_decay == 0.999


@rows
def test_the_network_is_the_papers(name: str) -> None:
    network, row = preset(name).network, ROWS[name]
    assert network.base_channels == 32
    assert network.multipliers == row.multipliers
    assert network.attention == row.attention
    assert (network.blocks, network.dropout, network.patch) == (2, 0.0, 1)
    assert network.label_dropout == 0.1


@rows
def test_the_data_set_is_named_where_it_has_a_name(name: str) -> None:
    config, row = preset(name), ROWS[name]
    assert config.data.spec == row.spec
    if row.spec in ("mnist", "fashion", "cifar10"):
        assert config.data.image_size is None  # as published
    else:
        assert (config.data.image_size, config.data.channels) == (row.shape[1], row.shape[0])


@rows
def test_both_samplers_of_the_paper_are_there_and_the_accuracy_one_is_used(name: str) -> None:
    sampling = preset(name).sampling
    accuracy, fid = sampling.alternatives["accuracy"], sampling.alternatives["fid"]
    assert (accuracy.s_churn, accuracy.s_min, accuracy.s_max) == (10, 0.025, 50)
    assert fid.steps == 1000
    assert all(
        (s.sampler, s.sigma_min, s.sigma_max, s.rho) == ("churn", 0.002, 80, 7)
        for s in (accuracy, fid)
    )
    assert sampling.model_dump(include=type(accuracy).model_fields.keys()) == accuracy.model_dump()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mnist-eps1", (100, 0.05, 50, 0)), ("mnist-eps10", (50, 0.05, 50, 0.25))],
)
def test_the_fid_sampler_of_mnist_is_the_papers(
    name: str, expected: tuple[float, float, float, float]
) -> None:
    fid = preset(name).sampling.alternatives["fid"]
    assert (fid.s_churn, fid.s_min, fid.s_max, fid.guidance) == expected


@rows
def test_only_models_with_classes_are_guided(name: str) -> None:
    if ROWS[name].classes == 0:
        assert all(s.guidance == 0 for s in preset(name).sampling.alternatives.values())


@pytest.mark.parametrize(
    ("name", "rate"), [("mnist-eps10", 0.0682666667), ("celeba32-eps10", 0.0125821712)]
)
def test_the_plan_samples_at_batch_over_size(name: str, rate: float) -> None:
    assert plan_of(name, preset(name)).sample_rate == pytest.approx(rate, rel=1e-8)


@rows
def test_the_plan_passes_every_view_of_every_step_through_the_network(name: str) -> None:
    plan, row = plan_of(name, preset(name, accountant="rdp")), ROWS[name]
    assert plan.steps == row.steps
    assert plan.image_passes == row.steps * row.batch * row.views
    assert plan.prior is None


@pytest.mark.parametrize(
    ("name", "accountant", "noise"),
    [
        ("mnist-eps10", "pld", 2.380),
        ("mnist-eps10", "rdp", 2.514),
        ("mnist-eps1", "pld", 17.01),
        ("mnist-eps1", "rdp", 18.35),
        ("mnist-eps0.2", "pld", 30.68),
        ("mnist-eps0.2", "rdp", 33.33),
        ("fashion-eps10", "pld", 2.380),
    ],
)
def test_the_noise_planned_is_the_checked_value(name: str, accountant: str, noise: float) -> None:
    plan = plan_of(name, preset(name, accountant=accountant))
    assert plan.noise_multiplier == pytest.approx(noise, rel=5e-4)


def plan_of(name: str, config: Config):
    from dpdm.training.plan import make_plan

    row = ROWS[name]
    channels, height, width = row.shape
    pixels = channels * height * width
    return make_plan(config, public_size=row.size, classes=row.classes, pixels=pixels)


@pytest.mark.parametrize("name", preset_names())
def test_the_noise_that_is_listed_is_that_of_the_solver(name: str) -> None:
    """Where this fails after a change of a preset: python benchmarks/preset_noise.py."""
    row = preset_row(name)
    for key, value in preset_noise(name).items():
        assert row[key] == (None if value is None else pytest.approx(value, rel=1e-5))
