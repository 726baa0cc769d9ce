"""Image folders: classes from folders, labels and groups from metadata.csv, or no labels."""

import numpy as np
import pytest

from dpdm.data import check_report, open_dataset
from dpdm.errors import RequestError


def levels(data):
    """The grey levels that tell one-colour images apart."""
    return data.private_images[:, 0, 0, 0].tolist()


def test_each_folder_is_a_class(make_files, grey):
    data = open_dataset(
        make_files({"cat/a.png": grey(1), "dog/b.png": grey(2), "cat/c.png": grey(3)})
    )
    assert data.classes == ("cat", "dog")
    assert levels(data) == [1, 2, 3]
    assert data.private_labels.tolist() == [0, 1, 0]
    assert data.name == "set"


def test_classes_are_in_natural_order(make_files, grey):
    files = {f"{name}/x.png": grey() for name in ("10", "9", "a10", "A9", "2")}
    assert open_dataset(make_files(files)).classes == ("2", "9", "10", "A9", "a10")


def test_images_are_in_natural_order_of_their_file_names(make_files, grey):
    data = open_dataset(
        make_files(
            {"b/2.png": grey(2), "a/10.png": grey(10), "a/2.png": grey(1), "b/1.png": grey(0)}
        )
    )
    assert levels(data) == [0, 1, 2, 10]


def test_a_class_folder_is_read_at_any_depth(make_files, grey):
    data = open_dataset(make_files({"cat/x/y/a.png": grey(), "dog/b.png": grey()}))
    assert data.private_labels.tolist() == [0, 1]


def test_a_link_that_leads_back_is_reported_and_not_followed(make_files, grey):
    folder = make_files({"cat/a.png": grey()})
    (folder / "cat" / "again").symlink_to(folder)
    data = open_dataset(folder, on_error="skip")
    assert data.private_count == 1
    assert [problem.file for problem in data.private_problems] == ["cat/again"]


def test_an_empty_class_folder_is_still_a_class(make_files, grey):
    folder = make_files({"cat/a.png": grey()})
    (folder / "dog").mkdir()
    data = open_dataset(folder)
    assert data.classes == ("cat", "dog")
    assert data.private_class_counts == (1, 0)


def test_classes_txt_fixes_the_order(make_files, grey):
    data = open_dataset(
        make_files({"classes.txt": "dog\ncat\n", "cat/a.png": grey(), "dog/b.png": grey()})
    )
    assert data.classes == ("dog", "cat")
    assert data.private_labels.tolist() == [1, 0]


def test_a_folder_that_classes_txt_does_not_name_is_refused(make_files, grey):
    folder = make_files({"classes.txt": "dog\n", "cat/a.png": grey()})
    with pytest.raises(RequestError, match=r"'cat' is no class in classes\.txt"):
        open_dataset(folder)


@pytest.mark.parametrize("folder", ["5%", "5_"])  # as a person calls it, or write_samples
def test_classes_txt_may_have_characters_that_are_replaced_when_written(make_files, grey, folder):
    files = {"classes.txt": "10%\n5%\n", f"{folder}/a.png": grey(), "10%/b.png": grey()}
    data = open_dataset(make_files(files))
    assert data.classes == ("10%", "5%")
    assert data.private_labels.tolist() == [1, 0]


def test_a_class_without_a_name_is_refused(make_files, grey):
    with pytest.raises(RequestError, match="class 0 has no name"):
        open_dataset(make_files({" /a.png": grey(), "dog/b.png": grey()}))


def test_images_alone_are_unlabelled(make_files, grey):
    data = open_dataset(make_files({"a.png": grey(1), "b.JPG": grey(2)}))
    assert data.classes == ()
    assert data.private_labels is None


def test_hidden_files_and_texts_are_passed_over(make_files, grey):
    folder = make_files(
        {
            "a.png": grey(),
            ".b.png": b"",
            "._a.png": b"x",
            ".git/c.png": b"",
            "notes.txt": "",
            "Thumbs.db": b"",
        }
    )
    assert open_dataset(folder).private_count == 1


def test_other_files_are_never_dropped_in_silence(make_files, grey):
    folder = make_files({"a.png": grey(), "b.gif": b"GIF89a"})
    with pytest.raises(RequestError, match=r"b\.gif \(not an image that is read"):
        open_dataset(folder)


