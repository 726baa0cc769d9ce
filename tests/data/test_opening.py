"""What a SPEC may be, and what is said where it is nothing."""

import numpy as np
import pytest

from dpdm.data import check_report, open_dataset
from dpdm.errors import RequestError


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mnst", "no data set or path is called 'mnst'; did you mean mnist"),
        ("no/such/folder", "no data set or path is called 'no/such/folder'"),
        ("digits@validation", "digits has no split 'validation'; write digits@train"),
        ("", "the data set is not named; give a name"),
        (" @test", "the data set is not named"),
        ("~nobody-of-that-name/set", "no data set or path is called '~nobody"),
        ("a\0b", "no data set or path is called"),
        ("x" * 5000, "is no path .File name too long"),
    ],
)
def test_a_spec_that_is_nothing_says_what_there_is(spec, says):
    with pytest.raises(RequestError, match=says) as caught:
        open_dataset(spec)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "set.zip").touch()
    with pytest.raises(RequestError, match=r"set\.zip: not a data set; give a folder"):
        open_dataset(tmp_path / "set.zip")


def test_a_folder_with_only_an_npz_points_at_it(tmp_path):
    np.savez(tmp_path / "samples.npz", images=np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(RequestError, match=r"did you mean .*samples\.npz"):
        open_dataset(tmp_path)


def test_a_name_wins_over_a_folder_of_that_name(make_files, grey, monkeypatch, tmp_path):
    make_files({"a.png": grey()}, "digits")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("digits").private_count == 1437
    assert open_dataset("./digits").private_count == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_size": 0}, "data.image_size is 0; it must be a whole number from 1 to 1024"),
        ({"image_size": 2.5}, "data.image_size is 2.5"),
        ({"image_size": True}, "data.image_size is True"),
        ({"channels": 5}, "data.channels is 5; it must be a whole number from 1 to 4"),
        ({"on_error": "ignore"}, "data.on_error is 'ignore'; it must be fail or skip"),
        ({"public_size": 0}, "data.public_size is 0; it must be a whole number of at least 1"),
    ],
)
@pytest.mark.parametrize("function", [open_dataset, check_report])
def test_options_that_cannot_be_met_are_refused(options, says, function):
    with pytest.raises(RequestError, match=says):
        function("digits", **options)


def test_the_report_of_a_good_set_says_it_is_ready():
    report = check_report("digits@test", public_size=400)
    assert report["ready"] is True
    assert report["error"] is None
    assert report["count"] == 360
    assert report["shape"] == (8, 8, 1)
    assert report["sizes"] == [{"height": 8, "width": 8, "count": 360}]
    assert sum(c["count"] for c in report["classes"]) == 360
    assert report["groups"] is None
    assert (report["public_size"], report["public_size_declared"]) == (400, True)
