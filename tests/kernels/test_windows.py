"""What a compiler makes one loop of, against the same written window by window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal

from jaxnn.kernels import windows as windows_module
from jaxnn.kernels.windows import Windows, collect, first_maximum, maximum, total
from jaxnn.layers.windows import output_sizes, resolve_padding


def windows(size, window, strides, padding, dilation):
    pairs = resolve_padding(padding, size, window, strides, dilation)
    output = output_sizes("windows", size, window, strides, pairs, dilation)
    return Windows(size, output, window, strides, pairs, dilation)


GEOMETRIES = {
    "side by side": windows((4, 6), (2, 2), (2, 2), "VALID", (1, 1)),
    "overlapping": windows((5, 4), (3, 2), (1, 1), "SAME", (1, 1)),
    "with gaps": windows((7,), (2,), (3,), ((1, 0),), (1,)),
    "dilated": windows((6, 5), (2, 3), (2, 1), ((1, 1), (2, 0)), (3, 2)),
    "of three dimensions": windows(
        (3, 4, 2), (2, 2, 2), (1, 2, 1), ((1, 0), (0, 1), (1, 1)), (1,) * 3
    ),
}


def places(w):
    """Plainly: for each window, for each of its elements, row-major, its position on the input or
    None on padding."""
    for output in np.ndindex(*w.output_size):
        of_window = []
        for element in np.ndindex(*w.window):
            facts = zip(output, w.strides, element, w.dilation, w.padding, strict=True)
            at = tuple(o * s + e * d - low for o, s, e, d, (low, _) in facts)
            inside = all(0 <= p < n for p, n in zip(at, w.size, strict=True))
            of_window.append(at if inside else None)
        yield output, of_window


@pytest.mark.parametrize("name", GEOMETRIES)
def test_elements_are_what_each_window_meets(name):
    w = GEOMETRIES[name]
    x = np.asarray(normal(0, (2, *w.size, 3)))
    expected = np.full((np.prod(w.window), 2, *w.output_size, 3), -7, x.dtype)
    for output, of_window in places(w):
        for index, at in enumerate(of_window):
            if at is not None:
                expected[(index, slice(None), *output)] = x[(slice(None), *at)]
    np.testing.assert_array_equal(list(w.elements(jnp.asarray(x), -7)), expected)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_elements_on_the_input_are_those_not_on_padding(name):
    w = GEOMETRIES[name]
    expected = np.zeros((np.prod(w.window), *w.output_size, 1), bool)
    for output, of_window in places(w):
        expected[(slice(None), *output, 0)] = [at is not None for at in of_window]
    for index, inside in enumerate(expected):
        np.testing.assert_array_equal(np.broadcast_to(w.on_input(index), inside.shape), inside)
    np.testing.assert_array_equal(w.counts(jnp.float32), expected.sum(0))
    assert w.some_hold_padding_only() == (not expected.any(0).all())


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("won", [False, True])
def test_collecting_adds_dy_of_every_window_to_its_elements_or_its_winner(name, won):
    w = GEOMETRIES[name]
    dy = np.asarray(normal(0, (2, *w.output_size, 3)))
    winner = np.random.default_rng(1).integers(np.prod(w.window), size=dy.shape).astype(np.uint8)
    expected = np.zeros((2, *w.size, 3), dy.dtype)
    for output, of_window in places(w):
        for index, at in enumerate(of_window):
            if at is not None:
                here = (slice(None), *output)
                share = np.where(winner[here] == index, dy[here], 0) if won else dy[here]
                expected[(slice(None), *at)] += share
    dx = jax.jit(collect, static_argnums=0)(w, dy, winner if won else None)
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-6)


def test_collecting_adds_half_precision_numbers_in_float32():
    w = windows((1,), (260,), (1,), ((259, 259),), (1,))
    dx = jax.jit(collect, static_argnums=0)(w, jnp.ones((1, 260, 1), jnp.bfloat16))
    assert dx.dtype == jnp.bfloat16
    assert dx.item() == 260  # one by one a sum in bfloat16 stops at 256


@pytest.mark.parametrize("values", [(0, 3, 1, 3), (np.nan, 1, np.nan, 2), (-np.inf,) * 4])
def test_the_first_maximum_is_that_of_argmax(values):
    positions = np.stack([np.roll(values, shift) for shift in range(4)])[:, :, None]
    positions = positions.astype(np.float32)
    maximum, index = jax.jit(first_maximum)(positions)
    np.testing.assert_array_equal(index, np.argmax(positions, 1))
    np.testing.assert_array_equal(maximum, np.max(positions, 1))


def test_the_derivative_of_the_first_maximum_is_that_of_its_element():
    positions = jnp.asarray([[0.0], [3], [3], [1]])[None]
    slope = jax.grad(lambda x: first_maximum(x)[0].sum())(positions)
    np.testing.assert_array_equal(np.ravel(slope), [0, 1, 0, 0])


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("long", [False, True])
def test_windows_one_axis_after_the_other_are_those_written_out(name, ties, long, monkeypatch, x64):
    w = GEOMETRIES[name]
    x = normal(0, (2, *w.size, 3))
    if ties:
        choice = np.random.default_rng(1).choice
        x = jnp.asarray(choice([np.nan, -np.inf, np.inf, 0, 1], x.shape))
    dy, numbers = normal(2, (2, *w.output_size, 3)), normal(0, x.shape)

    def everything():
        def run(x, dy):
            y, winner = maximum(w, x)
            slope = jax.vjp(lambda x: maximum(w, x)[0], x)[1](dy)[0]
            return y, winner, slope, collect(w, dy, winner), collect(w, dy), total(w, numbers)

        return jax.jit(run)(x, dy)

    expected = everything()
    monkeypatch.setattr(windows_module, "MOST_WRITTEN_OUT", 0)
    if long:
        monkeypatch.setattr(windows_module, "LONG_WINDOW", 0)
    found = everything()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[2], found[3], rtol=1e-12, atol=1e-12)


def test_a_long_window_is_compared_as_often_as_it_can_be_halved():
    w = windows((1200,), (1000,), (1,), "SAME", (1,))
    program = str(jax.make_jaxpr(lambda x: maximum(w, x))(jnp.ones((1, 1200, 1))))
    assert "reduce_window" not in program
    y, winner = maximum(w, jnp.zeros((1, 1200, 1)).at[0, 700].set(1))
    assert y.sum() == 1000
    assert winner[0, 300, 0] == 700 - 300 + 499
