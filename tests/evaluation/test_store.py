"""Results kept by content: found again, computed again where damaged, never half written."""

import numpy as np
import pytest

from dpdm.errors import DpdmError
from dpdm.evaluation.store import Store
from dpdm.hashing import content_hash


def counting(value):
    calls = []

    def compute():
        calls.append(1)
        return value

    return compute, calls


def test_what_is_kept_is_not_computed_again(tmp_path):
    compute, calls = counting(np.arange(6).reshape(2, 3))
    for _ in range(3):
        np.testing.assert_array_equal(Store(tmp_path / "new").array("k", compute), compute())
    assert len(calls) == 1 + 3  # three are the test's own


def test_without_a_folder_nothing_is_kept():
    compute, calls = counting(np.ones(2))
    for _ in range(2):
        Store().array("k", compute)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"nonsense"])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    (tmp_path / "k.npy").write_bytes(damage)
    compute, calls = counting(np.ones(2))
    for _ in range(2):
        assert Store(tmp_path).array("k", compute).tolist() == [1, 1]
    assert len(calls) == 1


def test_an_interrupted_computation_leaves_nothing(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).array("k", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DpdmError, match="--cache"):
        Store(tmp_path / "file").array("k", lambda: np.ones(1))


def test_the_hash_tells_content_apart():
    array = np.arange(6, dtype=np.int64)
    keys = [
        content_hash(array),
        content_hash(array.reshape(2, 3)),
        content_hash(array.astype(np.int32)),
        content_hash(array[::-1]),
        content_hash("a", "bc"),
        content_hash("ab", "c"),
        content_hash(1),
        content_hash("1"),
        content_hash(1.0),
    ]
    assert len(set(keys)) == len(keys)
    assert content_hash(array[::2]) == content_hash(array[::2].copy())
