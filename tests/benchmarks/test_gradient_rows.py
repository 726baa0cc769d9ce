"""Every way to a gradient that the benchmark times gives the gradient that it is timed for."""

from __future__ import annotations

import copy

import gradient_rows
import pytest
import torch
from common import BF16, PROBLEMS
from gradient_rows import MAX_NORM, ROWS, Task, make_task

UNITS, VIEWS = 3, 2
PER_UNIT = ("dpdm", "Opacus hooks", "vmap")


@pytest.fixture
def task() -> Task:
    return make_task(PROBLEMS["digits"], UNITS, VIEWS, "cpu")


def step(name: str, task: Task) -> dict[str, torch.Tensor]:
    if name.startswith("Opacus"):
        pytest.importorskip("opacus")
    return {key: value.detach() for key, value in ROWS[name](task)().items()}


def clipped_sum(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
    factors = (MAX_NORM / norms).clamp(max=1.0)
    return {name: torch.einsum("u,u...->...", factors, g) for name, g in gradients.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name].float(), expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("name", PER_UNIT)
def test_per_unit_gradients_are_those_of_the_loop(name: str, task: Task) -> None:
    assert_equal(step(name, task), step("loop", task))


def test_plain_is_the_mean_of_the_loop(task: Task) -> None:
    means = {name: gradients.mean(0) for name, gradients in step("loop", task).items()}
    assert_equal(step("plain", task), means)


def test_the_clipped_sum_is_that_of_the_loop(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in (0.3, 30.0):
        monkeypatch.setattr(gradient_rows, "MAX_NORM", bound)
        monkeypatch.setitem(globals(), "MAX_NORM", bound)
        assert_equal(step("dpdm+clip", task), clipped_sum(step("loop", task)))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_ghost_clipping_takes_each_view_for_a_unit(task: Task) -> None:
    views = task._replace(units=UNITS * VIEWS, views=1)
    assert_equal(step("Opacus ghost", task), clipped_sum(step("loop", views)))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("name", [name for name in ROWS if name.endswith(BF16)])
def test_bf16_is_near_float32(name: str, task: Task) -> None:
    other = copy.deepcopy(task)  # Opacus hooks into a network once
    found, expected = step(name, task), step(name.removesuffix(BF16), other)
    if not name.startswith("Opacus"):
        assert {value.dtype for value in found.values()} == {torch.float32}
    together = [torch.cat([g.flatten() for g in way.values()]) for way in (found, expected)]
    assert (together[0] - together[1]).norm() < 0.1 * together[1].norm()


def test_every_row_is_tested() -> None:
    others = {"loop", "plain", "dpdm+clip", "Opacus ghost"}
    assert {name.removesuffix(BF16) for name in ROWS} == {*PER_UNIT, *others}