def test_images_beside_folders_are_refused(make_files, grey):
    with pytest.raises(RequestError, match=r"images \(a\.png\) lie beside folders \(cat\)"):
        open_dataset(make_files({"a.png": grey(), "cat/b.png": grey()}))


def test_a_class_may_be_called_like_an_image(make_files, grey):
    data = open_dataset(make_files({"v1.png/a.png": grey(), "v2.png/b.png": grey()}))
    assert data.classes == ("v1.png", "v2.png")


@pytest.mark.parametrize("inside", ["", "src/"])
def test_a_folder_of_other_things_is_no_data_set(make_files, inside):
    with pytest.raises(RequestError, match=r"no PNG, JPEG, .*only other files \(.*code\.py\)"):
        open_dataset(make_files({f"{inside}code.py": ""}))


@pytest.mark.parametrize("files", [{}, {"readme.txt": "nothing here"}])
def test_an_empty_folder_is_refused(make_files, files):
    with pytest.raises(RequestError, match="no images"):
        open_dataset(make_files(files))


def test_bad_images_are_named_with_their_reasons(make_files, grey):
    folder = make_files(
        {
            "a.png": grey(),
            "b.png": b"",
            "c.png": grey()[:-30],
            "d.png": b"no image",
            "e.png": b"",
        }
    )
    with pytest.raises(RequestError) as caught:
        open_dataset(folder)
    message = str(caught.value)
    assert "4 of 5 images cannot be used" in message
    assert "b.png (empty file); c.png (damaged" in message
    assert "and 1 more" in message
    assert "data.on_error=skip" in message
    assert "\n" not in message


def test_skip_leaves_out_bad_images_and_nothing_else(make_files, grey):
    folder = make_files({"x/a.png": grey(1), "x/b.png": b"", "y/c.png": grey(3)})
    data = open_dataset(folder, on_error="skip")
    assert levels(data) == [1, 3]
    assert data.private_labels.tolist() == [0, 1]
    assert [p.file for p in data.private_problems] == ["x/b.png"]


def test_a_bad_image_changes_no_other_image(make_files, grey):
    files = {f"{i}.png": grey(i, height=5 + i, width=9) for i in range(5)}
    whole = open_dataset(make_files(files, "whole"), image_size=4)
    files["2.png"] = b"bad"
    less = open_dataset(make_files(files, "less"), image_size=4, on_error="skip")
    np.testing.assert_array_equal(less.private_images, np.delete(whole.private_images, 2, axis=0))


def test_only_bad_images_are_no_data_set(make_files):
    with pytest.raises(RequestError, match=r"none of its 2 images can be used.*a\.png"):
        open_dataset(make_files({"a.png": b"", "b.png": b""}), on_error="skip")


def test_mixed_sizes_are_refused_with_the_sizes_and_a_suggestion(make_files, grey):
    folder = make_files({"a.png": grey(height=40, width=50), "b.png": grey(height=70, width=40)})
    with pytest.raises(RequestError, match=r"40x50 \(1\), 70x40 \(1\); .*data\.image_size=32"):
        open_dataset(folder)


def test_mixed_sizes_are_taken_with_image_size(make_files, grey):
    folder = make_files({"a.png": grey(height=40, width=50), "b.png": grey(height=70, width=40)})
    data = open_dataset(folder, image_size=32)
    assert data.shape == (32, 32, 1)
    assert data.private_sizes_seen == {(40, 50): 1, (70, 40): 1}


def test_mixed_channels_are_refused_with_what_to_set(make_files, grey, png):
    folder = make_files({"a.png": grey(), "b.png": png(np.zeros((4, 4, 3), np.uint8))})
    with pytest.raises(
        RequestError, match=r"1 with 1 channel and 1 with 3 channels.*data\.channels=1"
    ):
        open_dataset(folder, on_error="skip")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_mixed_channels_are_taken_with_channels(make_files, grey, png, channels):
    folder = make_files({"a.png": grey(), "b.png": png(np.zeros((4, 4, 3), np.uint8))})
    assert open_dataset(folder, channels=channels).shape == (4, 4, channels)


def test_metadata_gives_labels_in_the_order_of_its_rows(make_files, grey):
    table = "file_name,label\nb.png,dog\na.png,cat\nin/c.png,cat\n"
    data = open_dataset(
        make_files({"metadata.csv": table, "a.png": grey(1), "b.png": grey(2), "in/c.png": grey(3)})
    )
    assert data.classes == ("cat", "dog")
    assert levels(data) == [2, 1, 3]
    assert data.private_labels.tolist() == [1, 0, 0]


