"""What reads files and texts that strangers made, each with a valid one to damage."""

import dataclasses
import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tomli_w
from PIL import Image

import jaxnn as nn
from experiments.support.config import LAYERS, LOSSES, load_config, read_config, to_table
from experiments.support.expressions import build, parse
from experiments.support.runs import Run
from jaxnn import interop
from jaxnn.data import cache, load, read_idx, write_mapped
from jaxnn.data.images import Pixels, decode_like
from jaxnn.data.npz import read_npz
from jaxnn.data.sounds import read_wav
from jaxnn.training import create_state, make_optimizer, make_schedule
from jaxnn.training.checkpoints import Checkpoints

NAMES = ("cat", "dog", "eel")
NETWORK = nn.serial(
    stem=nn.serial(nn.conv(4, (3, 3), padding=((1, 0), (0, 1))), nn.leaky_relu(0.2)),
    pool=nn.max_pool(2, strides=1),
    body=nn.with_precision(nn.repeat(nn.skip(nn.dense(4)), 3), nn.POLICIES["bfloat16"]),
    mix=nn.fork(nn.group_norm(2), nn.dropout(0.5), nn.embedding(7, 5)),
    head=nn.feedback_alignment(nn.dense(10, weight_init="normal(0.5)")),
)


class Loader(NamedTuple):
    """Something that reads what strangers made."""

    write: Callable[[Path], Path]
    """Writes a valid file into a folder, or a folder of files; the path of what is to be read."""
    read: Callable[[Path], Any]
    """Reads it: arrays, or whatever can be compared."""
    has_checksum: bool = False
    """Whether the format notices every change of the data, so that they must be the same."""
    share: int = 20
    """How many of the inputs are its, compared with the others."""


def _numbers() -> dict[str, np.ndarray]:
    """Examples of three features and three classes."""
    x = np.linspace(-1, 1, 72, dtype=np.float32).reshape(24, 3)
    return {"x": x, "target": np.arange(24, dtype=np.int32) % 3}


