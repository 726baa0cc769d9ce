"""How a classifier is trained with DP-SGD: a public rule, from public numbers alone.

It reads the declared number of units, the number of parameters, epsilon and delta, and never an
image. Its shape is that of the literature on DP-SGD for small images (large batches, few steps,
gradients clipped so low that nearly all are, momentum: Tramer and Boneh 2021, De et al. 2022);
its constants were set on held-out *training* images of the public digits, a fifth of them, and on
no test image. Beyond the digits one setting was tried, on a sixth of MNIST's training images held
out: logistic regression at epsilon 10 with 445 steps of length 4.5, 91.2% right.
"""

from __future__ import annotations

from dataclasses import dataclass

from dpdm.evaluation.classifiers.training import ClassifierName
from dpdm.privacy import Event
from dpdm.promise import noise_multiplier_for


@dataclass(frozen=True)
class DpRecipe:
    """The settings of one training; all of them public.

    ``expected_units`` is the batch, ``sample_rate`` * the declared number of units, and divides the
    noised sum; ``learning_rate`` is the first step's.
    """

    name: ClassifierName
    epsilon: float
    delta: float
    unit: str
    images_per_unit: int
    sample_rate: float
    expected_units: float
    steps: int
    noise_multiplier: float
    max_grad_norm: float
    learning_rate: float
    momentum: float
    microbatch: int

    @property
    def event(self) -> Event:
        """What each step costs."""
        return Event(self.noise_multiplier, self.sample_rate)


_SMALL = 1437  # units of the digits, from which the rule scales
_STEPS = 100  # for so many units
_PASSES = 50.0  # over so many units, of the digits' CNN
_CNN = 2.3e8  # its parameters times these units
_LENGTH = 100.0  # of all steps at epsilon 1 of logistic regression on the digits
_LINEAR = 650  # its parameters
_LONGEST_STEP = 5.0
_MOMENTUM = 0.9
_MAX_GRAD_NORM = 1.0
_MICROBATCH = {"lr": 256, "mlp": 256, "cnn": 32}  # what stays in the cache


def dp_recipe(
    name: ClassifierName,
    parameters: int,
    public_size: int,
    epsilon: float,
    delta: float,
    *,
    unit: str = "image",
    images_per_unit: int = 1,
) -> DpRecipe:
    """The recipe of a classifier with so many parameters, for so many units.

    The steps grow slowly with the data; the passes over it are as many as two cores can take in
    minutes, at most one for each step (a batch of everything). How far all steps together may go,
    in clip norms, grows with epsilon and the data, since noise then leaves more to be learnt, and
    falls with the parameters, all of which the noise moves; a step has a longest length.
    """
    steps = round(_STEPS * (public_size / _SMALL) ** 0.4) if public_size > _SMALL else _STEPS
    passes = min(steps, _PASSES * (_CNN / (parameters * public_size)) ** 0.4)
    sample_rate = passes / steps
    length = _LENGTH * (epsilon * public_size / _SMALL) ** 0.8 * (_LINEAR / parameters) ** 0.2
    step = min(length / steps, _LONGEST_STEP)
    return DpRecipe(
        name=name,
        epsilon=epsilon,
        delta=delta,
        unit=unit,
        images_per_unit=images_per_unit,
        sample_rate=sample_rate,
        expected_units=sample_rate * public_size,
        steps=steps,
        noise_multiplier=noise_multiplier_for(epsilon, delta, sample_rate, steps),
        max_grad_norm=_MAX_GRAD_NORM,
        # Half a cosine is 1/2 on average, and momentum repeats a step 1 / (1 - m) times.
        learning_rate=2 * step * (1 - _MOMENTUM) / _MAX_GRAD_NORM,
        momentum=_MOMENTUM,
        microbatch=_MICROBATCH[name],
    )
