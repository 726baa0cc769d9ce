"""Microbatches side by side: the same sums."""

from __future__ import annotations

import threading

import torch

from dpdm.lanes import Lanes
from dpdm.networks import load_weights
from dpdm.privacy.gradients import per_unit_gradients
from dpdm.privacy.gradients.eager import FORCED_EAGER
from dpdm.training import trainer
from dpdm.training.microbatch import usable_lanes
from dpdm.training.run import train

CPU = torch.device("cpu")


def test_a_training_in_lanes_is_the_training_in_one(digits, small, tmp_path, monkeypatch):
    weights = []
    for count in (1, 2):
        monkeypatch.setattr(trainer, "usable_lanes", lambda *_, count=count: count)
        settings = small("privacy.noise_seed=1", f"training.microbatch={16 * count}")
        run = train(digits, settings, tmp_path / str(count))
        assert run.folder.read_state().get("steps_done") == 6
        weights.append(load_weights(run.release / "model.safetensors")[0])
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_dropout_and_a_card_have_a_single_lane(small):
    torch.set_num_threads(2)
    assert usable_lanes(small(), CPU) == 2
    assert usable_lanes(small("network.dropout=0.1"), CPU) == 1
    assert usable_lanes(small(), torch.device("cuda")) == 1


def test_compiled_code_is_compiled_again_after_threads_that_overlapped():
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: x.sin() + 1, backend=backend)
    entered, leave = threading.Barrier(2), threading.Event()

    def first() -> None:
        with FORCED_EAGER:
            entered.wait()
            leave.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with FORCED_EAGER:
        leave.set()
        thread.join()  # whoever came first leaves first
        compiled(torch.ones(3))
        assert not calls
    compiled(torch.ones(3))
    assert calls


def test_two_threads_take_the_gradients_that_one_takes():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))
    inputs = torch.randn(24, 6)

    def loss(module, x):
        return module(x).square().mean(1)

    def of(part: int) -> dict[str, torch.Tensor]:
        rows = slice(12 * part, 12 * (part + 1))
        return per_unit_gradients(network, loss, (inputs[rows],), views=2)[1]

    _, expected = per_unit_gradients(network, loss, (inputs,), views=2)
    with Lanes(2) as lanes:
        for _ in range(20):
            parts = list(lanes.map(of, range(2)))
            for name, value in expected.items():
                torch.testing.assert_close(torch.cat([part[name] for part in parts]), value)
