import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxnn.data.npz import read_npz

few = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
numbers = np.arange(12, dtype=np.float32).reshape(3, 4)


def write_member(path, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", content)
    return path


def npy(shape, descr="<f4"):
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_wrote(tmp_path, save):
    save(tmp_path / "a.npz", x=numbers, fortran=numbers.T, words=np.array(["a", "bc"]), empty=[])
    read = read_npz(tmp_path / "a.npz")
    assert set(read) == {"x", "fortran", "words", "empty"}
    np.testing.assert_array_equal(read["x"], numbers)
    np.testing.assert_array_equal(read["fortran"], numbers.T)
    assert read["words"].tolist() == ["a", "bc"]


def test_reads_only_the_arrays_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", x=numbers, y=numbers, object=np.array([{}]))
    assert set(read_npz(tmp_path / "a.npz", ["x"], ["y", "z"])) == {"x", "y"}


def test_a_missing_array_is_named_with_the_nearest(tmp_path):
    np.savez(tmp_path / "a.npz", images=numbers, labels=numbers)
    with pytest.raises(ValueError, match="unknown array 'label': did you mean 'labels'"):
        read_npz(tmp_path / "a.npz", ["images", "label"])


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"array 'x': expected a plain array, got objects"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(1 << 40,), (4, 4), (2, 4), (-3, -4), (1 << 70, 0)])
def test_a_header_that_claims_another_size_is_refused(tmp_path, shape):
    path = write_member(tmp_path / "a.npz", npy(shape) + numbers.tobytes())
    with pytest.raises(ValueError, match="array 'x': expected a plain array, got"):
        read_npz(path)


def test_a_member_that_claims_more_than_deflate_can_hold_is_refused(tmp_path):
    path = write_member(tmp_path / "a.npz", npy((3, 4)) + numbers.tobytes())
    content = path.read_bytes()
    size = struct.pack("<I", len(npy((3, 4)) + numbers.tobytes()))
    assert content.count(size) == 2  # in the local header and in the directory
    path.write_bytes(content.replace(size, struct.pack("<I", 0x7FFFFFFF)))
    with pytest.raises(ValueError, match=r"got a claim of .* for 2147483647 bytes"):
        read_npz(path)


def test_a_bomb_above_the_limit_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1 << 22, np.uint8))
    tracemalloc.start()
    with pytest.raises(ValueError, match="expected at most 1000000 bytes, got 4194"):
        read_npz(tmp_path / "a.npz", limit=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_other_compressions_are_refused(tmp_path):
    path = write_member(tmp_path / "a.npz", npy((3, 4)) + numbers.tobytes(), zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="stored or deflated"):
        read_npz(path)


@given(data=st.data())
@few
def test_every_truncation_is_refused(tmp_path, data):
    np.savez(tmp_path / "a.npz", x=numbers, y=numbers)
    content = (tmp_path / "a.npz").read_bytes()
    kept = data.draw(st.integers(0, len(content) - 1))
    (tmp_path / "short.npz").write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"short\.npz"):
        read_npz(tmp_path / "short.npz")


@given(data=st.data(), save=st.sampled_from([np.savez, np.savez_compressed]))
@few
def test_a_damaged_archive_is_refused_or_gives_the_same_numbers(tmp_path, data, save):
    save(tmp_path / "a.npz", x=numbers)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "b.npz").write_bytes(content)
    try:
        read = read_npz(tmp_path / "b.npz", ["x"])
    except ValueError:
        return
    np.testing.assert_array_equal(read["x"], numbers)


@pytest.mark.parametrize("content", [b"", b"not an archive", npy((1,)) + b"1234"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a whole \.npz archive"):
        read_npz(tmp_path / "a.npz")
