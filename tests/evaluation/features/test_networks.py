"""Feature networks: TorchScript files, the interface of the Inception network, finding it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpdm.errors import DpdmError, RequestError
from dpdm.evaluation.features import PIXELS, Extractor, choose, extract, inception
from dpdm.evaluation.features.inception import find_inception
from dpdm.evaluation.features.torchscript import from_module, open_network
from dpdm.evaluation.store import Store


class StandIn(nn.Module):
    """The interface of NVIDIA's Inception file, with nothing learnt behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(12, 5)

    def forward(
        self, img: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        assert img.dtype == torch.uint8
        assert img.shape[1] == 3
        pooled = nn.functional.adaptive_avg_pool2d(img.float() / 255, [2, 2]).flatten(1)
        if return_features:
            return pooled
        logits = pooled @ self.output.weight.T
        if not no_output_bias:
            logits = logits + self.output.bias
        return logits.softmax(1)


class Floats(nn.Module):
    """A network for floats only."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).amax((2, 3))


def saved(module: nn.Module, path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(module), path)
    return path


def grey(count=7, side=8):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 1), np.uint8)


def test_grey_becomes_three_channels_and_bytes_stay_bytes(tmp_path):
    extractor = open_network(saved(StandIn(), tmp_path / "My Net.pt"))
    images = grey()
    expected = images.reshape(7, 2, 4, 2, 4).mean((2, 4)).reshape(7, 4) / 255
    np.testing.assert_allclose(extractor.compute(images), np.tile(expected, (1, 3)), rtol=1e-5)
    assert (extractor.name, extractor.frechet, extractor.kernel) == (
        "my-net",
        "fd-my-net",
        "kd-my-net",
    )


def test_a_network_that_cannot_take_bytes_gets_floats_from_0_to_1(tmp_path):
    module = Floats()
    extractor = open_network(saved(module, tmp_path / "floats.pt"))
    images = np.random.default_rng(0).integers(0, 256, (60, 9, 9, 3), np.uint8)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    with torch.no_grad():
        expected = module(given).numpy()
    np.testing.assert_allclose(extractor.compute(images), expected, rtol=1e-4, atol=1e-6)
    assert extractor.probabilities is None


def test_a_module_of_ones_own_is_an_extractor():
    extractor = from_module(StandIn(), "mine", "v1")
    assert extractor.compute(grey()).shape == (7, 12)
    assert extractor.probabilities is not None


def test_probabilities_leave_the_bias_out_and_sum_to_one(tmp_path):
    module = StandIn()
    nn.init.constant_(module.output.bias, 5.0)
    module.output.bias.data[0] = 50.0
    extractor = open_network(saved(module, tmp_path / "net.pt"))
    rows = extractor.probabilities(grey())
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
    assert rows.max() < 0.9


class Logits(StandIn):
    def forward(
        self, img: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        pooled = img.float().flatten(1)[:, :12]
        return pooled if return_features else pooled @ self.output.weight.T


def test_logits_become_probabilities(tmp_path):
    extractor = open_network(saved(Logits(), tmp_path / "net.pt"))
    np.testing.assert_allclose(extractor.probabilities(grey()).sum(1), 1, rtol=1e-5)


def test_what_is_no_torchscript_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"no network")
    with pytest.raises(RequestError, match="not a TorchScript file") as caught:
        open_network(tmp_path / "net.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="another network"):
        open_network(saved(StandIn(), tmp_path / "inception.pt"))


class Bad(nn.Module):
    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 0:
            return x.float().mean()
        if self.kind == 1:
            return x.float().flatten(1)[:2]
        return x.float().flatten(1) / 0


@pytest.mark.parametrize(("kind", "says"), [(0, "wrap it"), (1, "one row"), (2, "not finite")])
def test_a_network_that_gives_something_else_is_named(kind, says):
    extractor = from_module(Bad(kind), "odd", "v1")
    with pytest.raises(DpdmError, match=f"odd.*{says}"):
        extract(extractor, grey(), "synthetic", store=Store())


def test_features_are_computed_in_chunks_that_resume(tmp_path):
    seen = []

    def compute(images):
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return images.reshape(len(images), -1).astype(np.float32)

    extractor = Extractor("one", "v1", "", compute)
    images = grey(2500, 2)
    with pytest.raises(KeyboardInterrupt):
        extract(extractor, images, "real", store=Store(tmp_path))
    told = []
    found = extract(
        extractor, images, "real", store=Store(tmp_path), progress=lambda *at: told.append(at)
    )
    assert seen == [1000, 1000, 500, 500]
    np.testing.assert_array_equal(found.values, images.reshape(2500, -1))
    assert told[-1] == ("one features, real", 2500, 2500)
    other = Extractor("two", "v2", "", lambda images: np.ones((len(images), 1), np.float32))
    assert extract(other, images, "real", store=Store(tmp_path)).key != found.key


def test_pixels_run_from_0_to_1():
    values = PIXELS.compute(np.array([[[[0], [255]]]], np.uint8))
    assert values.tolist() == [[0.0, 1.0]]


def official(monkeypatch, path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest)
    remote = inception.Remote(inception.FILE, inception.REMOTE.urls, f"sha256:{digest}")
    monkeypatch.setattr(inception, "REMOTE", remote)


def test_without_the_file_there_is_no_inception():
    assert find_inception() is None


@pytest.mark.parametrize("variable", ["DPDM_DATA", "DPDM_CACHE"])
def test_the_file_is_found_in_both_folders_and_checked(tmp_path, monkeypatch, variable):
    folder = tmp_path / "inception"
    folder.mkdir()
    path = saved(StandIn(), folder / inception.FILE)
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(DpdmError, match="not the published file"):
        find_inception()
    official(monkeypatch, path)
    found = find_inception()
    assert (found.name, found.frechet, found.kernel) == ("inception", "fid", "kid")
    assert "not the published" not in found.description
    assert find_inception("none") is None


def test_a_given_file_with_another_checksum_is_used_and_says_so(tmp_path):
    found = find_inception(str(saved(StandIn(), tmp_path / "any.pt")))
    assert found.frechet == "fid"
    assert "not comparable" in found.description


def test_a_given_file_must_exist_and_have_the_interface(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        find_inception(str(tmp_path / "none.pt"))
    with pytest.raises(RequestError, match="return_features"):
        find_inception(str(saved(Floats(), tmp_path / "floats.pt")))


def test_the_download_is_checked_and_then_found(tmp_path, monkeypatch):
    source = saved(StandIn(), tmp_path / "source.pt")
    remote = inception.Remote(inception.FILE, (source.as_uri(),), inception.REMOTE.digest)
    monkeypatch.setattr(inception, "REMOTE", remote)
    with pytest.raises(DpdmError, match="another file came back"):
        find_inception("download")
    assert find_inception() is None
    official(monkeypatch, source)
    assert find_inception("download").name == "inception"
    monkeypatch.setattr(inception, "download_file", None)
    assert find_inception("download").name == find_inception().name == "inception"


def test_named_networks_come_first_and_the_cnn_only_where_there_is_no_other(tmp_path):
    path = str(saved(StandIn(), tmp_path / "net.pt"))
    found = find_inception(path)
    names = [one.name for one in choose([path, "pixels"], found, lambda: None).extractors]
    assert names == ["net", "pixels", "inception"]
    assert choose([], found, lambda: pytest.fail("trained for nothing")).main is found
    assert choose([], None, lambda: None).main is None


@pytest.mark.parametrize(
    ("features", "says"),
    [(["/nowhere.pt"], "no such file"), (["cnn"], "--test"), (["pixels", "pixels"], "two feature")],
)
def test_features_that_are_not_there_are_refused(features, says):
    with pytest.raises(RequestError, match=says):
        choose(features, None, lambda: None)
