"""The numbers in the rule that chooses algorithms: the library's own, or those of this machine.

The library's were found on one processor. ``python -m experiments.benchmark choose --output FILE``
finds those of another, and the rule reads them where the environment variable JAXNN_LIMITS names
that file. Without it nothing changes. What was found on another processor or with another version
of JAX is not used, which one warning says.
"""

import functools
import json
import os
import platform
import warnings
from pathlib import Path
from typing import NamedTuple

import jax


class Limits(NamedTuple):
    """Up to where, or from where on, an algorithm is taken; see `jaxnn.kernels.convolution`."""

    max_taps_written_out: int = 25
    """Elements of a kernel up to which the sum over them is no loop."""
    max_shifts: int = 64
    """Rows and columns of a kernel up to which its gradient is of patches."""
    max_groups_in_a_row: int = 16
    """Groups up to which they are computed one after the other."""
    max_narrow_channels: int = 6
    """Channels of a group, added up by a pass, up to which patches and sums of multiples pay."""
    max_narrow_patch: int = 54
    """Numbers in such a patch at most."""
    max_multiples: int = 81
    """Terms of such a sum at most, one for each tap and channel; and sums of a weight gradient."""
    max_sums_channels: int = 4
    """Input channels of a group up to which the weight gradient is of such sums."""
    winograd_forward: int = 32
    """Channels, of the fewer ones, from which on the forward pass is Winograd's."""
    winograd_input_gradient: int = 32
    """From which on the deltas of the input are."""
    winograd_weight_gradient: int = 12
    """Input channels from which on the weight gradient is."""


LIMITS = Limits()


def in_use() -> Limits:
    """Those of the file that JAXNN_LIMITS names, if they are of this machine; else `LIMITS`."""
    return _from(os.environ.get("JAXNN_LIMITS"))


def processor() -> str:
    """What the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def _from(path: str | None) -> Limits:
    if not path:
        return LIMITS
    try:
        return read(Path(path))
    except (OSError, ValueError) as error:
        warnings.warn(f"JAXNN_LIMITS: the library's own limits are used: {error}", stacklevel=2)
        return LIMITS


def read(path: Path) -> Limits:
    """The limits in a file of the benchmark.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is not one of the benchmark, or of another processor or version of JAX.
    """
    way_out = "make it by python -m experiments.benchmark choose --output FILE"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        machine, numbers = found["machine"], found["choose"]["limits"]
        there = machine["processor"], machine["versions"]["jax"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a file of limits; {way_out}") from error
    here = processor(), jax.__version__
    if there != here:
        theirs, ours = (f"{name} with jax {version}" for name, version in (there, here))
        raise ValueError(f"{path}: expected limits of {ours}, got those of {theirs}; {way_out}")
    valid = isinstance(numbers, dict) and set(numbers) == set(Limits._fields)
    if not valid or not all(type(n) is int and n >= 0 for n in numbers.values()):
        raise ValueError(
            f"{path}: expected a number of at least 0 for each of {', '.join(Limits._fields)}; "
            f"{way_out}"
        )
    return Limits(**numbers)
