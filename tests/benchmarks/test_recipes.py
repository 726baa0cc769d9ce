"""The page of the recipes: rows of a set, and a section that is written between its markers."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import recipes
from common import run_command

from dpdm import load_config
from dpdm.errors import RequestError
from dpdm.training.interrupt import Interrupted


def line(name: str, epsilon: str, cnn: float, seed: int = 0, stage: str = recipes.PRESET) -> dict:
    return {
        "set": name,
        "epsilon": epsilon,
        "stage": stage,
        "seed": seed,
        "accuracy": {"lr": 0.8, "mlp": 0.9, "cnn": cnn},
        "fd_pixels": 1.25,
        "image_passes": 1_000_000,
        "train_seconds": 8.0,
        "sample_seconds": 4.0,
    }


def test_a_row_is_the_median_of_its_runs_beside_goal_and_published_figures() -> None:
    lines = [line("mnist", "1", c, s) for s, c in enumerate((0.97, 0.99, 0.98))]
    assert recipes.table(lines, "mnist")[2:] == [
        "| 1 | **the preset** | 3 | 80.0 (80.0 to 80.0) | 90.0 (90.0 to 90.0) "
        "| 98.0 (97.0 to 99.0) | 97.8 | 95.3 | 95.6 | 1.25 | 1,000,000 | 8 | 4 |"
    ]


def test_stages_stand_in_their_order_and_others_are_left_out() -> None:
    lines = [line("fashion", "10", 0.8), line("fashion", "10", 0.7, stage=recipes.PRIOR)]
    rows = recipes.table(lines, "fashion")[2:]
    assert ["prior alone" in row for row in rows] == [True, False]


@pytest.mark.parametrize("name", recipes.GREY)
@pytest.mark.parametrize("epsilon", recipes.EPSILONS)
def test_the_papers_method_has_epsilon_and_compute_of_the_preset_and_nothing_of_ours(name, epsilon):
    preset = load_config(f"{name}-cpu-eps{epsilon}")
    paper = recipes.row_config(name, epsilon, recipes.PAPER)
    assert paper.privacy.epsilon == preset.privacy.epsilon
    assert paper.privacy.delta == preset.privacy.delta
    assert not paper.prior.enabled
    assert not paper.labeller.enabled
    assert paper.network.init is None
    assert (paper.diffusion.base, paper.diffusion.sigma_range) == ("skip", None)
    assert (paper.sampling.sampler, paper.sampling.start) == ("churn", "noise")
    if preset.training.steps:
        assert paper.image_passes == preset.image_passes
    assert paper.image_passes > 0


def test_a_row_is_of_the_edition_that_was_opened() -> None:
    for key, each in recipes.SETS.items():
        assert recipes.set_of(SimpleNamespace(name=each.title)) == key
        assert any(row.startswith(f"{each.data}-") for row in recipes.ROWS)
    with pytest.raises(RequestError, match="digits is none of the sets"):
        recipes.set_of(SimpleNamespace(name="digits"))


def test_where_the_paper_has_no_figure_its_method_stands_as_others_measured_it() -> None:
    assert recipes.papers_cnn("fashion-official", "10") == "86.2"
    assert recipes.papers_cnn("cifar10", "1") == "28.9"
    assert recipes.papers_cnn("cifar10", "0.2") == ""
    assert recipes.table([line("cifar10", "10", 0.5)], "cifar10")[2].count("| 36.8 | 43.3 |") == 1


def test_the_command_of_a_line_names_the_stage() -> None:
    asked = [recipes.stage_options(stage) for stage in (recipes.PRIOR, recipes.PAPER, "Pretrained")]
    assert [shlex.split(words) for words in asked] == [
        ["--stage", "prior alone"],
        ["--stage", "paper's method"],
        ["--stage", "preset", "--ablation"],
    ]


def test_the_page_is_written_between_its_markers_alone(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"before\n{recipes.BEGIN}\nold\n{recipes.END}\nafter\n", "utf-8")
    for _ in range(2):
        recipes.document([line("fashion", "10", 0.8)], page)
    text = page.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("Fashion-MNIST") == 2
    assert "mnist.png" not in text.replace("recipes-fashion.png", "")


def test_a_page_that_is_not_there_is_made(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    recipes.document([line("fashion", "10", 0.8)], page)
    assert page.read_text("utf-8").startswith(recipes.BEGIN)
    assert "Fashion-MNIST" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Interrupted("saved in runs/a: --resume goes on"), 130, "the same command goes on"),
        (RequestError("no such data"), 2, "error: no such data"),
    ],
)
def test_what_a_user_can_put_right_is_a_line(error, status, said, capsys) -> None:
    def stopped() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(stopped)
    assert ended.value.code == status
    assert said in capsys.readouterr().err


def test_prior_and_labeller_have_the_whole_budget_and_move_samples() -> None:
    for name in recipes.SETS:
        for epsilon in ("10", "1"):
            config = recipes.row_config(name, epsilon, recipes.LABELLED)
            assert config.labeller.enabled
            assert config.training.steps == 0
            assert config.sampling.labeller_guidance == 1
            alone = recipes.row_config(name, epsilon, recipes.PRIOR)
            assert alone.prior.calibrate == config.prior.calibrate
            assert not alone.labeller.enabled
