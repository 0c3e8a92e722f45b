"""What several processes of one run agree on. In a run of one process all of it is immediate."""

import importlib.metadata
import platform

import jax
import numpy as np
from jax.experimental import multihost_utils

TEXT_BYTES = 1024
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
    """What each process gave, up to 1024 bytes of UTF-8; all must ask at the same place."""
    if _count() == 1:
        return [text]
    data = text.encode()[:TEXT_BYTES]
    padded = np.zeros(TEXT_BYTES, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def require_same_versions() -> None:
    """Raise RuntimeError unless Python and the packages have the same versions in all processes."""
    text = "\n".join(f"{name} {version}" for name, version in versions().items())
    all_versions = [
        dict(line.split(" ", 1) for line in text.splitlines()) for text in texts_of_all(text)
    ]
    for number, there in enumerate(all_versions):
        for name, expected in all_versions[0].items():
            if there.get(name) != expected:
                raise RuntimeError(
                    "launch: expected the same versions of all packages in all processes, got "
                    f"{name} {expected} in process 0 and {there.get(name)} in process {number}"
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
