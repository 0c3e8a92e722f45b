import os
import warnings

import numpy as np
import pytest

from jaxnn.data import cache, load
from jaxnn.data.cache import cached
from jaxnn.data.chunks import load_table
from jaxnn.data.tables import examples, piecewise
from jaxnn.data.tables.targets import read_target


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(b"content")
    return path


class Decoder:
    """Counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"x": np.arange(1000.0), "names": np.array(["a", "bc"])}


def entries():
    return sorted(cache.cache_folder().iterdir())


def same(arrays):
    np.testing.assert_array_equal(arrays["x"], np.arange(1000.0))
    assert arrays["names"].tolist() == ["a", "bc"]


def test_the_second_load_does_not_decode(source):
    decode = Decoder()
    for _ in range(3):
        same(cached(source, decode, "version 1"))
    assert decode.calls == 1
    assert len(entries()) == 1  # and no temporary file is left


def test_a_changed_file_or_decoder_is_decoded_anew(source):
    decode = Decoder()
    cached(source, decode, 1)
    cached(source, decode, 2)
    assert decode.calls == 2
    os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    cached(source, decode, 2)
    assert decode.calls == 3
    status = source.stat()
    source.write_bytes(b"other content")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    cached(source, decode, 2)
    assert decode.calls == 4


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "pickle"])
def test_a_damaged_entry_is_decoded_anew_and_replaced(source, damage):
    decode = Decoder()
    cached(source, decode)
    (entry,) = entries()
    content = bytearray(entry.read_bytes())
    if damage == "pickle":
        np.savez(entry, x=np.array([{}], dtype=object))
    else:
        content[len(content) // 2] ^= 1
        kept = {"empty": b"", "cut": content[: len(content) // 2], "flipped": content}[damage]
        entry.write_bytes(kept)
    same(cached(source, decode))
    same(cached(source, decode))
    assert decode.calls == 2


def test_a_folder_that_cannot_be_written_is_warned_of_once(source, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "a file" / "folder"))
    decode = Decoder()
    with pytest.warns(UserWarning, match="are not cached in .*a file"):
        same(cached(source, decode))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(cached(source, decode))
    assert decode.calls == 2


def test_an_interrupted_write_leaves_no_entry(source, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        cached(source, Decoder())
    assert entries() == []


def test_a_failing_decoder_leaves_no_entry(source):
    def decode():
        raise ValueError("no such format")

    with pytest.raises(ValueError, match="no such format"):
        cached(source, decode)
    assert not cache.cache_folder().exists()


def test_the_platform_has_a_cache_folder(monkeypatch):
    monkeypatch.delenv("JAXNN_CACHE")
    assert cache.cache_folder().name == "jaxnn"


def test_a_table_is_decoded_once_for_each_target(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + "".join(f"{i},{i % 2},{i % 3}\n" for i in range(30)))
    calls = []
    original = examples.read_table
    monkeypatch.setattr(examples, "read_table", lambda *a: calls.append(a) or original(*a))
    first, second = load(path, target="y"), load(path, target="y")
    assert len(calls) == 1
    np.testing.assert_array_equal(first.train.x, second.train.x)
    assert first.train.class_names == second.train.class_names == ("0", "1", "2")
    assert load(path, target="b").train.class_names == ("0", "1")
    assert len(calls) == 2


def test_an_entry_that_lost_an_array_is_decoded_anew_and_replaced(source):
    decode = Decoder()
    cached(source, decode)
    (entry,) = entries()
    with np.load(entry) as archive:
        np.savez(entry, **{name: archive[name] for name in archive if name != "names"})
    same(cached(source, decode))
    same(cached(source, decode))
    assert decode.calls == 2


@pytest.mark.parametrize("change", [b"1,2,0\n", None])
@pytest.mark.parametrize("read", [load, load_table])
def test_a_file_that_grows_or_shrinks_while_it_is_read_is_refused(
    change, read, tmp_path, monkeypatch
):
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + "".join(f"{i},{i % 2},{i % 3}\n" for i in range(300)))

    def late(*arguments, **options):
        with path.open("r+b") as file:
            file.seek(0, 2)
            file.truncate(1000) if change is None else file.write(change)
        return read_target(*arguments, **options)

    for reader in (examples, piecewise):
        monkeypatch.setattr(reader, "read_target", late)
    with pytest.raises(ValueError, match=r"t.csv: expected a file that stays as it is while"):
        read(path, target="y")
    assert not any(cache.cache_folder().glob("*.npz"))
