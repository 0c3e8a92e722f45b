"""Is it right, and if not, what is missing? One judge for all exercises.

What a person's function returns is compared with the right results, and where it differs, with
those of every typical mistake, with those of every two of them, and with what a wrong sign, shape,
factor or order makes of any of these. What is the same in all cases explains a wrong output.
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


class Explanation(NamedTuple):
    """Something that makes outputs what they are."""

    outputs: set[int]
    """By their numbers."""
    hints: Sequence[str]
    """What is said where one of them is wrong."""
    contradictions: int = 0
    """How many other outputs it would make wrong that are right, or wrong in another way."""


@np.errstate(all="ignore")
def judge(exercise: Exercise, calls: Sequence[Call]) -> Verdict:
    """Compare what a person's function came to with what is right."""
    if all(c.error.endswith("NotImplementedError") for c in calls):
        return Verdict(("it is still the stub: write its body, in place of the last line",))
    right = [Call(tuple(case.values())) for case in exercise.right]
    answered = any(not c.error for c in calls)
    outputs = range(len(exercise.names) if answered else 0)
    wrong = [output for output in outputs if not _in_all(calls, right, output, _equal)]
    faults = [_fault(exercise, calls, right, output) for output in wrong]
    for case, c in zip(exercise.arguments, calls, strict=True):
        if c.error:
            faults.append(f"{c.error}\nwith {_sizes(case)}")
            break
    unexplained = {o for o in wrong if not _in_all(calls, right, o, _about_equal)}
    hints = dict.fromkeys(_hints(exercise, calls, right, unexplained))
    return Verdict(tuple(faults), tuple(hints))


def _hints(
    exercise: Exercise, calls: Sequence[Call], right: Sequence[Call], unexplained: set[int]
) -> Iterator[str]:
    """What is said about the unexplained outputs; first by what explains the most of them."""
    for explanations in (
        (_mistaken(calls, right, [m.hint], theirs) for m, theirs in exercise.typical),
        (_mistaken(calls, right, *both) for both in _in_pairs(exercise)),
        _related(exercise, calls, [], right),
        (e for m, theirs in exercise.typical for e in _related(exercise, calls, [m.hint], theirs)),
    ):
        known = list(explanations) if unexplained else []
        while known:
            best = max(known, key=lambda e: (len(e.outputs & unexplained), -e.contradictions))
            if not best.outputs & unexplained:
                break
            unexplained = unexplained - best.outputs
            yield from best.hints


def _in_pairs(exercise: Exercise) -> Iterator[tuple[Sequence[str], list[Call]]]:
    """The hints of every two mistakes, and what the solution with both comes to."""
    for mistakes in itertools.combinations(exercise.mistakes, 2):
        source = exercise.with_mistakes(*mistakes)
        if source is not None:
            yield [mistake.hint for mistake in mistakes], exercise.calls_of(source)


def _mistaken(
    calls: Sequence[Call], right: Sequence[Call], hints: Sequence[str], theirs: Sequence[Call]
) -> Explanation:
    """The outputs that are as the mistakes make them."""
    outputs = set(range(len(right[0].outputs)))
    same = {output for output in outputs if _in_all(calls, theirs, output, _about_equal)}
    harmless = {output for output in outputs if _in_all(theirs, right, output, _equal)}
    return Explanation(same, hints, len(outputs - same - harmless))


def _related(
    exercise: Exercise, calls: Sequence[Call], hints: Sequence[str], theirs: Sequence[Call]
) -> Iterator[Explanation]:
    """The outputs that a change of sign, shape, size or order makes what these are."""
    for output, name in enumerate(exercise.names):
        for relation in RELATIONS:
            if text := _in_all(calls, theirs, output, relation):
                yield Explanation({output}, [*hints, f"{name} {text}."])
        for other, its_name in enumerate(exercise.names):
            if other != output and _in_all(calls, theirs, output, _about_equal, other):
                text = f"What you return as {name} is {its_name}: return "
                yield Explanation({output}, [*hints, f"{text}{', '.join(exercise.names)}."])


def _in_all(
    calls: Sequence[Call],
    others: Sequence[Call],
    output: int,
    relation: Callable[[np.ndarray, np.ndarray], Any],
    other_output: int | None = None,
) -> Any:
    """What the relation says of an output in the first case in which a person's function returned,
    if it says something in all of them."""
    place, said = output if other_output is None else other_output, []
    for c, other in zip(calls, others, strict=True):
        if c.error:
            continue
        if other.error or isinstance(given := c.outputs[output], str):
            return False
        said.append(relation(given, np.asarray(other.outputs[place])))
    return all(said) and said[:1] and said[0]


def _equal(given: np.ndarray, other: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether shapes and numbers are; one that is not finite is as good as another."""
    finite = np.isfinite(other)
    if given.shape != other.shape or not np.array_equal(np.isfinite(given), finite):
        return False
    size = np.max(np.abs(other), initial=0, where=finite)
    given, other = given[finite], other[finite]
    return np.allclose(given, other, rtol=tolerance, atol=tolerance * size)


def _about_equal(given: np.ndarray, other: np.ndarray) -> bool:
    """As far as the bits of what is given reach."""
    return _equal(given, other, OF_FEW_BITS.get(given.dtype.itemsize, TOLERANCE))


def _wrong_sign(given: np.ndarray, other: np.ndarray) -> str:
    return "has the wrong sign" if _about_equal(-given, other) else ""


def _transposed(given: np.ndarray, other: np.ndarray) -> str:
    return "is the transpose of what it should be" if _about_equal(given.T, other) else ""


def _reshaped(given: np.ndarray, other: np.ndarray) -> str:
    same = given.size == other.size and _about_equal(given.reshape(other.shape), other)
    return "has the right numbers in another shape" if same else ""


def _not_summed(given: np.ndarray, other: np.ndarray) -> str:
    for axis in range(given.ndim if given.ndim == other.ndim + 1 else 0):
        for name, contract in (("sum", np.sum), ("mean", np.mean)):
            if _about_equal(contract(given, axis), other):
                return f"lacks a {name} over its axis {axis}"
    return ""


def _multiple(given: np.ndarray, other: np.ndarray) -> str:
    """By a factor that may depend on the case; of one element alone, that would say nothing."""
    if given.shape != other.shape or other.size < 2 or not 0 < np.abs(given).max() < np.inf:
        return ""
    factor = np.sum(given * other) / np.sum(other * other)
    if not _about_equal(given, factor * other):
        return ""
    return f"is {factor:.4g} times what it should be: look for a factor too many or too few"


RELATIONS = (_wrong_sign, _transposed, _reshaped, _not_summed, _multiple)
"""What people do to a right result: each says so where it is what has been done, or nothing."""


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
