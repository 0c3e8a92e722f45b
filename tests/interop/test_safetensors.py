"""Files of the safetensors format: every bit comes back, and what lies is refused."""

import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import initialized, normal

import jaxnn as nn
from jaxnn import interop

pytest.importorskip("safetensors", reason="safetensors writes and reads the files")

NETWORK = nn.serial(
    stem=nn.serial(nn.dense(3), nn.batch_norm()), head=nn.repeat(nn.skip(nn.dense(3)), 2)
)


@pytest.fixture
def tree():
    return initialized(NETWORK, normal(0, (2, 4), np.float32))


def assert_same(given, expected):
    assert jax.tree.structure(given) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_params_and_state_come_back_under_the_names_of_their_parts(tree, tmp_path):
    path = interop.save_safetensors(tmp_path / "new" / "net.safetensors", tree)
    assert sorted(interop.read_safetensors(path)) == [
        "0.head.0.0.1.0.bias",
        "0.head.0.0.1.0.weight",
        *(f"0.stem.{name}" for name in ("0.bias", "0.weight", "1.offset", "1.scale")),
        "1.stem.1.mean",
        "1.stem.1.variance",
    ]
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.ones((1, 4)))
    assert_same(interop.load_safetensors(path, shapes), tree)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_every_dtype_keeps_its_bits(tmp_path):
    numbers = normal(1, (2, 3), np.float32) * 300
    dtypes = ("float16", "bfloat16", "float32", "int8", "uint16", "int32", "bool")
    tree = {d: numbers.astype(d) for d in dtypes}
    tree |= {"number": jnp.float32(0.1), "empty": jnp.zeros((0, 3)), "turned": numbers.T}
    path = interop.save_safetensors(tmp_path / "a.safetensors", tree)
    assert_same(interop.load_safetensors(path, tree), tree)
    assert_same(interop.read_safetensors(path), tree)


def test_a_tree_without_arrays_is_a_file_too(tmp_path):
    path = interop.save_safetensors(tmp_path / "a.safetensors", ((), ()))
    assert interop.load_safetensors(path, ((), ())) == ((), ())


def test_another_file_is_not_overwritten_unless_told(tree, tmp_path):
    path = interop.save_safetensors(tmp_path / "a.safetensors", tree)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="choose another name or overwrite it"):
        interop.save_safetensors(path, {"a": jnp.ones(2)})
    assert path.read_bytes() == before
    interop.save_safetensors(path, {"a": jnp.ones(2)}, overwrite=True)
    assert list(interop.read_safetensors(path)) == ["a"]


def test_all_differences_from_what_is_expected_are_one_error(tmp_path):
    path = interop.save_safetensors(
        tmp_path / "a.safetensors",
        {
            "kept": jnp.ones(2),
            "wide": jnp.ones(2),
            "half": jnp.ones(2, "float16"),
            "more": jnp.ones(1),
        },
    )
    like = {"kept": jnp.ones(2), "wide": jnp.ones(3), "half": jnp.ones(2), "gone": jnp.ones((4, 1))}
    with pytest.raises(ValueError, match="expected the arrays of like") as info:
        interop.load_safetensors(path, like)
    assert str(info.value).splitlines()[1:] == [
        "  missing 'gone', float32[4, 1]",
        "  surplus 'more', float32[1]",
        "  'half': expected float32[2], got float16[2]",
        "  'wide': expected float32[3], got float32[2]",
    ]


def test_differences_are_found_before_a_number_is_read(tmp_path, monkeypatch):
    path = interop.save_safetensors(
        tmp_path / "a.safetensors", {"a": jnp.ones(2), "b": jnp.ones(3)}
    )
    monkeypatch.setattr(jnp, "asarray", lambda *a: pytest.fail("an array was made"))
    with pytest.raises(ValueError, match="surplus 'b'"):
        interop.load_safetensors(path, {"a": np.ones(2, np.float32)})


def claim(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWO = claim([2], 0, 8)
LIES = {
    "an end beyond the file": ({"a": claim([4], 0, 16)}, 8, None),
    "bytes left over": ({"a": TWO}, 12, None),
    "overlapping arrays": ({"a": TWO, "b": claim([2], 4, 12)}, 12, None),
    "a gap": ({"a": TWO, "b": claim([1], 12, 16)}, 16, None),
    "a shape of other bytes": ({"a": claim([3], 0, 8)}, 8, None),
    "a shape that overflows": ({"a": claim([2**40, 2**40], 0, 8)}, 8, None),
    "an end before its beginning": ({"a": claim([2], 8, 0)}, 8, None),
    "a negative size": ({"a": claim([-2], 0, 8)}, 8, None),
    "an unknown dtype": ({"a": claim([2], 0, 8, "O8")}, 8, None),
    "a header longer than the file": ({"a": TWO}, 8, 10_000),
    "a gigantic header": ({"a": TWO}, 8, 2**60),
    "a header that is a list": ([], 0, None),
    "a header of half an object": ('{"a"', 0, None),
    "a header of brackets": ("[" * 100_000, 0, None),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_in_one_line(lie, tmp_path):
    header, size, length = LIES[lie]
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length or len(text)) + text + bytes(size))
    for read in (
        interop.read_safetensors,
        lambda p: interop.load_safetensors(p, {"a": jnp.ones(2)}),
    ):
        with pytest.raises(ValueError, match=r"expected a whole \.safetensors file, got ") as info:
            read(path)
        assert "\n" not in str(info.value)
        assert len(str(info.value)) < 600


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = interop.save_safetensors(
        tmp_path / "a.safetensors", {"a": jnp.ones(2), "b": jnp.ones(3)}
    )
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="expected a whole"):
            interop.read_safetensors(path)


def test_what_cannot_be_written_is_refused_before_a_file_is_there(tmp_path):
    path = tmp_path / "a.safetensors"
    for tree, error, message in (
        ({"a": 3.0}, TypeError, "expected 'a' to be an array, got 3.0"),
        ({"a": jax.random.key(0)}, TypeError, "expected 'a' to be of a dtype among .* got key"),
        (jnp.ones(2), ValueError, "an array without a name"),
        ({"a.b": jnp.ones(2), "a": {"b": jnp.ones(2)}}, ValueError, "two of them 'a.b'"),
    ):
        with pytest.raises(error, match=message):
            interop.save_safetensors(path, tree)
    assert not path.exists()


def test_a_dtype_that_jax_would_change_is_refused(tmp_path):
    path = interop.save_safetensors(tmp_path / "a.safetensors", {"a": np.ones(2)})
    with pytest.raises(ValueError, match="a dtype that JAX has now, float32, got float64"):
        interop.load_safetensors(path, {"a": jax.ShapeDtypeStruct((2,), np.float64)})
    with jax.enable_x64(True):
        assert interop.load_safetensors(path, {"a": np.ones(2)})["a"].dtype == np.float64


def test_files_that_cannot_be_opened_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        interop.read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(IsADirectoryError):
        interop.read_safetensors(tmp_path)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r'pip install "jaxnn\[weights\]"'):
        interop.save_safetensors(tmp_path / "a.safetensors", {"a": jnp.ones(2)})
