"""Compiled functions as files: StableHLO with a symbolic batch, by `jax.export`.

A file needs neither the code that it was made from nor, but for reading it, this library:

jaxnn-export 1     the format
64 characters      the SHA-256 of what follows
one line of JSON   what the function takes and returns, platforms, versions, facts
the rest           what `jax.export.Exported.serialize` returns, with the parameters inside

Reading one runs no Python: the digest is compared before anything is decoded, and a program that
calls into the process, in place of computing, is refused.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import export
from jax.experimental import checkify

from jaxnn.core.contract import Layer
from jaxnn.core.validation import batch_size, brief, unknown_name
from jaxnn.core.value import checked

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MAGIC = b"jaxnn-export 1\n"
_DIGEST = re.compile(rb"[0-9a-f]{64}\n")
_LONGEST_HEADER = 1 << 24
_CALLS = re.compile(r'custom_call @"?([\w.$-]+)')
_KNOWN_CALLS = re.compile(r"shape_assertion|Sharding|(mhlo|chlo|stablehlo)\..*")
"""What compilers themselves know by these names."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function that `export_function` has written: y = program(x), for any number of examples."""

    inputs: Any
    """A tree of "float32[b, 4]", with b for the batch."""
    outputs: Any
    """The same of what it returns."""
    platforms: tuple[str, ...]
    """"cpu", "cuda", "rocm" or "tpu": where it can run."""
    versions: Mapping[str, str]
    """Of jax and of the calling convention that it was written by."""
    facts: Mapping[str, Any]
    """What who wrote it has to say."""
    exported: export.Exported = dataclasses.field(repr=False)
    """For `jax.export`; its ``mlir_module()`` is the StableHLO text."""

    def __call__(self, x: Any) -> Any:
        """y.

        Raises:
            ValueError: x has another structure, shape or dtype than ``inputs``, no examples, or the
                platform is none of ``platforms``.
        """
        given = _described(x)
        size = str(batch_size("program", x))
        expected = jax.tree.map(lambda one: one.replace("[b", f"[{size}"), self.inputs)
        if given != expected or size == "0":
            raise ValueError(
                f"program: expected x to be {self.inputs} with b of at least 1, got {given}"
            )
        if not self.runs_here:
            raise ValueError(
                f"program: expected one of its platforms, {', '.join(self.platforms)}, got "
                f"{jax.default_backend()}"
            )
        with jax.enable_x64("64" in str((self.inputs, self.outputs))):
            return self._compiled(x)

    @property
    def runs_here(self) -> bool:
        """Whether it is for the platform of this process."""
        here = jax.default_backend()
        return bool({*self.platforms} & ({"cuda", "rocm"} if here == "gpu" else {here}))

    @functools.cached_property
    def _compiled(self) -> Callable:
        return jax.jit(self.exported.call)


