"""Is it right, and if not, what is missing? One judge for all exercises.

What a person's function returns is compared with the right results, and where it differs, with
those of every typical mistake, with what a wrong sign, shape, factor or order makes of the right
ones, and with those of every two mistakes. What is the same in all cases explains a wrong output.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.lessons.exercise import Exercise
from experiments.support.apart import Call

TOLERANCE = 1e-9
"""Of numbers of 64 bits, relative to the largest."""
OF_FEW_BITS = {2: 1e-2, 4: 1e-4}
"""The same of floating-point numbers of fewer bytes, of which it is told."""


class Verdict(NamedTuple):
    """What is said about an answer."""

    faults: tuple[str, ...] = ()
    """What is wrong: a text for each output, and one for an error."""
    hints: tuple[str, ...] = ()
    """What is missing, as far as the mistakes are typical."""


Explanation = tuple[set[int], Sequence[str]]
"""Outputs, by their numbers, and what is said where one of them is wrong."""


@np.errstate(all="ignore")
def judge(exercise: Exercise, calls: Sequence[Call]) -> Verdict:
    """Compare what a person's function came to with what is right."""
    if all(c.error.endswith("NotImplementedError") for c in calls):
        return Verdict(("it is still the stub: write its body, in place of the last line",))
    right = [Call(tuple(case.values())) for case in exercise.right]
    answered = any(not c.error for c in calls)
    outputs = range(len(exercise.names) if answered else 0)
    wrong = [output for output in outputs if not _same(calls, right, output, _equal)]
    faults = [_fault(exercise, calls, right, output) for output in wrong]
    for case, c in zip(exercise.arguments, calls, strict=True):
        if c.error:
            faults.append(f"{c.error}\nwith {_sizes(case)}")
            break
    unexplained = {o for o in wrong if not _same(calls, right, o, _about_equal)}
    hints = dict.fromkeys(_hints(exercise, calls, right, unexplained))
    return Verdict(tuple(faults), tuple(hints))


def _hints(
    exercise: Exercise, calls: Sequence[Call], right: Sequence[Call], unexplained: set[int]
) -> Iterator[str]:
    """What is said about the unexplained outputs; first by what explains the most of them."""
    for explanations in (
        _mistakes(exercise, calls, 1),
        _relations(exercise, calls, right),
        _mistakes(exercise, calls, 2),
    ):
        known = list(explanations) if unexplained else []
        # Of two that explain as many, the one that is right where the person is.
        while known:
            same, hints = max(known, key=lambda e: (len(e[0] & unexplained), len(e[0])))
            if not same & unexplained:
                break
            unexplained = unexplained - same
            yield from hints


def _mistakes(exercise: Exercise, calls: Sequence[Call], count: int) -> Iterator[Explanation]:
    """Typical ones, so many at once."""
    for mistakes in itertools.combinations(exercise.mistakes, count):
        source = exercise.with_mistakes(*mistakes)
        if source is not None:
            theirs = exercise.calls_of(source)
            outputs = range(len(exercise.names))
            same = {output for output in outputs if _same(calls, theirs, output, _about_equal)}
            yield same, [mistake.hint for mistake in mistakes]


def _relations(
    exercise: Exercise, calls: Sequence[Call], right: Sequence[Call]
) -> Iterator[Explanation]:
    """Outputs that become right by a change of sign, shape, size or place."""
    for output, name in enumerate(exercise.names):
        for relation, text in RELATIONS.items():
            if _same(calls, right, output, relation):
                yield {output}, [f"{name} {text}"]
        for other, its_name in enumerate(exercise.names):
            if other != output and _same(calls, right, output, _about_equal, other):
                order = ", ".join(exercise.names)
                yield {output}, [f"What you return as {name} is {its_name}: return {order}."]


