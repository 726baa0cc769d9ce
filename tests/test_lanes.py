"""Work side by side: results in order, and torch's threads as they were."""

from __future__ import annotations

import threading

import pytest
import torch

from dpdm.lanes import Lanes


def test_results_come_in_order_and_each_call_knows_its_item():
    with Lanes(3) as lanes:
        assert list(lanes.map(lambda item: (item, lanes.item), range(20))) == [
            (item, item) for item in range(20)
        ]


def test_a_lane_has_one_thread_and_the_caller_keeps_its_own():
    torch.set_num_threads(2)
    with Lanes(2) as lanes:
        assert set(lanes.map(lambda _: torch.get_num_threads(), range(8))) == {1}
        assert torch.get_num_threads() == 2
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


def test_one_lane_is_the_calling_thread_with_all_of_its_threads():
    torch.set_num_threads(2)
    with Lanes(1) as lanes:
        found = list(lanes.map(lambda _: (threading.get_ident(), torch.get_num_threads()), [0]))
    assert found == [(threading.get_ident(), 2)]


def test_an_error_in_a_lane_is_raised():
    def fail(item: int) -> None:
        raise ValueError(f"at {item}")

    with Lanes(2) as lanes, pytest.raises(ValueError, match="at 0"):
        list(lanes.map(fail, range(4)))