def test_metadata_labels_that_are_numbers_are_in_natural_order(make_files, grey):
    table = "file_name,label\n" + "".join(f"{i}.png,{i}\n" for i in (10, 9, 2))
    files = {f"{i}.png": grey(i) for i in (10, 9, 2)}
    data = open_dataset(make_files({"metadata.csv": table, **files}))
    assert data.classes == ("2", "9", "10")


def test_a_label_too_long_for_a_class_name_says_so_in_one_line(make_files, grey):
    files = {"metadata.csv": f"file_name,label\na.png,{'1' * 5000}\n", "a.png": grey()}
    with pytest.raises(RequestError, match=r"metadata\.csv: a label of 5000 characters") as caught:
        open_dataset(make_files(files))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("table", "groups"),
    [
        ("file_name,label,\na.png,x,\nb.png,y,\n", None),
        ("file_name,label,,\na.png,x,,\nb.png,y,,\n", None),
        (" ,file_name,label\n0,a.png,x\n1,b.png,y\n", None),
        (",file_name,label,who\n0,a.png,x,p\n1,b.png,y,p\n", [0, 0]),
    ],
)
def test_columns_of_metadata_without_a_name_say_nothing(make_files, grey, table, groups):
    data = open_dataset(make_files({"metadata.csv": table, "a.png": grey(), "b.png": grey()}))
    assert data.classes == ("x", "y")
    found = data.private_groups
    assert (None if found is None else found.tolist()) == groups


def test_images_behind_a_linked_folder_that_metadata_lists_are_read(make_files, grey):
    elsewhere = make_files({"a.png": grey(1)}, name="elsewhere")
    folder = make_files({"metadata.csv": "file_name,label\nimages/a.png,x\n"})
    (folder / "images").symlink_to(elsewhere)
    data = open_dataset(folder)
    assert levels(data) == [1]
    (folder / "more").symlink_to(elsewhere)
    with pytest.raises(RequestError, match=r"1 of 2 images cannot be used: more "):
        open_dataset(folder)


def test_metadata_may_write_its_columns_with_capitals(make_files, grey):
    table = "File_Name,Label\na.png,x\nb.png,y\n"
    data = open_dataset(make_files({"metadata.csv": table, "a.png": grey(1), "b.png": grey(2)}))
    assert data.classes == ("x", "y")
    assert data.private_groups is None


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["Training/a/0.png", "Testing/a/0.png"], "parts of the data"),
        (["x/0.png", "X/0.png", "y/0.png"], "capitals alone: X, x;"),
    ],
)
def test_classes_that_are_hardly_meant_so_are_warned_of(make_files, grey, files, says):
    report = check_report(make_files({file: grey(200) for file in files}))
    assert report["ready"]
    assert any(says in warning for warning in report["warnings"])


def test_groups_without_classes_are_warned_of(make_files, grey):
    table = "file_name,diagnosis\na.png,x\nb.png,y\n"
    folder = make_files({"metadata.csv": table, "a.png": grey(200), "b.png": grey(200)})
    assert any("call it label" in warning for warning in check_report(folder)["warnings"])


@pytest.mark.parametrize("columns", ["patient", "group", "group,age"])
def test_metadata_may_say_whose_image_it_is(make_files, grey, columns):
    age = ",40" if "age" in columns else ""
    table = f"file_name,{columns}\n" + "".join(f"{i}.png,p{i % 2}{age}\n" for i in range(4))
    files = {f"{i}.png": grey() for i in range(4)}
    data = open_dataset(make_files({"metadata.csv": table, **files}))
    assert data.private_groups.tolist() == [0, 1, 0, 1]
    assert data.classes == ()


def test_two_columns_that_might_be_the_group_are_refused(make_files, grey):
    folder = make_files({"metadata.csv": "file_name,age,patient\na.png,4,p\n", "a.png": grey()})
    with pytest.raises(RequestError, match="which of the columns age, patient"):
        open_dataset(folder)


