"""The CNN of the features: what it is trained on, and what its features are."""

import numpy as np
import pytest

from dpdm.evaluation.features.cnn import train_judge


@pytest.fixture(scope="module")
def images(digits):
    train, _ = digits
    return train.private_images[:120], train.private_labels[:120]


@pytest.fixture(scope="module")
def judge(images):
    return train_judge(*images, 10)


def test_a_half_of_the_images_is_unseen_and_has_no_part_in_it(images, judge):
    assert len(judge.unseen) == len(set(judge.unseen)) == 60
    other = images[0].copy()
    other[judge.unseen] = 255 - other[judge.unseen]
    again = train_judge(other, images[1], 10)
    assert again.extractor.fingerprint == judge.extractor.fingerprint
    np.testing.assert_array_equal(again.unseen, judge.unseen)


def test_features_are_the_128_of_the_last_hidden_layer(images, judge):
    rows = judge.extractor.compute(images[0])
    assert rows.shape == (120, 128)
    assert rows.dtype == np.float32
    assert rows.min() == 0  # after the ReLU
    np.testing.assert_allclose(judge.extractor.compute(images[0][5:9]), rows[5:9], atol=1e-5)


def test_it_is_called_cnn_and_says_what_it_was_trained_on(judge):
    assert judge.extractor.frechet == "fd-cnn"
    assert "60 real test images" in judge.extractor.description


def test_it_recognises_what_it_has_not_seen(images, judge):
    predicted = judge.predict(images[0][judge.unseen])
    assert (predicted == images[1][judge.unseen]).mean() > 0.5
