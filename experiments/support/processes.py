"""What several processes of one run agree on. In a run of one process all of it is immediate."""

import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxnn.core.validation import brief

PACKAGES = ("jaxnn", "jax", "jaxlib", "optax", "numpy", "orbax-checkpoint")
"""Those whose versions must be the same in all processes."""


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return _count() == 1 or jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all must ask at the same place."""
    if _count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def text_of_first(text: str) -> str:
    """What the first process gave; all must ask at the same place."""
    return texts_of_all(text)[0]


def texts_of_all(text: str) -> list[str]:
    """What each process gave; all must ask at the same place."""
    if _count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array(data.size))).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def require_agreement(what: str, facts: Callable[[], Mapping[str, str]]) -> None:
    """Raise RuntimeError unless the facts are the same in all processes; all must ask.

    Args:
        what: The facts in a word, for the error, which has the first that differs.
        facts: Gives them by name; not called where there is one process.
    """
    if _count() == 1:
        return
    first, *others = (json.loads(text) for text in texts_of_all(json.dumps(dict(facts()))))
    for number, there in enumerate(others, 1):
        for name in [*first, *there]:
            if there.get(name) != first.get(name):
                raise RuntimeError(
                    f"launch: expected the same {what} in all processes, got {name} "
                    f"{brief(first.get(name))} in process 0 and {brief(there.get(name))} in "
                    f"process {number}"
                )


def versions() -> dict[str, str]:
    """Those of Python and of `PACKAGES` in this process."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _count() -> int:
    """How many processes there are; by itself, JAX would start its devices to say so."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
