"""Which features an evaluation compares images by: Inception, the networks named, or the CNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dpdm.data.paths import user_path
from dpdm.errors import RequestError
from dpdm.evaluation.features.cnn import FEWEST, Judge
from dpdm.evaluation.features.cnn import NAME as CNN
from dpdm.evaluation.features.extractor import Extractor
from dpdm.evaluation.features.pixels import PIXELS
from dpdm.evaluation.features.torchscript import open_network


@dataclass(frozen=True)
class Choice:
    """The extractors of an evaluation, and the one for measures that are computed in one alone."""

    extractors: tuple[Extractor, ...]

    @property
    def main(self) -> Extractor | None:
        """A network that was named, else Inception, else the CNN; None where there is none."""
        return self.extractors[0] if self.extractors else None


def choose(
    features: Sequence[str | Extractor],
    inception: Extractor | None,
    judge: Callable[[], Judge | None],
) -> Choice:
    """Extractors in order of precedence: those named, Inception where it is found, else the CNN.

    features: paths of TorchScript files, "cnn", "pixels", or extractors of one's own. judge: trains
    the CNN where it is needed; None where there are no real images to train it on.
    Raises RequestError where one is missing, or where two have the same name.
    """
    named = [_named(feature, judge) for feature in features]
    if inception is not None:
        named.append(inception)
    if not named and (trained := judge()) is not None:
        named.append(trained.extractor)
    names = [extractor.name for extractor in named]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"two feature networks are called {name}; rename one")
    return Choice(tuple(named))


def _named(feature: str | Extractor, judge: Callable[[], Judge | None]) -> Extractor:
    if isinstance(feature, Extractor):
        return feature
    if feature == PIXELS.name:
        return PIXELS
    if feature == CNN:
        if (trained := judge()) is None:
            raise RequestError(
                "--features cnn: the CNN is trained on real test images; give a labelled --test "
                f"of at least {FEWEST}"
            )
        return trained.extractor
    path = user_path(feature)
    if not path.is_file():
        raise RequestError(
            f"--features {feature}: no such file; give a TorchScript file, cnn or pixels"
        )
    return open_network(path)
