"""Trees of arrays in files of the safetensors format, which hold numbers and names and no code.

8 bytes     the length of the header, little-endian
header      JSON: name -> dtype, shape and place of an array
the rest    the numbers, in row-major order, without gaps

The name of an array is its path in the tree, with the names of parts: ``stem.0.weight``. That a
header tells the truth (places inside the file, none shared, none left over, as many bytes as shape
and dtype want) is checked by the library safetensors before any array is looked at.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.files import require_free, write_file
from jaxnn.core.validation import brief, printable

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
"""Those that are written and read, by their names in a header."""
MOST_SHOWN = 40
"""How many differences an error lists."""


def save_safetensors(path: Path | str, tree: Any, *, overwrite: bool = False) -> Path:
    """Write a tree of arrays, such as params or (params, state), to a .safetensors file.

    The file is there whole or not at all. Every array keeps its dtype and every bit.

    Args:
        path: The file.
        tree: Of arrays; the path of each becomes its name. A dict of arrays keeps its names.
        overwrite: Whether a file of that name is replaced.

    Raises:
        ImportError: safetensors is missing: ``pip install "jaxnn[weights]"``.
        TypeError: A leaf is no array, or of a dtype that the format does not have.
        ValueError: Two arrays have one name.
        FileExistsError: There is such a file.
        OSError: It cannot be written.
    """
    path, library = Path(path), _library()
    require_free(path, overwrite=overwrite)
    named = named_leaves("save_safetensors", tree)
    for name, leaf in named.items():
        if str(leaf.dtype) not in DTYPES.values():
            raise TypeError(
                f"save_safetensors: expected {brief(name)} to be of a dtype among "
                f"{', '.join(DTYPES.values())}, got {leaf.dtype}"
            )
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named.items()}
    return write_file(path, lambda p: library.numpy.save_file(arrays, p), overwrite=overwrite)


def load_safetensors(path: Path | str, like: Any) -> Any:
    """The tree of arrays that `save_safetensors` wrote.

    Nothing is read but the header before all names, shapes and dtypes are found to be those of
    ``like``.

    Args:
        path: The file.
        like: A tree of arrays or of `jax.ShapeDtypeStruct`:
            ``jax.eval_shape(network.init, jax.random.key(0), x)`` for (params, state).

    Raises:
        ImportError: safetensors is missing: ``pip install "jaxnn[weights]"``.
        ValueError: The file is damaged or none of that format; or arrays are missing, surplus or of
            another shape or dtype, all of which are listed.
        OSError: It cannot be opened.
    """
    wanted = named_leaves("load_safetensors", like)
    require_usable_dtypes("load_safetensors", wanted)
    with _opened(path) as file:
        expected = {name: described(leaf) for name, leaf in wanted.items()}
        require_same(f"{path}: expected the arrays of like", expected, _claims(file))
        leaves = [jnp.asarray(file.get_tensor(name)) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def read_safetensors(path: Path | str) -> dict[str, np.ndarray]:
    """All arrays of a .safetensors file by name, somebody else's ``state_dict`` for example.

    Raises:
        ImportError: safetensors is missing: ``pip install "jaxnn[weights]"``.
        ValueError: The file is damaged, none of that format, or has a dtype that NumPy has not.
        OSError: It cannot be opened.
    """
    with _opened(path) as file:
        names = sorted(file.keys())
        for name in names:
            dtype = file.get_slice(name).get_dtype()
            if dtype not in DTYPES:
                raise ValueError(
                    f"{path}: expected dtypes among {', '.join(DTYPES)}, got {brief(dtype)} of "
                    f"{brief(name)}"
                )
        return {name: file.get_tensor(name) for name in names}


def named_leaves(where: str, tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their paths, joined by dots.

    Raises:
        TypeError: A leaf is no array.
        ValueError: Two have one name, or the tree is a single array, without any.
    """
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise TypeError(f"{where}: expected {brief(name)} to be an array, got {brief(leaf)}")
        if not name or name in named:
            fault = f"two of them {brief(name)}" if name else "an array without a name"
            raise ValueError(f"{where}: expected arrays of different names, got {fault}")
        named[name] = leaf
    return named


def require_usable_dtypes(where: str, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError where JAX would change a dtype without a word."""
    for name, leaf in wanted.items():
        own = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if own != leaf.dtype:
            raise ValueError(
                f"{where}: expected {brief(name)} to be of a dtype that JAX has now, {own}, got "
                f"{leaf.dtype}; set jax_enable_x64 for it"
            )


def described(leaf: Any) -> str:
    """ "float32[2, 3]"."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def require_same(expected_what: str, expected: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raise ValueError, with all differences between two descriptions by name, where there are.

    Args:
        expected_what: Where, and what is expected, for the error.
        expected: What `described` says of each array.
        given: The same of the arrays that there are.
    """
    differences = [
        *(f"missing {brief(n)}, {expected[n]}" for n in expected if n not in given),
        *(f"surplus {brief(n)}, {given[n]}" for n in given if n not in expected),
        *(
            f"{brief(n)}: expected {expected[n]}, got {given[n]}"
            for n in expected
            if n in given and expected[n] != given[n]
        ),
    ]
    if differences:
        raise ValueError(f"{expected_what}, but\n{lines(differences)}")


def lines(items: Iterable[str]) -> str:
    """Items one a line, of a bounded number and steering no terminal."""
    items = list(items)
    left = [f"… and {len(items) - MOST_SHOWN} more"] * (len(items) > MOST_SHOWN)
    return "\n".join(f"  {printable(item)}" for item in [*items[:MOST_SHOWN], *left])


def _claims(file: Any) -> dict[str, str]:
    claims = {}
    for name in sorted(file.keys()):
        claim = file.get_slice(name)
        dtype = DTYPES.get(claim.get_dtype(), claim.get_dtype())
        claims[name] = f"{dtype}{list(claim.get_shape())}"
    return claims


def _opened(path: Path | str) -> Any:
    library, path = _library(), Path(path)
    with path.open("rb"):  # what cannot be opened says so as everywhere
        pass
    try:
        return library.safe_open(path, framework="numpy")
    except library.SafetensorError as error:
        raise ValueError(
            f"{path}: expected a whole .safetensors file, got {brief(str(error))}"
        ) from None


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            'files of the safetensors format need safetensors: pip install "jaxnn[weights]"'
        ) from error
    return safetensors
