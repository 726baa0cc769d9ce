"""What is varied becomes cells; cells that differ only in sampling share a training."""

from __future__ import annotations

import pytest

from dpdm.errors import RequestError
from dpdm.sweep.grid import Grid, expand, parse_vary


def grid(*vary: str, seeds: int = 1, settings: tuple[str, ...] = (), source: str = "digits"):
    return Grid(source, settings, parse_vary(vary), seeds)


def test_the_grid_is_the_product_of_all_that_varies_seed_by_seed() -> None:
    cells = expand(grid("views.count=1,4", "privacy.epsilon=10,1", seeds=2))
    assert [cell.name for cell in cells[:4]] == [
        "views.count=1_privacy.epsilon=10_seed=0",
        "views.count=1_privacy.epsilon=1_seed=0",
        "views.count=4_privacy.epsilon=10_seed=0",
        "views.count=4_privacy.epsilon=1_seed=0",
    ]
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert cells[-1].config.views.count == 4
    assert cells[-1].config.privacy.epsilon == 1
    assert cells[-1].config.training.seed == 1


def test_seeds_are_numbered_on_from_the_configurations_own() -> None:
    cells = expand(grid("views.count=2", seeds=2, settings=("training.seed=7",)))
    assert [cell.config.training.seed for cell in cells] == [7, 8]


def test_a_value_that_is_a_list_keeps_its_commas_in_brackets() -> None:
    assert parse_vary(["network.multipliers=[1,1],[1,2,2]"]) == {
        "network.multipliers": ([1, 1], [1, 2, 2])
    }
    names = [cell.name for cell in expand(grid("network.multipliers=[1,1],[1,2]"))]
    assert len(set(names)) == 2
    assert all("/" not in name and " " not in name and "[" not in name for name in names)


def test_text_with_a_comma_is_quoted() -> None:
    assert parse_vary(['data.spec="a,b",c']) == {"data.spec": ("a,b", "c")}


def test_equal_values_are_one_cell() -> None:
    assert len(expand(grid("training.learning_rate=1e-3,0.001"))) == 1


def test_values_that_differ_in_a_late_digit_are_two_cells() -> None:
    cells = expand(grid("training.learning_rate=0.001,0.00100000049"))
    assert [cell.name.removesuffix("_seed=0") for cell in cells] == [
        "training.learning_rate=0.001",
        "training.learning_rate=0.00100000049",
    ]


def test_sampler_stands_for_its_key() -> None:
    assert parse_vary(["sampler=heun,ddim"]) == {"sampling.sampler": ("heun", "ddim")}


def test_cells_that_differ_in_sampling_alone_share_a_training() -> None:
    cells = expand(grid("sampler=heun,ddim", "sampling.steps=5,10", "views.count=1,2"))
    assert len(cells) == 8
    trainings = {cell.training_name: cell.training for cell in cells}
    assert list(trainings) == ["views.count=1_seed=0", "views.count=2_seed=0"]
    for cell in cells:
        assert cell.training == trainings[cell.training_name]
    assert len({cell.sampling_name for cell in cells}) == 4


def test_named_sampler_settings_can_be_varied() -> None:
    fid, accuracy = expand(grid("settings=fid,accuracy", source="mnist-eps1"))
    assert (fid.config.sampling.steps, fid.config.sampling.s_churn) == (1000, 100)
    assert (accuracy.config.sampling.steps, accuracy.config.sampling.s_churn) == (50, 10)
    assert fid.training_name == accuracy.training_name


def test_the_base_can_be_varied_by_presets() -> None:
    cells = expand(grid("preset=mnist-eps0.2,mnist-eps1", settings=("views.count=3",)))
    assert [cell.config.diffusion.config for cell in cells] == ["v", "edm"]
    assert [cell.config.views.count for cell in cells] == [3, 3]


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("views.cout=1,2", r"unknown key views\.cout; did you mean views\.count"),
        ("views.count=0", r"views\.count=0"),
        ("views.count", "expected key=value"),
        ("views.count=", "expected key=value"),
        ("views.count=[1", "not readable as YAML"),
        ("training.seed=1,2", "--seeds"),
        ("data.image_size=8,16", "different data"),
        ("privacy.unit=image,group", "does not add up"),
        ("evaluation.seeds=1,2", "measured differently"),
        ("settings=fast", "sampling.alternatives"),
        ("sampling.alternatives={a: {sampler: heun}}", r"vary settings=NAME"),
        ("preset=digit", "neither a preset"),
        ("views=1,2", "views"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_one_line(vary: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        expand(grid(vary))
    assert "\n" not in str(refused.value)


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(RequestError, match="twice"):
        parse_vary(["views.count=1", "views.count=2"])