def export_predict(
    network: Layer,
    params: Any,
    state: Any,
    x: Any,
    *,
    platforms: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> bytes:
    """``network.predict`` with these weights, as the bytes of a file; see `export_function`.

    Args:
        network: Any.
        params: Of the network.
        state: Of the network.
        x: An input of the shapes and dtypes that it will have, of arrays or
            `jax.ShapeDtypeStruct`; its number of examples does not count.
        platforms: As `export_function`.
        facts: As `export_function`.
    """
    checked("export_predict", "network", network, Layer)
    return export_function(
        lambda x: network.predict(params, state, x), x, platforms=platforms, facts=facts
    )


def export_function(
    function: Callable[[Any], Any],
    x: Any,
    *,
    platforms: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> bytes:
    """A function of a batch as the bytes of a file, which `load_exported` reads.

    Args:
        function: x -> y, that `jax.jit` takes; arrays that it closes over become part of the file.
            Checks that `jax.experimental.checkify` would report are left out.
        x: An input of the shapes and dtypes that it will have, of arrays or
            `jax.ShapeDtypeStruct`, the batch first; the number of examples does not count.
        platforms: Among "cpu", "cuda", "rocm" and "tpu", those that it is to run on; that of this
            process unless given.
        facts: Anything that JSON holds, kept beside it.

    Raises:
        ImportError: flatbuffers is missing: ``pip install "jaxnn[export]"``.
        ValueError: the function depends on the number of examples, calls a library or Python, or
            cannot be exported for other reasons, which jax names; x has no batch; a platform is
            unknown.
    """
    _require_library()
    batch_size("export_function", x)
    for platform in platforms or ():
        if platform not in PLATFORMS:
            raise ValueError(f"export_function: {unknown_name('platform', platform, PLATFORMS)}")
    (batch,) = export.symbolic_shape("b")
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype), x)

    def unchecked(x: Any) -> Any:
        return checkify.checkify(function, errors=frozenset())(x)[1]

    try:
        exported = export.export(jax.jit(unchecked), platforms=platforms)(shapes)
    except Exception as error:  # jax has many kinds
        raise ValueError(
            f"export_function: expected a function of any number of examples that jax.export "
            f"takes, got {brief(str(error).splitlines()[0])}"
        ) from error
    _require_pure("export_function", exported)
    payload = bytes(exported.serialize())
    y = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    header = {
        "inputs": _listed(_described(shapes)),
        "outputs": _listed(_described(y)),
        "platforms": list(exported.platforms),
        "versions": {
            "jax": jax.__version__,
            "calling convention": str(exported.calling_convention_version),
        },
        "facts": dict(facts or {}),
    }
    rest = json.dumps(header, allow_nan=False).encode() + b"\n" + payload
    return MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def load_exported(data: bytes) -> Program:
    """The function of a file that `export_function` or `export_predict` has made.

    Raises:
        ImportError: flatbuffers is missing: ``pip install "jaxnn[export]"``.
        ValueError: the bytes are damaged, no such file, of another version of jax that this one
            cannot read, or a program that does more than compute.
    """
    _require_library()
    start = len(MAGIC)
    if not isinstance(data, bytes) or data[:start] != MAGIC:
        raise ValueError(f"load_exported: expected {brief(MAGIC)} first, got {brief(data[:20])}")
    digest, rest = data[start : start + 65], data[start + 65 :]
    if not _DIGEST.fullmatch(digest) or hashlib.sha256(rest).hexdigest() != digest[:-1].decode():
        raise ValueError("load_exported: expected the bytes that were written, got damaged ones")
    try:
        head, _, payload = rest.partition(b"\n")
        if len(head) > _LONGEST_HEADER:
            raise ValueError(f"a header of {len(head)} bytes")
        header = json.loads(head)
        exported = export.deserialize(bytearray(payload))
        x, y = (
            _described(jax.tree.unflatten(tree, avals))
            for tree, avals in (
                (exported.in_tree, exported.in_avals),
                (exported.out_tree, exported.out_avals),
            )
        )
        ((inputs,), options), platforms = x, tuple(exported.platforms)
        if options or _listed(inputs) != header["inputs"] or list(platforms) != header["platforms"]:
            raise ValueError("a header that is not its program's")
        versions = {str(name): str(version) for name, version in header["versions"].items()}
        program = Program(inputs, y, platforms, versions, dict(header["facts"]), exported)
    # flatbuffers raises whatever reading at a wrong place gives.
    except Exception as error:
        raise ValueError(
            f"load_exported: expected a program that jax {jax.__version__} can read, got "
            f"{brief(str(error))}"
        ) from error
    _require_pure("load_exported", exported)
    return program


def _require_pure(where: str, exported: export.Exported) -> None:
    """Raise ValueError where a program calls what is in the process, in place of computing."""
    calls = sorted({*_CALLS.findall(exported.mlir_module())})
    for call in calls:
        if not _KNOWN_CALLS.fullmatch(call):
            raise ValueError(
                f"{where}: expected a program that computes and nothing else, got one that calls "
                f"{brief(call)}"
            )


def _described(tree: Any) -> Any:
    return jax.tree.map(lambda a: f"{a.dtype}[{', '.join(map(str, a.shape))}]", tree)


def _listed(tree: Any) -> list[str]:
    return jax.tree.leaves(tree)


def _require_library() -> None:
    if importlib.util.find_spec("flatbuffers") is None:  # by which jax.export writes and reads
        raise ImportError('exported functions need flatbuffers: pip install "jaxnn[export]"')