def test_group_ids_have_no_gap_after_skipping(make_files, grey):
    table = "file_name,group\na.png,p\nb.png,q\nc.png,r\n"
    folder = make_files({"metadata.csv": table, "a.png": grey(), "b.png": b"", "c.png": grey()})
    assert open_dataset(folder, on_error="skip").private_groups.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("name,label\na.png,x\n", "no column file_name; its columns are name, label"),
        ("", "no column file_name; its columns are none"),
        ("file_name,label,label\na.png,x,x\n", "a column appears twice"),
        ("file_name,label\na.png\n", "line 2 does not have 2 columns"),
        ("file_name,label\na.png,x,y\n", "line 2 does not have 2 columns"),
        ("file_name,label\na.png,x\na.png,y\n", r"line 3 lists 'a\.png' a second time"),
        (b"file_name,label\na.png,\xff\n", "not a UTF-8"),
        ("file_name,label\na.png,\n", r"a\.png \(no label in metadata\.csv\)"),
        ("file_name,group\na.png,\n", r"a\.png \(no group in metadata\.csv\)"),
        ("file_name,label\na.png,x\nb.png,y\n", r"b\.png \(listed in metadata\.csv, not in"),
        ("file_name\n../a.png\n", "points outside the folder"),
        ("file_name\n/etc/passwd\n", "points outside the folder"),
        ("file_name\n", r"a\.png \(not listed in metadata\.csv\)"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_right_is_refused(make_files, grey, table, says):
    with pytest.raises(RequestError, match=says) as caught:
        open_dataset(make_files({"metadata.csv": table, "a.png": grey()}))
    assert "\n" not in str(caught.value)


def test_metadata_in_another_format_is_not_ignored(make_files, grey):
    with pytest.raises(RequestError, match=r"metadata\.jsonl is not read"):
        open_dataset(make_files({"metadata.jsonl": "{}", "a.png": grey()}))


def test_the_splits_of_a_folder_are_its_folders_train_and_test(make_files, grey):
    folder = make_files(
        {"train/cat/a.png": grey(1), "test/cat/b.png": grey(2), "val/cat/c.png": grey(3)}
    )
    assert levels(open_dataset(folder)) == [1]
    assert levels(open_dataset(f"{folder}@train")) == [1]
    assert levels(open_dataset(f"{folder}@test")) == [2]
    assert open_dataset(f"{folder}@test").classes == ("cat",)


def test_classes_called_train_and_test_stay_classes_with_classes_txt(make_files, grey):
    folder = make_files(
        {"train/a.png": grey(), "test/b.png": grey(), "classes.txt": "train\ntest\n"}
    )
    assert open_dataset(folder).classes == ("train", "test")


def test_a_folder_without_splits_has_no_test_split(make_files, grey):
    with pytest.raises(RequestError, match="it has no splits"):
        open_dataset(f"{make_files({'a/a.png': grey()})}@test")


def test_a_folder_whose_name_holds_an_at_sign_is_a_folder(make_files, grey):
    assert open_dataset(make_files({"a.png": grey()}, "me@test")).private_count == 1


def test_progress_counts_every_image(make_files, grey):
    seen = []
    folder = make_files({f"{i}.png": grey() for i in range(5)})
    open_dataset(folder, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


def test_the_report_tells_what_is_wrong_instead_of_failing(make_files, grey):
    folder = make_files(
        {"x/a.png": grey(), "x/b.png": b"", "y/c.png": grey(height=5), "y/d.png": grey()}
    )
    report = check_report(folder)
    assert report["private"] is True
    assert "private" in report["notice"]
    assert report["count"] == 3
    assert report["shape"] is None
    assert report["classes"] == [{"name": "x", "count": 1}, {"name": "y", "count": 2}]
    assert report["sizes"] == [
        {"height": 4, "width": 4, "count": 2},
        {"height": 5, "width": 4, "count": 1},
    ]
    assert report["problems"] == [{"file": "x/b.png", "reason": "empty file"}]
    assert report["ready"] is False
    assert "1 of 4 images cannot be used" in report["error"]
    assert "differ in size" in check_report(folder, on_error="skip")["error"]
    assert check_report(folder, on_error="skip", image_size=4)["ready"] is True


def test_the_report_counts_groups(make_files, grey):
    table = "file_name,group\na.png,p\nb.png,q\nc.png,q\n"
    report = check_report(
        make_files({"metadata.csv": table, **{f"{n}.png": grey() for n in "abc"}})
    )
    assert report["groups"] == {"count": 2, "min_images": 1, "max_images": 2}


def test_a_channel_of_opacity_that_says_nothing_is_warned_of(make_files, grey):
    folder = make_files({"a/0.png": grey(200), "b/0.png": grey(200)})
    warnings = check_report(folder, channels=2)["warnings"]
    assert any("say data.channels=1" in warning for warning in warnings)
    assert not check_report(folder)["warnings"]
