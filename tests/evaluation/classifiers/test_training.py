"""The three classifiers of the paper, trained on one set of images and choosing by no other."""

import random

import numpy as np
import pytest
import torch

from dpdm.evaluation.classifiers import (
    CLASSIFIER_NAMES,
    ConvolutionalClassifier,
    recipe,
    train_classifier,
)


def noise(images, size=(8, 8, 1), classes=10, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (images, *size), dtype=np.uint8)
    return pixels, rng.integers(0, classes, images)


@pytest.mark.parametrize(("name", "least"), [("lr", 0.95), ("mlp", 0.965), ("cnn", 0.975)])
def test_trained_on_real_digits_the_protocol_loses_nothing(digits, name, least):
    train, test = digits
    trained = train_classifier(name, train.private_images, train.private_labels, 10)
    accuracy = (trained.predict(test.private_images) == test.private_labels).mean()
    assert accuracy >= least


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_seed_decides_the_result(name):
    images, labels = noise(120)
    first, again, other = (train_classifier(name, images, labels, 10, seed=s) for s in (3, 3, 4))
    fresh, _ = noise(500, seed=1)
    np.testing.assert_array_equal(first.predict(fresh), again.predict(fresh))
    assert (first.predict(fresh) != other.predict(fresh)).any()


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_global_random_states_are_left_alone(name):
    images, labels = noise(60)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    trained = train_classifier(name, images, labels, 10)
    trained.predict(images)
    torch.testing.assert_close(torch.get_rng_state(), before[0], rtol=0, atol=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_held_out_images_are_not_trained_on():
    # Labels without any relation to the images can be memorised but not predicted.
    images, labels = noise(600)
    trained = train_classifier("mlp", images, labels, 10)
    assert trained.held_out_accuracy < 0.35


def test_logistic_regression_chooses_no_epoch_and_ignores_the_seed():
    images, labels = noise(60)
    first, other = (train_classifier("lr", images, labels, 10, seed=s) for s in (0, 1))
    assert first.held_out_accuracy is None
    np.testing.assert_array_equal(first.predict(images), other.predict(images))


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_classes_without_images_are_allowed(digits, name):
    train, _ = digits
    keep = np.isin(train.private_labels, (0, 1, 7))
    images, labels = train.private_images[keep][:100], train.private_labels[keep][:100]
    trained = train_classifier(name, images, labels, 10)
    assert (trained.predict(images) == labels).mean() > 0.9


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_a_single_class_is_learnt_as_that_class(name):
    images, _ = noise(20)
    trained = train_classifier(name, images, np.full(20, 4), 10)
    np.testing.assert_array_equal(trained.predict(images), np.full(20, 4))


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_read_only_images_are_accepted(name):
    images, labels = noise(20)
    images.setflags(write=False)
    assert train_classifier(name, images, labels, 10).predict(images).shape == (20,)


@pytest.mark.parametrize(
    ("channels", "size", "classes"),
    [(1, (4, 4), 2), (1, (8, 8), 2), (2, (9, 13), 5), (3, (32, 64), 10), (4, (100, 72), 200)],
)
def test_the_cnn_fits_any_image_size(channels, size, classes):
    network = ConvolutionalClassifier(channels, size, classes, torch.Generator())
    assert network(torch.zeros(3, channels, *size)).shape == (3, classes)


def test_the_cnn_at_mnist_size_has_the_layers_of_the_paper():
    network = ConvolutionalClassifier(1, (28, 28), 10, torch.Generator())
    convolutions = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 128
    dense = (128 * 3 * 3 + 1) * 128 + (128 + 1) * 10  # 28 is pooled to 14, 7, 3
    assert sum(p.numel() for p in network.parameters()) == convolutions + dense


def test_large_images_do_not_enlarge_the_dense_layer():
    sizes = [
        sum(p.numel() for p in ConvolutionalClassifier(3, size, 10, torch.Generator()).parameters())
        for size in ((64, 64), (256, 256))
    ]
    assert sizes[0] == sizes[1]


def test_dropout_acts_in_training_only():
    network = ConvolutionalClassifier(1, (8, 8), 10, torch.Generator().manual_seed(0))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(network(x), network(x))
    network.eval()
    torch.testing.assert_close(network(x), network(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_ten_times_the_images_mean_more_steps_in_no_more_epochs(name):
    sizes = (10, 100, 1000, 10_000, 100_000, 1_000_000)
    recipes = [recipe(name, size) for size in sizes]
    epochs = [plan.epochs for plan in recipes]
    steps = [
        plan.epochs * size / plan.batch_size for plan, size in zip(recipes, sizes, strict=True)
    ]
    assert epochs == sorted(epochs, reverse=True)
    assert steps == sorted(steps)


def test_progress_ends_at_the_planned_number_of_epochs():
    images, labels = noise(60)
    for name in CLASSIFIER_NAMES:
        seen = []
        train_classifier(name, images, labels, 10, on_epoch=lambda *at, seen=seen: seen.append(at))
        assert seen[-1][0] == seen[-1][1]
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