def _same(
    calls: Sequence[Call],
    others: Sequence[Call],
    output: int,
    relation: Callable[[np.ndarray, np.ndarray], bool],
    other_output: int | None = None,
) -> bool:
    """Whether an output is, in every case in which a person's function returned."""
    place = output if other_output is None else other_output
    return all(
        not other.error
        and not isinstance(given := c.outputs[output], str)
        and relation(given, np.asarray(other.outputs[place]))
        for c, other in zip(calls, others, strict=True)
        if not c.error
    )


def _equal(given: np.ndarray, other: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    size = np.max(np.abs(other), initial=0, where=np.isfinite(other))
    return given.shape == other.shape and np.allclose(
        given, other, rtol=tolerance, atol=tolerance * size, equal_nan=True
    )


def _about_equal(given: np.ndarray, other: np.ndarray) -> bool:
    """As far as the bits of what is given reach."""
    return _equal(given, other, OF_FEW_BITS.get(given.dtype.itemsize, TOLERANCE))


def _lacks_a_sum(given: np.ndarray, other: np.ndarray) -> bool:
    axes = range(given.ndim if given.ndim > other.ndim else 0)
    return any(_about_equal(given.sum(axis), other) for axis in axes)


def _is_a_multiple(given: np.ndarray, other: np.ndarray) -> bool:
    """By a number that depends on the case; of one element alone, that would say nothing."""
    if given.shape != other.shape or other.size < 2 or not 0 < np.abs(given).max() < np.inf:
        return False
    factor = np.sum(given * other) / np.sum(other * other)
    return _about_equal(given, factor * other)


RELATIONS: dict[Callable[[np.ndarray, np.ndarray], bool], str] = {
    lambda given, other: _about_equal(-given, other): "has the wrong sign.",
    lambda given, other: _about_equal(given.T, other): "is the transpose of what it should be.",
    lambda given, other: (
        given.size == other.size and _about_equal(given.reshape(other.shape), other)
    ): "has the right numbers in another shape.",
    _lacks_a_sum: "lacks a sum over one of its axes.",
    _is_a_multiple: "is a multiple of what it should be: is there a factor too many or too few, "
    "such as a 2 or the 1/N of a mean?",
}
"""What people do to a right result, and what is said of it."""


def _fault(exercise: Exercise, calls: Sequence[Call], right: Sequence[Call], output: int) -> str:
    """How an output differs: in the first case in which its shape does, or else its numbers do."""
    name, differing = exercise.names[output], []
    for case, c, other in zip(exercise.arguments, calls, right, strict=True):
        if not c.error:
            given, wanted = c.outputs[output], np.asarray(other.outputs[output])
            if isinstance(given, str):
                return f"{name} is {given}, in place of an array of shape {wanted.shape}"
            if given.shape != wanted.shape:
                shapes = f"{given.shape} in place of {wanted.shape}"
                return f"{name} has the shape {shapes}, with {_sizes(case)}"
            if not _equal(given, wanted):
                differing.append((given, wanted))
    given, wanted = differing[0]
    if all(_about_equal(*pair) for pair in differing):
        return f"{name} is right, but in {given.dtype}: keep to the float64 of the arguments"
    return f"{name} {_difference(given, wanted)}"


def _difference(given: np.ndarray, wanted: np.ndarray) -> str:
    """Where two arrays of the same shape differ most, and how often they do."""
    error = np.abs(given - wanted)
    error = np.where(np.isfinite(error), error, np.inf)
    place = tuple(map(int, np.unravel_index(np.argmax(error), error.shape)))
    at = f" at {list(place)}" if place else ""
    size = np.max(np.abs(wanted), initial=0)
    count = int(np.sum(error > TOLERANCE * size))
    many = f"{count} of its {error.size} elements are, " if error.size > 1 else ""
    what = "is wrong" if np.isfinite(given).all() else "is wrong and not finite"
    return f"{what}: {many}{given[place] + 0:.6g}{at} in place of {wanted[place] + 0:.6g}"


def _sizes(case: dict[str, Any]) -> str:
    """What a case is like."""
    known = [f"{n} {a.shape if isinstance(a, np.ndarray) else a}" for n, a in case.items()]
    return ", ".join(known)