def _npz(save: Callable[..., Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        save(folder / "data.npz", **_numbers(), class_names=NAMES, feature_names=["a", "b", "c"])
        return folder / "data.npz"

    return write


def _read_npz(path: Path) -> Any:
    return read_npz(path, ("x", "target"), ("class_names", "feature_names"))


def _load(path: Path) -> Any:
    return _checked(load(path, target="target", test_fraction=0.25))


def _checked(splits: Any) -> Any:
    """The data of the splits; raises AssertionError unless they are as `load` promises."""
    parts = splits.train, splits.validation, splits.test
    for part in parts:
        classes = len(part.class_names)
        assert len(part.x) == len(part.target)
        assert part.x.dtype == np.float32
        assert part.target.dtype == (np.int32 if classes else np.float32)
        assert not classes or all(0 <= label < classes for label in part.target)
    assert np.isfinite(splits.test.x).all()
    return [(np.array(p.x), np.array(p.target), p.feature_names, p.class_names) for p in parts]


def _write_mapped(folder: Path) -> Path:
    splits = load(_npz(np.savez)(folder), test_fraction=0.25, validation_fraction=0.25)
    return write_mapped(splits, folder / "mapped")


def _write_table(folder: Path) -> Path:
    rows = (f"{i},{i / 7:.4f},{-i * 0.5},{NAMES[i % 3]}" for i in range(24))
    (folder / "table.csv").write_text("\n".join(["a,b,c,target", *rows]) + "\n")
    return folder / "table.csv"


def _write_entry(folder: Path) -> Path:
    """An entry of the cache; what it is of lies beside it."""
    source = folder / "source.bin"
    source.write_bytes(b"the source")
    cache.cached(source, _numbers)
    return Path(shutil.copy(_entry_of(source), folder / "entry.npz"))


def _read_entry(path: Path) -> Any:
    source = path.parent / "source.bin"
    shutil.copy(path, _entry_of(source))
    return cache.cached(source, _numbers)


def _entry_of(source: Path) -> Path:
    (entry,) = cache.cache_folder().glob(f"{source.name}-*")
    return entry


def _write_image(kind: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        Image.fromarray(np.arange(240, dtype=np.uint8).reshape(8, 10, 3)).save(folder / kind)
        return folder / kind

    return write


def _read_image(path: Path) -> Any:
    found = decode_like(Pixels(resized=True), (8, 10, 3), [path])
    assert found.dtype == np.uint8
    return found


def _write_wav(folder: Path) -> Path:
    data = np.arange(-50, 50, dtype="<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data))
    content = b"RIFF" + struct.pack("<I", len(chunks) + len(data)) + chunks + data
    (folder / "a.wav").write_bytes(content)
    return folder / "a.wav"


def _idx(compress: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        header = b"\0\0\x08\3" + b"".join(n.to_bytes(4, "big") for n in (5, 4, 3))
        (folder / "images").write_bytes(compress(header + bytes(range(60))))
        return folder / "images"

    return write


def _state() -> Any:
    optimizer = make_optimizer("adam", 1e-3)
    network = nn.serial(nn.dense(6), nn.batch_norm(), nn.dense(3))
    return create_state(network, optimizer, jax.random.key(0), jnp.zeros((1, 5)))


def _write_checkpoint(folder: Path) -> Path:
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(3, _state())
    return folder / "checkpoints"


def _read_checkpoint(path: Path) -> Any:
    with Checkpoints(path, read_only=True) as checkpoints:
        epoch, state = checkpoints.restore(like=_state())
    return epoch, jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))


def _write_config(folder: Path) -> Path:
    text = tomli_w.dumps(to_table(load_config("wine_mlp")), multiline_strings=False)
    (folder / "config.toml").write_text(text)
    return folder / "config.toml"


def _write_metrics(folder: Path) -> Path:
    records = ({"epoch": n, "loss": 1 / n, "seconds": 0.5} for n in range(1, 6))
    text = "".join(json.dumps(record) + "\n" for record in (*records, {"test": {"loss": 0.1}}))
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text(text)
    return folder / "run"


def _read_metrics(path: Path) -> Any:
    run = Run(path)
    return run.epochs(), run.test()


def _text(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "text").write_text(text)
        return folder / "text"

    return write


def _given(path: Path) -> str:
    """The text as a command line would give it."""
    return os.fsdecode(path.read_bytes())


def _expression(kind: str, factories: dict[str, Any]) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        value = build(_given(path), kind, factories)
        assert build(repr(value), kind, factories) == value
        return repr(value)

    return read


def _read_optimizer(path: Path) -> Any:
    call = parse(_given(path), "optimizer")
    make_optimizer(call.name, 1e-3, call.options)
    return repr(call)


def _read_schedule(path: Path) -> Any:
    call = parse(_given(path), "schedule")
    schedule = make_schedule(call.name, 1e-3, 100, call.options)
    rates = np.array([schedule(step) for step in (0, 50, 99)])
    assert np.isfinite(rates).all()
    return rates


TREE = {"layer": {"weight": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}}


def _write_tensors(folder: Path) -> Path:
    return interop.save_safetensors(folder / "weights.safetensors", TREE)


def _read_tensors(path: Path) -> Any:
    read = interop.read_safetensors(path)
    for name, array in read.items():
        assert isinstance(name, str)
        assert isinstance(array, np.ndarray)
    return jax.tree.map(np.asarray, interop.load_safetensors(path, TREE))


def _write_program(folder: Path) -> Path:
    program = interop.export_predict(nn.tanh(), (), (), jnp.ones((1, 3)))
    (folder / "program").write_bytes(program)
    return folder / "program"


def _read_program(path: Path) -> Any:
    return np.asarray(interop.load_exported(path.read_bytes())(jnp.ones((2, 3))))


LOADERS = {
    "npz": Loader(_npz(np.savez), _read_npz, has_checksum=True, share=40),
    "deflated npz": Loader(_npz(np.savez_compressed), _read_npz, has_checksum=True),
    "data": Loader(_npz(np.savez), _load, has_checksum=True),
    "mapped": Loader(_write_mapped, lambda path: _checked(load(path)), share=40),
    "table": Loader(_write_table, _load),
    "cache": Loader(_write_entry, _read_entry, has_checksum=True),
    "image.png": Loader(_write_image("image.png"), _read_image),
    "image.jpg": Loader(_write_image("image.jpg"), _read_image),
    "image.tif": Loader(_write_image("image.tif"), _read_image),
    "image.gif": Loader(_write_image("image.gif"), _read_image),
    "wav": Loader(_write_wav, read_wav),
    "idx": Loader(_idx(bytes), read_idx),
    "idx.gz": Loader(_idx(lambda content: gzip.compress(content, mtime=0)), read_idx, True),
    "checkpoint": Loader(_write_checkpoint, _read_checkpoint, has_checksum=True, share=2),
    "config": Loader(_write_config, lambda path: dataclasses.asdict(read_config(path))),
    "metrics": Loader(_write_metrics, _read_metrics),
    "layer": Loader(_text(repr(NETWORK)), _expression("layer", LAYERS), share=40),
    "loss": Loader(_text("sequence_loss(huber(delta=2.0))"), _expression("loss", LOSSES)),
    "optimizer": Loader(_text("adam(b1=0.95, eps=1e-7, mu_dtype='bfloat16')"), _read_optimizer),
    "schedule": Loader(_text("step(at=(0.25, 0.75), factor=0.1, warmup=0.1)"), _read_schedule),
}
if find_spec("safetensors"):
    LOADERS["safetensors"] = Loader(_write_tensors, _read_tensors, share=40)
if find_spec("flatbuffers"):
    LOADERS["exported"] = Loader(_write_program, _read_program, has_checksum=True)
