"""Our figures beside others': whose they are, where the marks lie, and what is not compared."""

from dataclasses import replace

import pytest

from dpdm.evaluation import render_report
from dpdm.evaluation.page_beside import (
    BASELINE,
    EARLIER,
    OURS,
    PAPER,
    PAPER_BASELINE,
    beside_view,
)
from dpdm.evaluation.published import published_figures

BASELINE_RUN = {
    "method": "dpsgd",
    "epsilon": 9.991,
    "delta": 1e-5,
    "accuracy": {"lr": 0.91, "mlp": 0.92, "cnn": 0.96},
}


def marks(view, title):
    (plot,) = (plot for plot in view.plots if plot.title == title)
    return plot.marks


def with_evaluation(content, **entries):
    return replace(content, evaluation={**content.evaluation, **entries})


@pytest.mark.parametrize(
    ("data", "epsilon", "cnn", "dp_sgd"),
    [
        ("MNIST", 0.2, [0.719, 0.863], 0.699),
        ("MNIST", 1.0, [0.934, 0.953], 0.882),
        ("MNIST", 9.99, [0.973, 0.981], 0.964),
        ("Fashion-MNIST", 10.0, [0.849, 0.862], 0.771),
        ("Fashion-MNIST (repackaged split)", 1.0, [0.736, 0.794], 0.705),
    ],
)
def test_published_figures_are_those_of_the_papers_tables_1_and_2(data, epsilon, cnn, dp_sgd):
    *synthesis, baseline = published_figures(data, epsilon)
    assert [row.accuracy["cnn"] for row in synthesis] == pytest.approx(cnn)
    assert baseline.accuracy["cnn"] == pytest.approx(dp_sgd)
    assert [row.table for row in (*synthesis, baseline)] == ["Table 1", "Table 1", "Table 2"]


def test_the_nearest_published_epsilon_is_taken_and_named():
    assert {row.epsilon for row in published_figures("MNIST", 5.0)} == {10}
    assert {row.epsilon for row in published_figures("MNIST", 0.01)} == {0.2}


@pytest.mark.parametrize("data", ["digits", "", "CIFAR-10", "scans"])
def test_nothing_is_published_for_other_data(data):
    assert published_figures(data, 1.0) == ()


def test_every_figure_has_its_name_its_mark_and_its_place(content):
    content = with_evaluation(replace(content, data="MNIST"), baseline=BASELINE_RUN)
    view = beside_view(content)
    assert view.axis == ("80%", "100%")
    found = marks(view, "MLP")
    assert [(mark.name, mark.shape, mark.text) for mark in found] == [
        ("These images", OURS, "95.1%"),
        ("Prior alone", EARLIER, "93.8%"),
        ("DP-SGD on real images, ε\N{NO-BREAK SPACE}9.991", BASELINE, "92.0%"),
        ("Paper: DPDM, sampler for FID, ε\N{NO-BREAK SPACE}10", PAPER, "94.6%"),
        ("Paper: DPDM, sampler for accuracy, ε\N{NO-BREAK SPACE}10", PAPER, "94.8%"),
        ("Paper: DP-SGD on real images, ε\N{NO-BREAK SPACE}10", PAPER_BASELINE, "92.9%"),
    ]
    assert found[0].place == pytest.approx(100 * (0.951 - 0.8) / 0.2)
    assert len({OURS, EARLIER, BASELINE, PAPER, PAPER_BASELINE}) == 5  # never by colour alone
    assert [mark.name for mark in marks(view, "CNN")].count("Prior alone") == 0


def test_fid_stands_beside_the_published_one_only_where_it_was_measured(content):
    content = replace(content, data="MNIST")
    assert beside_view(content).fid is None
    plot = beside_view(with_evaluation(content, fid=20.04)).fid
    assert [mark.text for mark in plot.marks] == ["20.04", "5.01", "6.65"]
    assert [mark.place for mark in plot.marks] == pytest.approx([100, 25, 100 * 6.65 / 20.04])


def test_published_figures_are_said_to_be_published(content):
    page = render_report(replace(content, data="Fashion-MNIST"), private=True)
    assert "Paper: published, not measured here." in page
    assert "Table 1 and Table 2, at its epsilon 10 and delta 1e-5" in page
    assert "2210.09929" in page


def test_without_a_promise_no_published_epsilon_is_near(content):
    content = replace(content, data="MNIST", statement={"private": False, "epsilon": 10.0})
    assert all(mark.shape in (OURS, EARLIER) for mark in marks(beside_view(content), "MLP"))


def test_alone_nothing_is_compared(content):
    assert beside_view(replace(content, stages=())) is None
    assert "Beside other figures" not in render_report(replace(content, stages=()), private=True)


def test_no_figure_is_in_the_release_version(content):
    content = with_evaluation(replace(content, data="MNIST"), baseline=BASELINE_RUN)
    page = render_report(content, private=False)
    assert "Beside" not in page
    assert "Table 1" not in page
