"""``evaluate``: what it returns, when it reads the test set, and what it refuses."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from dpdm.errors import RequestError
from dpdm.evaluation import evaluate


@dataclass
class Spy:
    """A collection that writes down when its private arrays are read."""

    collection: object
    events: list[str] = field(default_factory=list)

    @property
    def shape(self):
        return self.collection.shape

    @property
    def classes(self):
        return self.collection.classes

    @property
    def private_images(self):
        self.events.append("images read")
        return self.collection.private_images

    @property
    def private_labels(self):
        self.events.append("labels read")
        return self.collection.private_labels


@pytest.fixture(scope="module")
def small(digits):
    """300 images to train on and 360 to test: enough to learn, quick to train."""
    train, test = digits
    few = replace(
        train, private_images=train.private_images[:300], private_labels=train.private_labels[:300]
    )
    return few, test


def test_accuracies_are_fractions_for_each_classifier_and_class(small):
    synthetic, test = small
    result = evaluate((synthetic.private_images, synthetic.private_labels), test=test)
    assert list(result["accuracy"]) == ["lr", "mlp", "cnn"]
    assert all(0.85 < value <= 1 for value in result["accuracy"].values())
    shares = np.bincount(test.private_labels) / len(test.private_labels)
    for name, by_class in result["per_class"].items():
        assert list(by_class) == list(test.classes)
        mean = float(np.dot(shares, list(by_class.values())))
        assert mean == pytest.approx(result["accuracy"][name])
    assert "accuracy_spread" not in result
    assert json.loads(json.dumps(result)) == result


def test_the_same_seed_gives_the_same_numbers_from_a_tuple_or_a_data_set(small):
    synthetic, test = small
    pair = (synthetic.private_images[:100], synthetic.private_labels[:100])
    opened = replace(synthetic, private_images=pair[0], private_labels=pair[1])
    results = [evaluate(given, test=test, seed=5) for given in (pair, opened)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


def test_several_seeds_give_a_spread_for_what_is_random(small):
    synthetic, test = small
    pair = (synthetic.private_images[:60], synthetic.private_labels[:60])
    result = evaluate(pair, test=test, seeds=2)
    assert set(result["accuracy_spread"]) == {"mlp", "cnn"}
    assert result["seeds"] == 2


def test_the_test_set_is_read_once_after_all_training(small):
    synthetic, test = small
    spy = Spy(test)
    evaluate(
        (synthetic.private_images[:60], synthetic.private_labels[:60]),
        test=spy,
        seeds=2,
        progress=lambda what, done, total: spy.events.append("training"),
    )
    reads = [event for event in spy.events if event != "training"]
    assert sorted(reads) == ["images read", "labels read"]
    assert spy.events[-2:] == reads


def test_selection_by_the_test_set_is_labelled_and_leaves_the_honest_accuracy_alone(small):
    synthetic, test = small
    pair = (synthetic.private_images[:100], synthetic.private_labels[:100])
    names = ("lr", "mlp")
    honest = evaluate(pair, test=test, classifiers=names, seeds=2)
    both = evaluate(pair, test=test, classifiers=names, seeds=2, selection="test")
    assert honest["selection"] == "synthetic"
    assert "accuracy_chosen_on_test" not in honest
    assert both["selection"] == "test"
    assert both["accuracy"] == honest["accuracy"]
    for name in names:
        assert both["accuracy_chosen_on_test"][name] >= both["accuracy"][name]
    assert any(note.startswith("selection=test") and "Optimistic" in note for note in both["notes"])


def test_selection_by_the_test_set_reads_it_once_too(small):
    synthetic, test = small
    spy = Spy(test)
    pair = (synthetic.private_images[:60], synthetic.private_labels[:60])
    evaluate(pair, test=spy, classifiers=("mlp",), seeds=2, selection="test")
    assert sorted(spy.events) == ["images read", "labels read"]


def test_a_second_evaluation_with_a_cache_trains_nothing_and_says_the_same(small, tmp_path):
    synthetic, test = small
    pair = (synthetic.private_images[:60], synthetic.private_labels[:60])
    first = evaluate(pair, test=test, cache=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert evaluate(pair, test=test, cache=tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept


def test_the_real_training_set_is_never_read(small):
    synthetic, test = small
    train = Spy(synthetic)
    evaluate((synthetic.private_images[:60], synthetic.private_labels[:60]), train=train, test=test)
    assert train.events == []


def test_images_without_a_channel_axis_are_grey(small):
    synthetic, test = small
    pair = (synthetic.private_images[:60, :, :, 0], synthetic.private_labels[:60])
    assert set(evaluate(pair, test=test)["accuracy"]) == {"lr", "mlp", "cnn"}


def test_a_missing_class_is_noted(small):
    synthetic, test = small
    keep = synthetic.private_labels != 3
    pair = (synthetic.private_images[keep][:80], synthetic.private_labels[keep][:80])
    result = evaluate(pair, test=test)
    assert result["per_class"]["lr"]["3"] == 0
    assert any("1 of 10 classes" in note and "3" in note for note in result["notes"])


def refused(synthetic, match, **arguments):
    with pytest.raises(RequestError, match=match) as caught:
        evaluate(synthetic, **arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_metric_is_refused_with_the_known_ones(small):
    message = "^metric nonsense is not known; available: classifiers, fid, kid, prdc, is, "
    refused(small[0], message, test=small[1], metrics=("classifiers", "nonsense"))
    refused(small[0], message, test=small[1], metrics="nonsense")


@pytest.mark.parametrize("metric", ["fid", "kid", "prdc", "per-class", "memorisation"])
def test_a_metric_without_the_set_it_needs_is_refused_by_name(small, metric):
    refused(small[0], f"^metric {metric} needs .*--train", test=small[1], metrics=metric)


@pytest.mark.parametrize("metric", ["classifiers", "per-class", "memorisation"])
def test_a_metric_without_a_test_set_is_refused_by_name(small, metric):
    refused(small[0], f"^metric {metric} needs .*--test", train=small[1], metrics=metric)


def test_asking_for_nothing_is_refused(small):
    refused(small[0], "no metric", test=small[1], metrics=())
    refused(small[0], "seeds is 0", test=small[1], seeds=0)


def test_an_unknown_classifier_or_selection_is_refused_with_the_known_ones(small):
    known = "available: lr, mlp, cnn, resnet, wrn"
    refused(small[0], f"vgg is not known; {known}", test=small[1], classifiers="vgg")
    refused(small[0], f"none was asked for; {known}", test=small[1], classifiers=())
    refused(small[0], "synthetic or test", test=small[1], selection="real")


def test_no_test_set_or_one_without_labels_is_refused(small):
    synthetic, test = small
    refused(synthetic, "--test", test=None)
    refused(synthetic, "no labels", test=replace(test, private_labels=None, classes=()))


def test_unlabelled_synthetic_images_are_refused(small):
    refused((small[0].private_images, None), "no labels", test=small[1])


def test_different_shapes_are_refused_with_both(small):
    synthetic, test = small
    big = (np.zeros((20, 28, 28, 1), np.uint8), np.zeros(20, np.int64))
    refused(big, r"28x28x1.*8x8x1", test=test)
    train = replace(test, private_images=np.zeros((20, 8, 8, 3), np.uint8))
    refused(synthetic, r"8x8x3.*8x8x1", test=test, train=train)


@pytest.mark.parametrize("label", [-1, 10, 999])
def test_labels_outside_the_test_classes_are_refused(small, label):
    synthetic, test = small
    labels = synthetic.private_labels.copy()
    labels[7] = label
    refused((synthetic.private_images, labels), rf"0 to 9 .*first is {label}\)", test=test)


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((20, 8, 8, 1), np.float32), np.zeros(20, np.int64), "float32"),
        (np.zeros((20, 64), np.uint8), np.zeros(20, np.int64), r"\(20, 64\)"),
        (np.zeros((20, 8, 8, 1), np.uint8), np.zeros(19, np.int64), r"\(19,\)"),
        (np.zeros((20, 8, 8, 1), np.uint8), np.zeros(20), "float64"),
        (np.zeros((9, 8, 8, 1), np.uint8), np.zeros(9, np.int64), "at least 10"),
        (np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.int64), "at least 10"),
    ],
)
def test_malformed_synthetic_arrays_are_refused(small, images, labels, match):
    refused((images, labels), match, test=small[1])


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.mark.parametrize(
    ("mine", "match"),
    [
        ((*WORDS[1:], "zero"), "class 0 is 'one' and 'zero'"),
        (WORDS[:9], "9 and 10"),
        (("2", "7"), "2 and 10"),
    ],
)
def test_class_names_that_disagree_are_refused(small, mine, match):
    synthetic, test = small
    named = replace(synthetic, classes=mine)
    refused(named, match, test=replace(test, classes=WORDS))


def test_other_numbers_than_a_count_from_zero_are_names(small):
    synthetic, test = small
    refused(replace(synthetic, classes=("2", "7")), "2 and 10", test=test)


def test_numbers_counted_from_zero_stand_in_for_names(small):
    synthetic, test = small
    nine = replace(
        synthetic,
        private_images=synthetic.private_images[:30],
        private_labels=np.minimum(synthetic.private_labels[:30], 8),
        classes=tuple("012345678"),
    )
    for classes in (WORDS, test.classes):
        assert evaluate(nine, test=replace(test, classes=classes))["accuracy"]
