"""Distances, classes and memorisation in the private report, and not a byte of them outside it."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dpdm.evaluation import render_report


class Reader(HTMLParser):
    """The text of a page, and its tables as lists of rows of (tag, attributes, text)."""

    def __init__(self):
        super().__init__()
        self.text, self.tables, self.pictures = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append([tag, dict(attrs), ""])
        elif tag == "img":
            self.pictures.append(dict(attrs))

    def handle_data(self, data):
        self.text.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1][2] += data.strip()


def read(page):
    reader = Reader()
    reader.feed(page.partition('<main id="main">')[2])
    return reader


def words(page):
    return " ".join(" ".join(read(page).text).split())


@pytest.fixture
def full(content, comparison):
    return replace(content, evaluation={**content.evaluation, **comparison})


def test_distances_are_shown_with_the_features_that_they_are_of(full):
    text = words(render_report(full, private=True))
    for part in (
        "FID Frechet distance 12.35",
        "KID kernel distance, spread over subsets 0.0123 ± 0.0009",
        "fd-net Frechet distance 3.21",
        "precision (inception) synthetic images that look like real ones 75.0%",
        "density (inception)",
        "Features net : another.",
    ):
        assert part in text


def test_classes_show_what_was_asked_for_and_who_is_served_worse(full):
    page = render_report(full, private=True)
    text = words(page)
    assert "Class 8 is served worse, beyond chance: coverage 40.0%, all classes 80.0%." in text
    assert "Class Asked for Predicted Agree Coverage FID" in text
    assert "0 20 25 95.0% 80.0% 20.5" in text
    assert "1 0 3 – – –" in text
    assert "right for 97.0%" in text


def test_the_confusion_matrix_is_a_table_with_headings_and_numbers(full):
    tables = read(render_report(full, private=True)).tables
    (matrix,) = (table for table in tables if len(table) == 11 and len(table[0]) == 11)
    assert [cell[2] for cell in matrix[0]] == ["Class", *"0123456789"]
    assert all(cell[0] == "th" and cell[1]["scope"] == "col" for cell in matrix[0])
    assert all(row[0][0] == "th" and row[0][1]["scope"] == "row" for row in matrix[1:])
    assert [cell[2] for cell in matrix[1][1:]] == ["35", "0", "0", "1", *"000000"]
    assert "right" in matrix[1][1][1]["class"]


def test_memorisation_shows_its_verdict_its_thresholds_and_the_closest_pairs(full):
    page = render_report(full, private=True)
    text = words(page)
    assert "<strong>Signs of memorisation: in pixels 50.0% of the samples" in page
    assert "the 1% quantile of the hold-out's own distances" in text
    pairs = [picture for picture in read(page).pictures if "training image" in picture["alt"]]
    assert len(pairs) == 8
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pairs)
    assert text.count("near-copy") >= 8


def test_without_a_sign_nothing_is_loud(full, comparison):
    quiet = {**comparison["memorisation"], "flagged": False, "verdict": "No sign."}
    content = replace(full, evaluation={**full.evaluation, "memorisation": quiet})
    assert "<strong>No sign." not in render_report(content, private=True)


def test_an_evaluation_without_classifiers_still_shows_its_notes(content, comparison):
    entries = {key: value for key, value in comparison.items() if key != "confusion"}
    content = replace(content, evaluation={**entries, "notes": ["A note."]})
    assert "A note." in words(render_report(content, private=True))


def test_no_byte_of_the_release_report_depends_on_them(full, content):
    release = render_report(full, private=False)
    assert release == render_report(replace(content, evaluation=None), private=False)
    for mark in ('id="distances"', 'id="memorisation"', "Confusion", "12.35"):
        assert mark not in release
    pictures = re.findall(r"base64,[^\"]+", render_report(full, private=True))
    pairs = [pair["picture"] for pair in full.evaluation["memorisation"]["pairs"]]
    assert all(f"base64,{pair}" in pictures for pair in pairs)
    assert not any(pair in release for pair in pairs)
