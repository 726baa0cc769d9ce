"""Keyed draws: fixed by the whole key, and by no fewer bits than it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpdm.training.draws import SECRET_BITS, _key, keyed_dropout, keyed_generator

SEED = 2**200 + 7


def numbers(seed, purpose="views", step=0):
    return torch.rand(64, generator=keyed_generator(seed, purpose, step))


def dropped(seed, step=0):
    with keyed_dropout(seed, step):
        return torch.nn.functional.dropout(torch.ones(256), 0.5)


def test_the_same_key_gives_the_same_numbers():
    assert numbers(SEED).equal(numbers(SEED))
    assert dropped(SEED).equal(dropped(SEED))


@pytest.mark.parametrize("bit", [0, 31, 32, 63, 64, 100, SECRET_BITS - 1])
def test_every_bit_of_a_seed_counts(bit):
    """torch's own seeds on a CPU are 32 bits, of which an attacker can try all."""
    assert not numbers(SEED ^ 2**bit).equal(numbers(SEED))
    assert not dropped(SEED ^ 2**bit).equal(dropped(SEED))


def test_purpose_and_step_count():
    assert not numbers(SEED, "warm-up").equal(numbers(SEED))
    assert not numbers(SEED, step=1).equal(numbers(SEED))
    assert not dropped(SEED, 1).equal(dropped(SEED))


def test_the_numbers_are_those_of_a_twister_whose_whole_state_is_the_keys():
    twister = np.random.MT19937()
    words = _key(SEED, "views", 0).generate_state(624)
    twister.state = twister.state | {"state": {"key": words, "pos": 624}}
    expected = (twister.random_raw(64) & (2**24 - 1)) * 2.0**-24
    np.testing.assert_array_equal(numbers(SEED).numpy(), expected.astype(np.float32))


def test_the_global_generator_is_put_back():
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    dropped(SEED)
    assert torch.rand(4).equal(expected)
