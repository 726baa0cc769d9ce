"""The strong classifiers: they learn, fit any size, and follow from the seed."""

import numpy as np
import pytest
import torch

from dpdm.evaluation.classifiers import train_classifier
from dpdm.evaluation.classifiers.residual import FAMILIES, ResidualClassifier


@pytest.mark.parametrize("name", FAMILIES)
def test_they_learn_digits_from_a_few_hundred(digits, name):
    train, test = digits
    trained = train_classifier(name, train.private_images[:600], train.private_labels[:600], 10)
    assert (trained.predict(test.private_images) == test.private_labels).mean() > 0.9


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [(2, 2), (4, 7), (8, 8), (28, 28), (33, 64)])
def test_any_image_size_gives_one_logit_for_each_class(name, size):
    network = ResidualClassifier(FAMILIES[name], 3, size, 5, torch.Generator().manual_seed(0))
    assert network(torch.zeros(2, 3, *size)).shape == (2, 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_weights_follow_from_the_seed(name):
    def weights(seed):
        generator = torch.Generator().manual_seed(seed)
        network = ResidualClassifier(FAMILIES[name], 1, (8, 8), 3, generator)
        return np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])

    np.testing.assert_array_equal(weights(1), weights(1))
    assert (weights(1) != weights(2)).any()
