"""Compiled programs, kept from one start of a script to the next."""

import hashlib
import os
import platform
import sys
from pathlib import Path

import jax

from jaxnn.core.validation import printable
from jaxnn.data.cache import cache_folder

MOST_BYTES = 2**30
"""How much is kept; what was used longest ago goes first."""
LEAST_SECONDS = 0.1
"""What is compiled in less time is not kept."""
ENABLED, FOLDER = "JAX_ENABLE_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR"


def keep_compiled_programs() -> None:
    """Have JAX look for compiled programs in a folder of the cache before it compiles them.

    Nothing is set where the user's environment says something about JAX's cache. The folder can be
    deleted at any time. Where it cannot be written, one line says so, and the work goes on.
    """
    if {ENABLED, FOLDER} & os.environ.keys():
        return
    try:
        folder = cache_folder() / "compiled" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied", str(folder))
    except (OSError, ImportError) as error:
        text = printable(str(error))
        print(f"warning: compiled programs are not kept: {text}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def compile_anew() -> None:
    """Have JAX compile every program, where compiling is what is measured."""
    jax.config.update("jax_enable_compilation_cache", False)


def _processor() -> str:
    """A name for the machine's processor: what is compiled for one may not run on another."""
    facts = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        facts += [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    except OSError:
        pass
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
