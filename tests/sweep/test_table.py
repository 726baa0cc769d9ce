"""Tables and figures of known result lines."""

from __future__ import annotations

import csv
import io

import pytest

from dpdm.sweep.figure import draw, layout, to_png, to_svg
from dpdm.sweep.output import render_page
from dpdm.sweep.spending import Composed
from dpdm.sweep.table import rows_of, to_csv, to_markdown


@pytest.fixture
def lines(line):
    return [
        line({"views.count": 1, "privacy.epsilon": 10.0}, 0, 0.50, 2.0),
        line({"views.count": 1, "privacy.epsilon": 10.0}, 1, 0.60, 1.0),
        line({"views.count": 4, "privacy.epsilon": 10.0}, 0, 0.70, 0.5),
        line({"views.count": 1, "privacy.epsilon": 1.0}, 0, 0.30, 3.0),
    ]


def test_seeds_become_mean_and_sample_standard_deviation(lines) -> None:
    first, second, third = rows_of(lines)
    assert (first.seeds, second.seeds, third.seeds) == (2, 1, 1)
    assert first.measures["lr"] == pytest.approx((0.55, 0.1 / 2**0.5))
    assert first.measures["frechet"] == pytest.approx((1.5, 0.5**0.5))
    assert second.measures["cnn"] == (pytest.approx(0.72), None)
    assert first.epsilon == 9.91


def test_a_row_is_private_only_if_each_of_its_trainings_is(lines) -> None:
    lines[1]["epsilon"] = None
    assert rows_of(lines)[0].epsilon is None


def test_the_csv_has_numbers_in_full(lines) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(["views.count"], rows_of(lines)))))
    assert (rows[0]["views.count"], rows[0]["seeds"]) == ("1", "2")
    assert float(rows[0]["lr_sd"]) == pytest.approx(0.0707107)
    assert rows[1]["lr_sd"] == ""


def test_the_markdown_reads_as_a_table(lines) -> None:
    text = to_markdown(["views.count", "privacy.epsilon"], rows_of(lines), "fd-pixels")
    assert text.splitlines()[2] == (
        "| 1 | 10 | 2 | 9.91 | 55.0 ± 7.1 | 56.0 ± 7.1 | 57.0 ± 7.1 | 1.500 ± 0.707 | 10 ± 1 |"
    )


def test_without_classifiers_the_accuracies_are_left_empty(lines) -> None:
    for one in lines:
        one["accuracy"] = None
    rows = rows_of(lines)
    assert "lr" not in rows[0].measures
    assert "|  |  |  | 1.500" in to_markdown(["views.count"], rows, "fd-pixels")
    assert len(draw(rows, "fd-pixels").axes) == 2  # one measure, two panels


def test_numbers_lie_along_the_axis_and_epsilon_in_panels(line) -> None:
    rows = rows_of(
        line({"views.law": law, "views.count": count, "privacy.epsilon": epsilon}, 0, 0.5, 1.0)
        for law in ("iid", "stratified")
        for count in (1, 2, 32)
        for epsilon in (1.0, 10.0)
    )
    chosen = layout(rows)
    assert (chosen.x, chosen.series, chosen.panels) == (
        "views.count",
        "views.law",
        ("privacy.epsilon",),
    )
    figure = draw(rows, "fd-pixels")
    top = figure.axes[0]
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["iid", "stratified"]
    assert top.get_xscale() == "log"
    assert top.xaxis.get_transform().base == 2
    markers = {drawn[0].get_marker() for drawn in top.containers}
    styles = {drawn[0].get_linestyle() for drawn in top.containers}
    assert len(markers) == len(styles) == 2  # not told apart by colour alone


def test_names_lie_side_by_side_unjoined(line) -> None:
    rows = rows_of(line({"diffusion.config": name}, 0, 0.5, 1.0) for name in ("vp", "ve", "edm"))
    figure = draw(rows, "fd-pixels")
    top = figure.axes[0]
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["vp", "ve", "edm"]
    assert {drawn[0].get_linestyle() for drawn in top.containers} == {"None"}
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["LR", "MLP", "CNN"]


def test_panels_beyond_the_twelfth_are_said_to_be_left_out(line) -> None:
    rows = rows_of(
        line({"views.count": 1 + n % 2, "privacy.epsilon": 1.0 + n}, 0, 0.5, 1.0) for n in range(14)
    )
    figure = draw(rows, "fd-pixels")
    assert len(figure.axes) == 2 * 12
    assert "2 more panels left out" in figure.get_supxlabel()


def test_figures_are_the_same_bytes_for_the_same_lines(lines) -> None:
    rows = rows_of(lines)
    assert to_png(draw(rows, "fid")) == to_png(draw(rows, "fid"))
    assert to_svg(draw(rows, "fid"), clear=True) == to_svg(draw(rows, "fid"), clear=True)


def test_the_page_says_what_all_cost_and_loads_nothing(lines) -> None:
    page = render_page(lines, rows_of(lines), Composed(12.34, 1e-4, "pld", 4, 1, 0))
    assert "12.34" in page
    assert "NOT PRIVATE: of 5 trainings 1 had no noise" in page
    assert "Private: not covered by the guarantee" in page
    assert 'alt="Accuracy and Frechet distance' in page
    for loading in ("http://", "https://", "<script", '<link rel="stylesheet'):
        assert loading not in page
