"""Classifiers kept by content: never trained twice, never taken for those of other images."""

import numpy as np
import pytest

from dpdm.evaluation.classifiers import AVAILABLE_CLASSIFIERS, ClassifierStore, kept
from dpdm.evaluation.store import Store


def blobs(images=60, size=(6, 6, 1), classes=3, seed=0):
    """Images whose class is their brightness."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    pixels = rng.integers(0, 40, (images, *size)) + labels[:, None, None, None] * 80
    return pixels.astype(np.uint8), labels


@pytest.fixture
def trainings(monkeypatch):
    """The names of the classifiers that were really trained."""
    names = []
    train = kept.train_classifier

    def counted(name, *rest, **more):
        names.append(name)
        return train(name, *rest, **more)

    monkeypatch.setattr(kept, "train_classifier", counted)
    return names


@pytest.mark.parametrize("name", AVAILABLE_CLASSIFIERS)
def test_a_kept_classifier_predicts_as_the_trained_one(tmp_path, trainings, name):
    store = ClassifierStore(Store(tmp_path), *blobs(), 3)
    fresh, _ = blobs(seed=1)
    first, again = store.train(name, 0), store.train(name, 0)
    assert trainings == [name]
    np.testing.assert_array_equal(first.classifier.predict(fresh), again.classifier.predict(fresh))
    assert first.classifier.held_out_accuracy == again.classifier.held_out_accuracy
    assert first.seconds == again.seconds > 0


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_logistic_regression_is_kept_with_any_number_of_classes(tmp_path, classes):
    images, labels = blobs(classes=classes)
    labels = labels + 4
    store = ClassifierStore(Store(tmp_path), images, labels, 10)
    for trained in (store.train("lr", 0), store.train("lr", 0)):
        np.testing.assert_array_equal(trained.classifier.predict(images), labels)


def test_other_images_labels_seeds_and_classifiers_are_other_keys(tmp_path, trainings):
    images, labels = blobs()
    other = images.copy()
    other[0, 0, 0, 0] ^= 1
    for content in ((images, labels, 3), (other, labels, 3), (images, labels[::-1], 3)):
        ClassifierStore(Store(tmp_path), *content).train("mlp", 0)
    store = ClassifierStore(Store(tmp_path), images, labels, 3)
    store.train("mlp", 1)
    store.train("lr", 0)
    assert trainings == ["mlp", "mlp", "mlp", "mlp", "lr"]


def test_an_interrupted_evaluation_goes_on_with_what_was_not_done(tmp_path, trainings):
    store = ClassifierStore(Store(tmp_path), *blobs(), 3)
    store.train("lr", 0)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.train("mlp", 0, stop)
    assert trainings == ["lr", "mlp"]
    again = ClassifierStore(Store(tmp_path), *blobs(), 3)
    again.train("lr", 0)
    again.train("mlp", 0)
    assert trainings == ["lr", "mlp", "mlp"]


def test_without_a_folder_nothing_is_kept(trainings):
    store = ClassifierStore(Store(), *blobs(), 3)
    store.train("lr", 0)
    store.train("lr", 0)
    assert trainings == ["lr", "lr"]


def test_an_onlooker_changes_no_choice_and_sees_every_epoch(tmp_path):
    store = ClassifierStore(Store(tmp_path), *blobs(), 3)
    fresh = blobs(seed=1)
    alone = store.train("mlp", 0).classifier
    for _ in range(2):  # trained, then kept
        watched = store.train("mlp", 0, None, fresh).classifier
        np.testing.assert_array_equal(alone.predict(fresh[0]), watched.predict(fresh[0]))
        chosen = float((watched.predict(fresh[0]) == fresh[1]).mean())
        assert watched.looked_at[watched.epochs - 1] == chosen <= max(watched.looked_at)
