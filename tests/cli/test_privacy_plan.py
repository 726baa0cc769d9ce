"""``dpdm privacy plan``: what it prints, draws and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

RATE = str(4096 / 60000)
SMALL = ("--delta", "1e-5", "--sample-rate", "0.05", "--steps", "20")


@pytest.fixture
def planned(dpdm):
    """``planned(*arguments)`` -> exit status, standard output, standard error."""
    return partial(dpdm, "privacy", "plan")


@pytest.mark.parametrize(
    ("arguments", "pld", "rdp", "accountant"),
    [
        (["--epsilon", "10", "--steps", "4394"], 2.380445, 2.514356, "pld"),
        (["--epsilon", "1", "--steps", "4394"], 17.00648, 18.34761, "pld"),
        (["--epsilon", "0.2", "--steps", "732"], 30.6751, 33.33, "pld"),
        (["--epsilon", "0.2", "--steps", "732"], 30.6751, 33.33, "rdp"),
    ],
)
def test_the_checked_values_of_mnist_by_both_accountants(planned, arguments, pld, rdp, accountant):
    status, out, err = planned(
        "--delta", "1e-5", "--sample-rate", RATE, *arguments, "--accountant", accountant, "--json"
    )
    result = json.loads(out)
    assert (status, err) == (0, "")
    assert result["accountant"] == accountant
    found = {name: row["noise_multiplier"] for name, row in result["by_accountant"].items()}
    assert found == {"pld": pytest.approx(pld, rel=1e-6), "rdp": pytest.approx(rdp, rel=1e-4)}
    assert result["noise_multiplier"] == found[accountant]


def test_the_json_has_every_key_of_the_interface(planned):
    _, out, _ = planned(*SMALL, "--noise-multiplier", "6", "--json")
    result = json.loads(out)
    assert set(result) == {
        *("epsilon", "delta", "noise_multiplier", "sample_rate", "steps", "accountant"),
        *("solved_for", "public_size", "batch_size", "by_accountant", "same_epsilon", "views"),
    }
    assert 0.05 < result["epsilon"] < 0.5


def test_people_see_both_accountants_side_by_side_and_what_else_keeps_the_promise(planned):
    _, out, _ = planned("--delta", "1e-5", "--sample-rate", RATE, "--steps", "4394", "--epsilon=10")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    assert rows["pld"][-4:] == ["10", "2.380445", "0.06826667", "4394"]
    assert rows["rdp"][-4:] == ["10", "2.514356", "0.06826667", "4394"]
    assert len([line for line in out.splitlines() if line.startswith("epochs ")]) == 4
    assert "Views per unit (K) cost no privacy" in out


def test_a_batch_size_and_a_public_size_stand_for_the_sample_rate(planned):
    status, out, _ = planned(
        *("--delta", "1e-5", "--public-size", "1437", "--batch-size", "64", "--epsilon", "5"),
        *("--noise-multiplier", "6", "--json"),
    )
    result = json.loads(out)
    assert status == 0
    assert result["sample_rate"] == 64 / 1437
    assert result["solved_for"] == "steps"
    assert result["batch_size"] == result["same_epsilon"][0]["batch_size"] == 64


def test_a_plot_is_a_picture_with_curves_and_json_stays_alone_on_standard_output(planned, tmp_path):
    path = tmp_path / "plan.png"
    status, out, err = planned(*SMALL, "--noise-multiplier", "6", "--plot", str(path), "--json")
    assert status == 0
    assert json.loads(out)["steps"] == 20
    assert str(path) in err
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    coloured = (np.ptp(pixels, axis=2) > 60).sum()
    assert pixels.shape[0] > 400
    assert coloured > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (SMALL, "left out: epsilon, noise multiplier"),
        ((*SMALL, "--epsilon", "1", "--noise-multiplier", "1"), "left out: none"),
        ((*SMALL, "--epsilon", "1", "--batch-size", "3"), "without a sample rate"),
        ((*SMALL, "--epsilon", "-1"), "epsilon=-1"),
        ((*SMALL, "--epsilon", "1", "--accountant", "moments"), "use pld or rdp"),
        ((*SMALL, "--epsilon", "1", "--plot", "plan.pdf"), "ends in .png"),
        ((*SMALL, "--epsilon", "1", "--plot", "/nowhere/plan.png"), "no folder /nowhere"),
        (("--delta", "0.1", *SMALL[2:], "--epsilon", "1", "--public-size", "60"), "1 / 60"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_status_2(planned, arguments, says):
    status, out, err = planned(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_help_does_without_torch_and_the_accountants():
    code = (
        "import sys; from dpdm.cli import main\n"
        "try: main(['privacy', 'plan', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'dp_accounting', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--plot" in done.stdout
