"""``dpdm zoo``, and ``zoo:NAME`` where a release is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest

CARD = {
    "data": "digits",
    "licence": "CC BY 4.0",
    "epsilon": 10.0,
    "delta": 1e-4,
    "accuracy": {"lr": 94.0, "mlp": 95.0, "cnn": 96.0},
}


@pytest.fixture
def digits_zoo(make_zoo):
    make_zoo("digits", CARD)


def test_it_lists_models_with_what_they_are_worth(dpdm, digits_zoo):
    status, out, _ = dpdm("zoo")
    assert status == 0
    assert "zoo:digits" in out
    assert "96.0" in out
    status, out, _ = dpdm("zoo", "--json")
    assert json.loads(out) == {"models": [{"name": "zoo:digits", **CARD}]}


def test_a_model_samples_and_states_by_name(dpdm, digits_zoo, tmp_path):
    status, _, err = dpdm("sample", "zoo:digits", "-n", 12, "--out", tmp_path / "s.npz")
    assert status == 0
    assert "warning" not in err
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["images"].shape == (12, 8, 8, 1)
    status, out, err = dpdm("privacy", "statement", "zoo:digits")
    assert status == 0
    assert "Every sealed file is as it was sealed" in out
    assert err == ""


def test_an_unknown_name_is_one_error(dpdm, digits_zoo):
    for command in (("sample",), ("privacy", "statement")):
        status, _, err = dpdm(*command, "zoo:mnist")
        assert status == 2
        assert err.strip() == "error: zoo:mnist: no such model; this version has zoo:digits"
