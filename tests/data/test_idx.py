import gzip
import re
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from idx_files import CODES, idx_bytes, write_idx

from jaxnn.data import read_idx

few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
arrays = st.sampled_from(sorted(CODES)).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4, min_side=0)
    )
)
labels = np.arange(6, dtype=np.uint8)


@given(array=arrays, suffix=st.sampled_from(["", ".gz"]))
@few
def test_reads_back_every_dtype_and_shape(tmp_path, array, suffix):
    path = write_idx(tmp_path / f"array{suffix}", array)
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


@given(array=arrays.filter(lambda a: a.size), data=st.data())
@few
def test_refuses_every_truncation(tmp_path, array, data):
    content = idx_bytes(array)
    path = tmp_path / "short"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=r"short: expected .*, got"):
        read_idx(path)


@pytest.mark.parametrize("cut", [1, 8, 9, 15])
def test_refuses_a_truncated_gzip_stream(tmp_path, cut):
    path = tmp_path / "short.gz"
    path.write_bytes(gzip.compress(idx_bytes(labels))[:-cut])
    with pytest.raises(ValueError, match="whole gzip file"):
        read_idx(path)


def test_refuses_a_gzip_stream_whose_checksum_is_wrong(tmp_path):
    content = bytearray(gzip.compress(idx_bytes(labels)))
    content[-6] ^= 1
    (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(ValueError, match="CRC"):
        read_idx(tmp_path / "bad.gz")


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_refuses_trailing_bytes(tmp_path, compress):
    (tmp_path / "long").write_bytes(compress(idx_bytes(labels) + b"\0"))
    with pytest.raises(ValueError, match=r"expected 6 bytes for shape .*, got trailing bytes"):
        read_idx(tmp_path / "long")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", b"<!DOCTYPE html>", b"\0\0\x0a\1\0\0\0\0", b"\0\0\x08\0\7", b"\0\0\x08\x40"],
    ids=["empty", "short", "web page", "dtype code", "no axes", "64 axes"],
)
def test_refuses_what_has_no_idx_magic_number(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match="other: expected the magic number"):
        read_idx(tmp_path / "other")


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_memory_does_not_follow_a_false_claim(tmp_path, compress):
    header = b"\0\0\x08\2" + struct.pack(">2I", 1 << 15, 1 << 15)
    (tmp_path / "claim").write_bytes(compress(header + b"\7" * 100))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"expected 1073741824 bytes .*, got 100: truncated"):
        read_idx(tmp_path / "claim")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_reads_no_more_of_a_bomb_than_its_header_claims(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(idx_bytes(labels) + bytes(64 << 20)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="trailing bytes"):
        read_idx(tmp_path / "bomb.gz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_refuses_a_claim_above_the_limit_before_reading(tmp_path):
    (tmp_path / "huge").write_bytes(b"\0\0\x0e\3" + b"\xff" * 12)
    with pytest.raises(ValueError, match="expected at most 4294967296 bytes, got a claim of"):
        read_idx(tmp_path / "huge")
    path = write_idx(tmp_path / "array", labels)
    assert read_idx(path, limit=6).shape == (6,)
    with pytest.raises(ValueError, match="at most 5 bytes"):
        read_idx(path, limit=5)


def test_refuses_labels_where_images_are_expected(tmp_path):
    path = write_idx(tmp_path / "labels", labels)
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected 3 axes, got 1")):
        read_idx(path, rank=3)


def test_refuses_another_dtype_than_expected(tmp_path):
    path = write_idx(tmp_path / "labels", labels.astype(np.int32))
    with pytest.raises(ValueError, match="expected uint8, got int32"):
        read_idx(path, dtype="uint8")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")
