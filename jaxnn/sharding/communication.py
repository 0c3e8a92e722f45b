"""What the devices tell each other in one run of a compiled program, read from the program itself.

The compiler decides which collectives there are. Each is counted by what a device has to send when
the n devices of its group stand in a ring, which is the least that is possible:

=====================  ===============================================
all-reduce             2 (n − 1)/n · bytes of the result
all-gather             (n − 1)/n · bytes of the result
reduce-scatter         (n − 1) · bytes of the result, a part of the sum
all-to-all             (n − 1)/n · bytes of the result
collective-permute     bytes of the result
=====================  ===============================================
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple


class Collective(NamedTuple):
    """One collective operation of a compiled program."""

    kind: str
    """Such as "all-reduce"."""
    devices: int
    """The number of devices in a group."""
    result_bytes: int
    """The size of what a device holds after it."""

    @property
    def sent_bytes(self) -> float:
        """What a device sends in a ring."""
        return _FACTORS[self.kind](self.devices) * self.result_bytes


_FACTORS = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(_FACTORS)})(-start)?\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
# The devices of a group: in full, {{0,1},{2,3}}; their number and size, [2,2]<=[4]; or the axes of
# a mesh that it spans, mesh['a'=2,'b'=2] {'b'}, of which a part may be taken, {'b':(1)2}.
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\]|mesh\[(.*?)\] \{(.*?)\})")
_AXIS = re.compile(r"'([^']*)'=(\d+)")
_SPANNED = re.compile(r"'([^']*)'(?::\(\d+\)(\d+))?")


def collectives(compiled: Any) -> list[Collective]:
    """The collectives of ``jax.jit(function).lower(…).compile()``, in the order of the program.

    Raises:
        ValueError: One stands in a loop or a branch, so that the program does not say how often it
            runs.
    """
    found, in_entry = [], False
    for line in compiled.as_text().splitlines():
        if line.endswith("{"):
            in_entry = line.startswith("ENTRY")
        operation = _OPERATION.search(line)
        if not operation:
            continue
        if not in_entry:
            raise ValueError(
                "collectives: expected those of the program to stand outside of its loops and "
                f"branches, got {line.strip()[:80]}"
            )
        types, kind, started = operation.groups()
        arrays = _bytes_of(_ARRAY.findall(types))
        # What is started asynchronously returns its operands before its results.
        result = sum(arrays[len(arrays) // 2 :] if started and kind != "all-reduce" else arrays)
        found.append(Collective(kind, _group_size(kind, line), result))
    return found


def sent_bytes(compiled: Any) -> float:
    """What a device sends in one run of a compiled program, in bytes."""
    return sum(collective.sent_bytes for collective in collectives(compiled))


def _bytes_of(arrays: Iterable[tuple[str, str]]) -> list[int]:
    return [
        -(-math.prod(int(n) for n in shape.split(",") if n) * _bits(dtype) // 8)
        for dtype, shape in arrays
    ]


def _bits(dtype: str) -> int:
    """Of an element of "pred", "bf16", "f32", "s4", "f8e4m3fn": the first number says it."""
    bits = re.search(r"\d+", dtype)
    return 8 if bits is None else int(bits.group())


def _group_size(kind: str, line: str) -> int:
    if kind == "collective-permute":
        return 2
    groups = _GROUPS.search(line)
    if groups is None:
        raise ValueError(f"collectives: expected groups of devices in {line.strip()[:200]}")
    members, size, axes, spanned = groups.groups()
    if members is not None:
        return members.count(",") + 1
    if size is not None:
        return int(size)
    sizes = {name: int(length) for name, length in _AXIS.findall(axes)}
    return math.prod(int(part) if part else sizes[name] for name, part in _SPANNED.findall(spanned))
