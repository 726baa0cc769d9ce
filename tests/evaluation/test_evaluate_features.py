"""``evaluate`` by features on real digits: names of metrics, memorisation, classes, resuming."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dpdm.errors import RequestError
from dpdm.evaluation import added, by_features, evaluate, without_pictures
from dpdm.evaluation.classification import ONE_SEED
from dpdm.evaluation.features import INCEPTION_ABSENT, Extractor
from dpdm.evaluation.features.cnn import train_judge
from dpdm.hashing import content_hash

FEATURES = ("fid", "kid", "prdc", "is", "per-class", "memorisation")


@pytest.fixture(scope="module", autouse=True)
def _one_training_for_each_test_set():
    """The CNN of the features is the same for the same test set: trained once for this file."""
    trained = {}

    def train_once(images, labels, classes, progress=None):
        key = content_hash(images, labels)
        if key not in trained:
            trained[key] = train_judge(images, labels, classes, progress)
        return trained[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_features, "train_judge", train_once)
        yield


@pytest.fixture(scope="module")
def fresh(digits):
    """Real images that are neither in the training set nor in the test set: half of the test."""
    train, test = digits
    other = np.arange(len(test.private_images)) % 2 == 0
    return (
        train,
        replace(
            test,
            private_images=test.private_images[other],
            private_labels=test.private_labels[other],
        ),
        (test.private_images[~other], test.private_labels[~other]),
    )


@pytest.fixture(scope="module")
def copycat(digits):
    """Training images plus small noise, as released samples."""
    train, _ = digits
    noise = np.random.default_rng(0).integers(-3, 4, train.private_images[:400].shape)
    images = np.clip(train.private_images[:400].astype(int) + noise, 0, 255).astype(np.uint8)
    return images, train.private_labels[:400]


@pytest.fixture(scope="module")
def everything(digits, copycat):
    train, test = digits
    return evaluate(copycat, train=train, test=test, metrics=FEATURES)


@pytest.fixture
def network(tmp_path):
    """A TorchScript file with the interface of the Inception network."""

    class Network(torch.nn.Module):
        def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            rows = img[:, 0].float().flatten(1) / 255
            if return_features:
                return rows
            return rows[:, 20:30].softmax(1)

    path = tmp_path / "stand-in.pt"
    torch.jit.save(torch.jit.script(Network()), path)
    return str(path)


def test_without_inception_there_is_no_fid_but_a_line_that_says_how_to_get_it(everything):
    assert not {"fid", "kid", "is"} & set(everything)
    (note,) = (note for note in everything["notes"] if "absent" in note)
    assert "--inception download" in note
    assert {"fd-cnn", "kd-cnn", "kd-cnn_spread"} <= set(everything)
    assert everything["prdc_features"] == "cnn"
    assert "180 real test images" in everything["features"]["cnn"]


def test_the_result_is_plain_json(everything):
    assert json.loads(json.dumps(everything, allow_nan=False)) == everything
    assert {"train_images": 1437, "test_images": 360, "synthetic_images": 400}.items() <= (
        everything.items()
    )


def test_a_given_inception_network_gives_fid_kid_and_the_score(digits, copycat, network):
    train, test = digits
    metrics = ("fid", "kid", "is", "prdc")
    result = evaluate(copycat, train=train, test=test, metrics=metrics, inception=network)
    assert result["fid"] >= 0
    assert {"kid", "kid_spread", "is", "is_spread"} <= set(result)
    assert result["prdc_features"] == "inception"
    assert not any(key.startswith(("fd-", "kd-")) for key in result)
    assert "not comparable" in result["features"]["inception"]
    # Features are pixels here: the definition, from numpy.
    one, other = (
        images.reshape(len(images), -1) / 255 for images in (copycat[0], train.private_images)
    )
    means = ((one.mean(0) - other.mean(0)) ** 2).sum()
    cov, cov_other = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    cross = np.sqrt(np.linalg.eigvals(cov @ cov_other).clip(0)).real.sum()
    exact = means + np.trace(cov) + np.trace(cov_other) - 2 * cross
    assert result["fid"] == pytest.approx(exact, rel=1e-3)


def test_another_network_gives_its_name_to_the_metrics(digits, copycat, network):
    train, _ = digits
    result = evaluate(
        copycat, train=train, metrics=("fid", "kid", "prdc"), features=[network, "pixels"]
    )
    assert {"fd-stand-in", "kd-stand-in", "fd-pixels", "kd-pixels"} <= set(result)
    assert not {"fid", "kid"} & set(result)
    assert result["prdc_features"] == "stand-in"
    assert set(result["features"]) == {"stand-in", "pixels"}


def test_without_any_features_the_notes_say_why(digits, copycat):
    train, _ = digits
    result = evaluate(copycat, train=train, metrics=("fid", "prdc"))
    assert "precision" not in result
    assert any("No features to compare by" in note for note in result["notes"])


def test_a_planted_copycat_is_flagged(everything, digits, copycat):
    found = everything["memorisation"]
    assert found["flagged"]
    assert "near-copies" in found["verdict"]
    for name in ("pixels", "cnn"):
        assert found["spaces"][name]["flagged"]
        assert found["spaces"][name]["near_copies"] > 0.9
        assert "hold-out" in found["spaces"][name]["threshold_origin"]
    train, _ = digits
    for pair in found["pairs"]:
        assert pair["near_copy"]
        difference = copycat[0][pair["synthetic"]] - train.private_images[pair["train"]].astype(int)
        root = np.sqrt(np.mean((difference / 255) ** 2))
        assert pair["distance"] == pytest.approx(root)
        assert pair["distance"] < pair["held_out_distance"]


def test_fresh_real_images_are_not_flagged(fresh):
    train, held_out, images = fresh
    found = evaluate(images, train=train, test=held_out, metrics="memorisation")["memorisation"]
    assert not found["flagged"]
    assert found["verdict"].startswith("No sign of memorisation")
    assert set(found["spaces"]) == {"pixels", "cnn"}


def test_a_test_set_with_other_shares_of_classes_is_no_sign_of_memorisation(fresh):
    train, held_out, (images, labels) = fresh

    def with_few_of_half_the_classes(labels):
        return np.flatnonzero((labels < 5) | (np.arange(len(labels)) % 8 == 0))

    chosen = with_few_of_half_the_classes(train.private_labels)
    uneven = replace(
        train,
        private_images=train.private_images[chosen],
        private_labels=train.private_labels[chosen],
    )
    chosen = with_few_of_half_the_classes(labels)
    samples = images[chosen], labels[chosen]
    found = evaluate(samples, train=uneven, test=held_out, metrics="memorisation")["memorisation"]
    pixels = found["spaces"]["pixels"]
    assert not found["flagged"]
    assert pixels["classes_matched"]
    assert 50 <= pixels["thresholds_from"] < pixels["held_out_images"]
    assert pixels["membership_auc"] < 0.55


def test_the_cnns_hold_out_is_the_half_that_it_has_not_seen(everything):
    spaces = everything["memorisation"]["spaces"]
    assert spaces["pixels"]["held_out_images"] == 360
    assert spaces["cnn"]["held_out_images"] == 180


def test_a_hold_out_too_small_to_measure_by_is_refused(digits, copycat):
    train, test = digits
    small = replace(
        test, private_images=test.private_images[:40], private_labels=test.private_labels[:40]
    )
    with pytest.raises(RequestError, match="at least 50 real test images"):
        evaluate(copycat, train=train, test=small, metrics="memorisation")
    with pytest.raises(RequestError, match="50 real test images or more"):
        evaluate(copycat, train=train, test=small, metrics="per-class")


def test_training_images_are_no_hold_out(digits, copycat):
    train, _ = digits
    says = f"{len(train.private_images)} of the {len(train.private_images)} test images are"
    with pytest.raises(RequestError, match=says):
        evaluate(copycat, train=train, test=train, metrics="memorisation")


def test_balance_counts_what_was_asked_for_and_what_came(digits, copycat):
    train, test = digits
    images, labels = copycat
    swapped = np.where(labels == 3, 5, labels)  # threes sold as fives
    result = evaluate((images, swapped), train=train, test=test, metrics="per-class")
    entries = result["classes"]
    assert entries["3"]["asked"] == 0
    assert "agreement" not in entries["3"]
    assert "coverage" not in entries["3"]
    assert sum(entry["asked"] for entry in entries.values()) == len(images)
    assert sum(entry["predicted"] for entry in entries.values()) == len(images)
    assert entries["3"]["predicted"] > 30
    assert entries["5"]["agreement"] < 0.7 < 0.8 < entries["0"]["agreement"]
    assert 0.8 < result["judge_accuracy"] <= 1


def test_a_class_of_one_repeated_image_is_named_as_served_worse(digits):
    train, test = digits
    images, labels = train.private_images.copy(), train.private_labels
    images[labels == 4] = images[labels == 4][0]
    result = evaluate((images, labels), train=train, test=test, metrics="per-class")
    assert ("4", "coverage") in {(one["class"], one["by"]) for one in result["served_worse"]}


def test_a_second_call_computes_nothing_again(digits, copycat, tmp_path):
    train, test = digits
    calls = []

    def compute(images):
        calls.append(len(images))
        return images.reshape(len(images), -1).astype(np.float32)

    def run():
        return evaluate(
            copycat,
            train=train,
            test=test,
            metrics=("fid", "prdc", "memorisation"),
            features=[Extractor("mine", "v1", "my features", compute)],
            cache=tmp_path,
        )

    first = run()
    made, calls[:] = sum(calls), []
    assert made == 400 + 1437 + 360
    files = {path.name for path in tmp_path.iterdir()}
    assert run() == first
    assert calls == []
    assert {path.name for path in tmp_path.iterdir()} == files


def test_progress_is_told_to_the_end_of_each_part(digits, copycat):
    train, test = digits
    last = {}
    evaluate(
        copycat,
        train=train,
        test=test,
        metrics=("prdc", "memorisation"),
        features=["pixels"],
        progress=lambda what, done, total: last.__setitem__(what, (done, total)),
    )
    assert len(last) > 5
    assert all(done == total for done, total in last.values())


def test_a_later_evaluation_is_added_to_an_earlier_one():
    earlier = {"accuracy": {"lr": 0.9}, "notes": ["a", INCEPTION_ABSENT], "features": {"cnn": "x"}}
    later = {"fid": 1.0, "kid": 0.1, "is": 2.0, "notes": ["a", "b"], "features": {"inception": "y"}}
    assert added(earlier, later) == {
        "accuracy": {"lr": 0.9},
        "fid": 1.0,
        "kid": 0.1,
        "is": 2.0,
        "features": {"cnn": "x", "inception": "y"},
        "notes": ["a", "b"],
    }


def test_figures_of_classifiers_are_of_one_protocol():
    later = {"accuracy": {"lr": 0.8}, "seeds": 1, "selection": "synthetic", "notes": [ONE_SEED]}
    earlier = {
        "accuracy": {"lr": 0.9},
        "accuracy_spread": {"lr": 0.1},
        "accuracy_chosen_on_test": {"lr": 0.95},
        "seeds": 3,
        "selection": "test",
        "fid": 1.0,
        "notes": ["selection=test: lr 0.9500 where each epoch is chosen", "of fid"],
    }
    assert added(earlier, later) == later | {"fid": 1.0, "notes": ["of fid", ONE_SEED]}
    assert added(later, {"accuracy": {"lr": 0.9}, "seeds": 3, "notes": []})["notes"] == []


def test_pictures_of_real_images_stay_out_of_what_is_printed(everything):
    printed = without_pictures(everything)
    assert "picture" not in json.dumps(printed)
    assert "picture" in everything["memorisation"]["pairs"][0]
    assert len(printed["memorisation"]["pairs"]) == 8
