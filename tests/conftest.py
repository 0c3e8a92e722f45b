import gc
import os
import tempfile
import threading

import hypothesis
import jax
import jaxtyping
import pytest
from jax._src.interpreters import mlir

# The suite compiles thousands of small programs and runs most of them once: let the compiler spend
# less on each. XLA refuses flags that it does not know; these were tried from 0.10 to 0.12.
flags = [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__ < (0, 11):
    flags.append("--xla_cpu_use_fusion_emitters=false")
if jax.__version_info__ < (0, 13):
    os.environ["XLA_FLAGS"] = " ".join(flags)

# The workers, and the scripts that tests start, compile many of the same programs.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="jaxnn-tests-", ignore_cleanup_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": compiled.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

# JAX makes a context of the compiler for every program, which takes a third of the time of a small
# one and stays in memory for as long as the program: let all of a thread share one, where it can be
# exchanged (later versions of JAX share them themselves).
if hasattr(mlir, "make_ir_context"):
    contexts, make_context = threading.local(), mlir.make_ir_context

    def context_of_thread():
        """The context that this thread uses for everything, but for a program that is lowered while
        another is: it would become a part of that one."""
        try:
            _ = mlir.ir.InsertionPoint.current
            return make_context()
        except ValueError:
            pass
        if not hasattr(contexts, "own"):
            contexts.own = make_context()
        return contexts.own

    mlir.make_ir_context = context_of_thread

# Tracing makes many objects, few of them in cycles: collect them less often.
gc.set_threshold(50_000, 20, 100)

# Virtual devices, for what is split over several; everything else runs on the first.
jax.config.update("jax_num_cpu_devices", 4)

hypothesis.settings.register_profile(
    "jaxnn",
    max_examples=5,
    deadline=None,
    derandomize=True,
    # The fixture below only switches a mode on, the same for every example that is drawn.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("jaxnn")


@pytest.fixture
def x64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def untyped():
    """Switch the checker of annotations off, to meet the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
