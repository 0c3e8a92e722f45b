"""The scan that writes where it reads, against a loop that keeps everything."""

import re

import jax
import jax.numpy as jnp
import pytest
from chex import assert_trees_all_equal
from helpers import assert_agree, normal

from jaxnn.kernels.scans import scan_in_place


def function(constants, carry, x, beside):
    """Something of all four, with a y that differs from x and carry."""
    weight, shift = constants["weight"], constants["shift"]
    factor, on = beside
    before, count = carry
    after = jnp.where(on, jnp.tanh(before @ weight + factor * x), before)
    return (after, count + 1), x * after + shift, (after, None, jnp.sum(x))


def plain(function, constants, carry, xs, beside, reverse=False):
    """Its plain twin."""
    found = [None] * len(xs)
    for step in reversed(range(len(xs))) if reverse else range(len(xs)):
        other = jax.tree.map(lambda a, step=step: a[step], beside)
        carry, *found[step] = function(constants, carry, xs[step], other)
    return carry, *jax.tree.map(lambda *steps: jnp.stack(steps), *map(tuple, found))


def given(time):
    constants = {"weight": normal(0, (2, 2)), "shift": normal(1, (2,))}
    beside = (normal(2, (time, 3, 1)), (jnp.arange(3 * time) % 2 == 0).reshape(time, 3, 1))
    return constants, (normal(3, (3, 2)), 0), normal(4, (time, 3, 2)), beside


def of_numbers(scan, reverse, others):
    """The scan as a function of what derivatives can be taken of, and their values."""
    constants, (carry, count), xs, (factor, on) = others

    def run(constants, carry, xs, factor):
        (carry, _), *arrays = scan(function, constants, (carry, count), xs, (factor, on), reverse)
        return carry, arrays

    return run, (constants, carry, xs, factor)


@pytest.mark.parametrize("time", [1, 4])
@pytest.mark.parametrize("reverse", [False, True])
def test_values_agree(time, reverse, x64):
    @jax.jit
    def both(others):
        return [scan(function, *others, reverse) for scan in (scan_in_place, plain)]

    assert_agree(*both(given(time)), 1e-14)


def test_without_jit_the_values_are_the_same(x64):
    others = given(3)
    compiled = jax.jit(lambda others: scan_in_place(function, *others))(others)
    assert_agree(scan_in_place(function, *others), compiled, 1e-14)


def test_what_is_given_stays_as_it_was():
    others = given(3)
    before = jax.tree.map(jnp.copy, others)
    jax.jit(lambda others: scan_in_place(function, *others))(others)
    assert_trees_all_equal(others, before)


@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_forward_and_back_agree(reverse, x64):
    def derivatives(scan, others, tangents):
        run, primals = of_numbers(scan, reverse, others)
        y, ahead = jax.jvp(run, primals, tangents)
        return ahead, jax.vjp(run, *primals)[1](y)

    @jax.jit
    def both(others, tangents):
        return [derivatives(scan, others, tangents) for scan in (scan_in_place, plain)]

    others = given(4)
    tangents = jax.tree.map(lambda a: normal(5, a.shape), of_numbers(plain, reverse, others)[1])
    assert_agree(*both(others, tangents), 1e-12)


def test_second_derivatives_agree(x64):
    def second(scan, others):
        run, primals = of_numbers(scan, False, others)

        def slope(*primals):
            y, back = jax.vjp(run, *primals)
            return back(y)

        return jax.jvp(slope, primals, primals)[1]

    @jax.jit
    def both(others):
        return [second(scan, others) for scan in (scan_in_place, plain)]

    assert_agree(*both(given(3)), 1e-12)


def test_it_can_be_mapped_over_one_argument(x64):
    constants, _, xs, beside = given(3)

    @jax.jit
    def both(many):
        return [
            jax.vmap(lambda h, scan=scan: scan(function, constants, (h, 0), xs, beside, True))(many)
            for scan in (scan_in_place, plain)
        ]

    assert_agree(*both(normal(6, (5, 3, 2))), 1e-14)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads what XLA compiles for CPU")
def test_its_loop_copies_nothing_as_large_as_xs():
    run = jax.jit(lambda others: scan_in_place(function, *others))
    text = run.lower(given(16)).compile().as_text()
    loop = re.search(r"body=%?([\w.\-]+)", text)[1]
    body = re.search(rf"\n%?{re.escape(loop)} \(.*?\n}}", text, re.DOTALL)[0]
    whole = [line for line in body.splitlines() if " = f32[16,3,2]" in line]
    assert any("dynamic-update-slice" in line for line in whole)
    assert not any(" copy(" in line for line in whole)
