import io
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from jaxnn.data import load, npy
from jaxnn.data.npz import read_npz


def npy_bytes(header, content=b"", version=b"\1\0"):
    length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + header + content


def header(shape="(3,)", descr="'<f4'", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


ARRAYS = {
    "numbers": np.arange(12, dtype=np.float32).reshape(3, 4),
    "column-major": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big-endian": np.arange(3, dtype=">i8"),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3), np.int32),
    "booleans": np.array([True, False]),
    "words": np.array(["a", "bc", "ä🙂"]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_reads_and_maps_what_numpy_wrote(tmp_path, name):
    array, path = ARRAYS[name], tmp_path / "a.npy"
    np.save(path, array)
    size = path.stat().st_size
    for read in (npy.read_array(path.open("rb"), size), npy.map_array(path)):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    "text",
    [
        b"{'descr':'<f4','fortran_order':False,'shape':(3,)}",
        b"{'shape': (3L,), 'fortran_order': False, 'descr': '<f4'}  \n",
    ],
)
def test_reads_what_other_programs_wrote(text):
    content = npy_bytes(text, b"\0" * 12, b"\2\0")
    assert npy.read_array(io.BytesIO(content), len(content)).shape == (3,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "in place of the magic string"),
        (npy_bytes(header(), version=b"\3\0"), "version 1.0 or 2.0"),
        (npy_bytes(b" " * 10_001), "a header of 10001 bytes"),
        (npy_bytes(header())[:-3], "the header"),
        (npy_bytes(b"{'descr': '<f4', 'shape': (3,), 'shape': (3,)}"), "the header"),
        (npy_bytes(header("(3,, 4)")), "shape '3,, 4'"),
        (npy_bytes(header("(-3,)")), "the header"),
        (npy_bytes(header("(" + "1," * 33 + ")")), "shape"),
        (npy_bytes(header(f"({2**70}, 0)")), "shape"),
        (npy_bytes(header(descr="'<f5'")), "dtype <f5"),
        (npy_bytes(header(descr="'|O'")), "objects"),
        (npy_bytes(header(descr="[('a', '<f4')]")), "the header"),
        (npy_bytes(header("(99999999999,)", "'<U0'")), "has no bytes"),
        (npy_bytes(header("(1000000000000,)"), b"\0" * 12), "4000000000.* bytes"),
        (npy_bytes(header(), b"\0" * 13), "in 8. bytes"),
        (npy_bytes(header("(2,)", "'<U1'"), b"\xff" * 8), "text that is no Unicode"),
        (npy_bytes(header("(1,)", "'<U1'"), b"\0\xd8\0\0"), "text that is no Unicode"),
        (npy_bytes(header("(1,)", "'|b1'"), b"\2"), "neither 0 nor 1"),
        (npy_bytes(header("(" + "1 " * 4000 + ")")), "shape"),
    ],
)
def test_what_is_no_plain_array_of_that_size_is_refused_at_once(content, message):
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(ValueError, match=message):
        npy.read_array(io.BytesIO(content), len(content))
    assert time.monotonic() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.fixture
def folder(tmp_path):
    """A data set of .npy files."""
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_x.npy", np.ones((4, 2), np.float32))
        np.save(tmp_path / f"{split}_target.npy", np.arange(4, dtype=np.int32) % 2)
    np.save(tmp_path / "class_names.npy", np.array(["cat", "dog"]))
    return tmp_path


def test_class_names_that_are_an_archive_are_refused(folder):
    np.savez(folder / "a.npz", cat=np.ones(3), dog=np.ones(3))
    (folder / "a.npz").rename(folder / "class_names.npy")
    with pytest.raises(ValueError, match=r"class_names\.npy: expected a whole \.npy array"):
        load(folder)


def test_class_names_that_are_numbers_are_refused(folder):
    np.save(folder / "class_names.npy", np.arange(2))
    with pytest.raises(ValueError, match=r"expected class_names\.npy to be strings"):
        load(folder)


@pytest.mark.parametrize("file", ["train_x", "test_x", "train_target", "class_names"])
def test_a_mapped_file_that_claims_more_rows_than_it_has_is_refused(folder, file):
    (folder / f"{file}.npy").write_bytes(npy_bytes(header("(1000000000000, 2)"), b"\0" * 32))
    with pytest.raises(ValueError, match=rf"{file}\.npy: expected a whole .*, got shape \(10000"):
        load(folder)


def hide_the_second_member(content):
    """Take its entry of the directory for a comment of the first."""
    first = content.index(b"PK\1\2")
    second = content.index(b"PK\1\2", first + 1)
    end = content.index(b"PK\5\6")
    content[first + 32 : first + 34] = (end - second).to_bytes(2, "little")


def test_an_archive_whose_directory_hides_a_member_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.ones(3))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    hide_the_second_member(content)
    (tmp_path / "a.npz").write_bytes(content)
    assert len(zipfile.ZipFile(tmp_path / "a.npz").namelist()) == 1
    with pytest.raises(ValueError, match="1 names of 1 arrays, of which there should be 2"):
        read_npz(tmp_path / "a.npz", ["x"], ["y"])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("x", archive.read("x.npy"))
    with pytest.raises(ValueError, match="1 names of 2 arrays"):
        read_npz(tmp_path / "a.npz")


def test_a_member_that_the_directory_calls_otherwise_is_refused_even_if_it_is_optional(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3), class_names=np.array(["a", "b"]))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    place = content.rindex(b"class_names")
    content[place] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="File name in directory"):
        read_npz(tmp_path / "a.npz", ["x"], ["class_names"])
