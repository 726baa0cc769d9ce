"""Downloads: checked before they appear, kept file by file, told of in one line when they fail."""

import hashlib

import pytest

from dpdm.data import fetch
from dpdm.data.catalogue import NAMED, Named, Remote
from dpdm.data.download import cache_folder
from dpdm.errors import DpdmError, RequestError

CONTENT = {"a.bin": b"a" * 3_000_000, "b.bin": b"b"}


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A data set ``toy`` of two files, whose addresses are a missing mirror and a folder."""
    folder = tmp_path / "server"
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    remotes = tuple(
        Remote(name, ((tmp_path / "gone" / name).as_uri(), (folder / name).as_uri()), sha256(data))
        for name, data in CONTENT.items()
    )
    monkeypatch.setenv("DPDM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(NAMED, "toy", Named("toy", "Toy", (1, 1, 1), (), 1, 1, remotes))
    return folder


def test_files_land_in_the_cache_from_the_first_address_that_has_them(server, tmp_path):
    assert fetch("toy") == tmp_path / "cache" / "toy"
    found = {path.name: path.read_bytes() for path in (tmp_path / "cache" / "toy").iterdir()}
    assert found == CONTENT


def test_progress_ends_at_the_whole_file(server):
    seen = []
    fetch("toy", lambda *report: seen.append(report))
    assert seen[0] == ("a.bin", 1 << 20, 3_000_000)
    assert ("a.bin", 3_000_000, 3_000_000) in seen
    assert seen[-1] == ("b.bin", 1, 1)


def test_progress_goes_to_standard_error(server, capsys):
    fetch("toy")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a.bin: 3.0 of 3.0 MB" in printed.err


def test_a_second_fetch_downloads_nothing(server, tmp_path):
    fetch("toy")
    for file in server.iterdir():
        file.unlink()
    assert fetch("toy", lambda *_: pytest.fail("downloaded")) == tmp_path / "cache" / "toy"


def test_a_damaged_file_in_the_cache_is_replaced(server, tmp_path):
    fetch("toy")
    (tmp_path / "cache" / "toy" / "a.bin").write_bytes(b"damaged")
    fetch("toy")
    assert (tmp_path / "cache" / "toy" / "a.bin").read_bytes() == CONTENT["a.bin"]


def test_another_file_than_the_published_one_never_appears(server, tmp_path):
    (server / "b.bin").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(DpdmError, match=r"b\.bin could not be downloaded .*another file came back"):
        fetch("toy")
    assert [path.name for path in (tmp_path / "cache" / "toy").iterdir()] == ["a.bin"]


def test_where_no_address_answers_the_error_says_where_to_put_the_file(server, tmp_path):
    (server / "a.bin").unlink()
    with pytest.raises(DpdmError) as caught:
        fetch("toy")
    assert "put it at" in str(caught.value)
    assert str(tmp_path / "cache" / "toy" / "a.bin") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_says_so(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DPDM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DpdmError, match="set DPDM_CACHE"):
        fetch("toy")


def test_what_is_built_in_needs_no_download():
    assert fetch("digits") is None


def test_an_unknown_name_is_refused():
    with pytest.raises(
        RequestError, match="no data set is called 'imagenet'; the names are digits"
    ):
        fetch("imagenet")


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("DPDM_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dpdm"


@pytest.mark.parametrize("name", [n for n in NAMED if n != "digits"])
def test_every_published_file_has_an_address_and_a_whole_digest(name):
    lengths = {"md5": 32, "sha256": 64}
    for remote in NAMED[name].remotes:
        algorithm, _, digest = remote.digest.partition(":")
        assert len(bytes.fromhex(digest)) * 2 == lengths[algorithm]
        assert all(url.startswith(("https://", "http://")) for url in remote.urls)
