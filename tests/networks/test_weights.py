"""Weights on disk: what is written is read, damage is named, nothing is half written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from dpdm.errors import DpdmError, RequestError
from dpdm.networks import UNet, load_into, load_weights, save_weights

TENSORS = {
    "a.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "b": torch.arange(5),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "half": torch.tensor([1.0, -0.5], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
}
METADATA = {"dm_config": "edm", "name": "Größe", "quote": '"\\\n', "z": "", "a": "1"}


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", TENSORS, METADATA)
    tensors, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@settings(max_examples=30, deadline=None)
@given(metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=5))
def test_any_text_is_allowed_as_metadata(
    metadata: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, TENSORS, metadata)
    assert load_weights(path)[1] == metadata


def test_views_and_shared_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    save_weights(tmp_path / "w.safetensors", {"t": base.T, "u": base, "row": base[1]})
    tensors, _ = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(tensors["t"], base.T)
    assert torch.equal(tensors["row"], base[1])


def test_a_network_comes_back(tmp_path: Path) -> None:
    settings = {"image_size": 8, "in_channels": 1, "out_channels": 1, "base_channels": 4}
    settings |= {"multipliers": (1, 2), "blocks": 1, "classes": 3}
    first, second = UNet(**settings), UNet(**settings)
    nn.init.normal_(first.conv_out.weight)
    save_weights(tmp_path / "w.safetensors", first.state_dict())
    load_into(second, load_weights(tmp_path / "w.safetensors")[0])
    x, c_noise, labels = torch.randn(2, 1, 8, 8), torch.randn(2), torch.tensor([0, -1])
    assert torch.equal(first(x, c_noise, labels), second(x, c_noise, labels))


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    contents = set()
    for i in range(5):
        save_weights(tmp_path / f"{i}.safetensors", TENSORS, METADATA)
        contents.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(contents) == 1


def test_file_opens_in_any_safetensors_reader(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", TENSORS, METADATA)
    with safe_open(tmp_path / "w.safetensors", framework="np") as file:
        assert (file.get_tensor("a.weight") == TENSORS["a.weight"].numpy()).all()
        assert file.metadata()["dm_config"] == "edm"


def test_file_of_another_writer_is_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors")
    tensors, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata == {}
    assert torch.equal(tensors["b"], TENSORS["b"])


def test_loaded_tensors_outlive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS)
    tensors, _ = load_weights(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(tensors["a.weight"], TENSORS["a.weight"])


# Damage


@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(
    position: float, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, TENSORS, METADATA)
    content = bytearray(path.read_bytes())
    changed = int(position * len(content))
    key = content.find(b"dpdm.sha256")
    assume(not key <= changed < key + len(b"dpdm.sha256"))  # else there is no checksum any more
    content[changed] ^= flip
    path.write_bytes(content)
    with pytest.raises(DpdmError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, METADATA)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DpdmError, match=r"w\.safetensors: damaged"):
        load_weights(path)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(DpdmError, match=r"w\.pt: damaged or not a safetensors file"):
        load_weights(tmp_path / "w.pt")


def test_a_missing_file_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such weights file"):
        load_weights(tmp_path / "none.safetensors")


# Written whole or not at all


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(2)})
    old = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], full)
    with pytest.raises(DpdmError, match=r"w\.safetensors: cannot write .*No space left"):
        save_weights(path, {"a": torch.ones(2)})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_contents_reach_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        events.append(f"fsync {kind}")
        fsync(descriptor)

    def recorded_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    save_weights(tmp_path / "w.safetensors", TENSORS)
    assert events == ["fsync file", "rename", "fsync folder"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DpdmError, match="cannot write"):
        save_weights(tmp_path / "none" / "w.safetensors", TENSORS)


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    save_weights(tmp_path / "w.safetensors", TENSORS)
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Into a module


def test_what_does_not_fit_is_listed_by_name_and_nothing_is_loaded() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    del tensors["1.bias"]
    tensors["extra"] = torch.zeros(1)
    tensors["0.weight"] = torch.zeros(3, 5)
    with pytest.raises(DpdmError) as caught:
        load_into(module, tensors, source="old.safetensors")
    message = str(caught.value)
    assert message.startswith("old.safetensors: does not fit the network")
    assert "missing: 1.bias" in message
    assert "unexpected: extra" in message
    assert "other shape: 0.weight (3, 5) for (3, 2)" in message
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


def test_a_long_list_of_names_is_cut_short() -> None:
    with pytest.raises(DpdmError, match=r"missing: .* and 6 more"):
        load_into(nn.Sequential(*(nn.Linear(1, 1) for _ in range(5))), {})


def test_loading_keeps_the_modules_type_and_trainability() -> None:
    module = nn.Linear(2, 2).double()
    load_into(module, {"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    assert module.weight.dtype == torch.float64
    assert module.weight.requires_grad
    assert torch.equal(module.weight.detach(), torch.ones(2, 2, dtype=torch.float64))
