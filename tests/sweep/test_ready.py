"""The ready-made sweeps are the paper's tables; those of digits differ in their question alone."""

from __future__ import annotations

import pytest

from dpdm.config import load_config
from dpdm.sweep.grid import expand
from dpdm.sweep.ready import ready_names, ready_sweep

DIGITS = ("digits-configs", "digits-k", "digits-laws", "digits-samplers")


@pytest.mark.parametrize("name", ready_names())
def test_every_cell_of_a_ready_made_sweep_is_a_valid_configuration(name: str) -> None:
    ready = ready_sweep(name)
    assert ready is not None
    assert ready.about
    assert expand(ready.grid)


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("table3", "views.count", (1, 2, 4, 8, 16, 32)),
        ("table5", "diffusion.config", ("vp", "ve", "v", "edm")),
        ("table6", "sampling.sampler", ("churn", "ddim-stochastic", "ddim")),
        ("digits-k", "views.count", (1, 2, 4, 8, 16, 32)),
        ("digits-configs", "diffusion.config", ("vp", "ve", "v", "edm")),
        ("digits-samplers", "sampling.sampler", ("churn", "heun", "ddim", "ddim-stochastic")),
    ],
)
def test_a_sweep_asks_what_the_paper_asked(name: str, key: str, values: tuple) -> None:
    ready = ready_sweep(name)
    assert ready is not None
    assert ready.grid.vary[key] == values


@pytest.mark.parametrize("name", ["table1-mnist", "table3", "table5", "table6"])
def test_at_the_papers_scale_every_cell_keeps_its_presets_training(name: str) -> None:
    ready = ready_sweep(name)
    assert ready is not None
    for cell in expand(ready.grid):
        values = dict(cell.values)
        preset = load_config(values.get("preset", ready.grid.source))
        assert cell.config.training == preset.training
        assert cell.config.network == preset.network


def test_the_digits_sweeps_are_of_the_papers_method_and_of_one_budget() -> None:
    bases = set()
    for name in DIGITS:
        ready = ready_sweep(name)
        assert ready is not None
        assert ready.grid.seeds == 3
        assert ready.grid.vary["privacy.epsilon"] == (10, 1)
        base = load_config(ready.grid.source, ready.grid.settings)
        assert not base.prior.enabled
        assert base.training.least_signal == 0
        assert base.sampling.sampler == "heun"
        sampling = base.sampling.model_copy(update={"s_churn": 0.0, "s_min": 0.0, "s_max": 1e9})
        bases.add(base.model_copy(update={"sampling": sampling}).model_dump_json())
    assert len(bases) == 1


def test_the_laws_extend_the_sweep_of_k() -> None:
    k, laws = ready_sweep("digits-k"), ready_sweep("digits-laws")
    assert k is not None
    assert laws is not None
    assert list(k.grid.vary) == list(laws.grid.vary)
    shared = {cell.name for cell in expand(k.grid)} & {cell.name for cell in expand(laws.grid)}
    assert len(shared) == 2 * 2 * 3
