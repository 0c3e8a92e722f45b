"""What is added to scores, where positions stand, and how features are turned by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, passes, started

import jaxnn as nn
from jaxnn.layers.attention.bias import along_diagonals, of_alibi, spread
from jaxnn.layers.attention.rotary import Turning, rotate
from jaxnn.statistics import per_example_squared_norms


def turned(x, start, features, interleaved, base):
    """Pair by pair, as complex numbers."""
    n = features // 2
    pairs = [(2 * i, 2 * i + 1) if interleaved else (i, i + n) for i in range(n)]
    angle = (start + np.arange(x.shape[1]))[:, None] / base ** (np.arange(n) / n)
    columns = list(jnp.moveaxis(x, -1, 0))
    for i, (a, b) in enumerate(pairs):
        z = (x[..., a] + 1j * x[..., b]) * np.exp(1j * angle[:, i])
        columns[a], columns[b] = z.real, z.imag
    return jnp.stack(columns, -1)


def reference(layer, params, queries, memory, bias):
    """Head by head, as the formulas have it."""
    heads, time, length = layer.heads, queries.shape[1], memory.shape[1]
    groups, offset = layer.groups or heads, memory.shape[1] - queries.shape[1]

    def project(name, x, count):
        y = x @ params[name]["weight"] + params[name]["bias"]
        return jnp.split(y, count, -1)

    q = project("query", queries, heads)
    k, v = (project(name, memory, groups) for name in ("key", "value"))
    distance = np.arange(length) - np.arange(time)[:, None] - offset
    outputs = []
    for head in range(heads):
        a, b = q[head], k[head // (heads // groups)]
        if layer.rotary:
            options = (layer.rotary_features or a.shape[-1], layer.interleaved, layer.rotary_base)
            a, b = turned(a, offset, *options), turned(b, 0, *options)
        scores = jnp.einsum("btd,bsd->bts", a, b) / jnp.sqrt(a.shape[-1])
        if layer.softcap:
            scores = layer.softcap * jnp.tanh(scores / layer.softcap)
        if bias is not None:
            scores += jnp.broadcast_to(bias, (len(bias), heads, time, length))[:, head]
        if layer.alibi:
            scores += -(2.0 ** (-8 * (head + 1) / heads)) * np.abs(distance)
        if layer.relative:
            row = np.clip(distance, -layer.relative, layer.relative) + layer.relative
            scores += params["relative"]["weight"][row, head]
        visible = distance <= 0 if layer.causal else distance < np.inf
        weights = jax.nn.softmax(jnp.where(visible, scores, -1e30)) * visible
        outputs.append(jnp.einsum("bts,bsd->btd", weights, v[head // (heads // groups)]))
    y = jnp.concatenate(outputs, -1)
    return y @ params["output"]["weight"] + params["output"]["bias"]


# Options of the layer, the lengths of queries and memory (None: the queries themselves), and the
# shape of a bias behind the batch.
CASES = {
    "bias": ({}, 3, 5, (2, 3, 5)),
    "bias of keys, with softcap": ({"softcap": 0.7, "groups": 1}, 4, None, (1, 1, 4)),
    "bias of queries": ({"softcap": 2.0, "causal": True}, 5, None, (2, 5, 1)),
    "alibi with a past": ({"alibi": True, "causal": True}, 2, 5, None),
    "relative": ({"relative": 2, "groups": 1}, 5, None, None),
    "all of it": (
        {"relative": 1, "alibi": True, "softcap": 1.0, "causal": True, "rotary": True},
        3,
        7,
        (1, 3, 7),
    ),
    "more queries than keys": ({"causal": True, "relative": 3}, 6, 4, None),
    "part of the features turned": (
        {"rotary": True, "rotary_features": 2, "depth": 6, "rotary_base": 100.0},
        4,
        None,
        None,
    ),
    "neighbours turned": ({"rotary": True, "interleaved": True, "causal": True}, 2, 4, None),
}


@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_autodiff_of_the_formula_in_blocks_of_any_size(name, x64):
    options, time, memory, shape = CASES[name]
    layer, *in_blocks = (nn.attention(2, block=block, **options) for block in (None, 2, 3))
    x = [normal(0, (2, time, 8))]
    x += [] if memory is None else [normal(1, (2, memory, 3))]
    x += [] if shape is None else [normal(2, (2, *shape))]
    x = tuple(x) if len(x) > 1 else x[0]
    params, _ = started(layer, x)
    dy = normal(3, (2, time, 8))

    def formula(params, x):
        queries, *others = x if isinstance(x, tuple) else (x,)
        bias = others.pop() if shape else None
        return reference(layer, params, queries, others[0] if others else queries, bias)

    @jax.jit
    def both(params, x, dy):
        expected, vjp = jax.vjp(formula, params, x)
        by_params, by_x = vjp(dy)
        by_hand = [passes(one, params, (), x, dy) for one in (layer, *in_blocks)]
        return by_hand, (expected, by_x, by_params)

    by_hand, expected = both(params, x, dy)
    for found in by_hand:
        assert_agree(found, expected, 1e-10)


def test_the_layer_keeps_the_laws():
    x, memory, bias = normal(0, (2, 3, 4)), normal(1, (2, 5, 4)), normal(2, (2, 1, 3, 5))
    for block in (None, 2):
        layer = nn.attention(
            2, causal=True, alibi=True, relative=2, softcap=1.5, dropout=0.2, block=block
        )
        nn.check_layer(layer, (x, memory, jnp.array([5, 2]), bias)).require()


def test_the_sum_along_diagonals_is_the_transpose_of_spreading(x64):
    for time, memory in [(1, 1), (3, 5), (5, 3), (1, 4), (4, 1)]:
        table, a = normal(0, (2, time + memory - 1)), normal(1, (2, time, memory))
        spread_out = spread(table, time, memory)
        for t, s in np.ndindex(time, memory):
            np.testing.assert_array_equal(spread_out[:, t, s], table[:, s - t + time - 1])
        np.testing.assert_allclose(
            jnp.vdot(spread_out, a), jnp.vdot(table, along_diagonals(a)), rtol=1e-12
        )


def test_the_slopes_of_alibi_are_those_of_its_authors():
    one = jnp.array([-1])
    np.testing.assert_allclose(-of_alibi(8, one)[:, 0], 0.5 ** np.arange(1, 9), rtol=1e-6)
    expected = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    np.testing.assert_allclose(-of_alibi(6, one)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_turning_back_gives_what_there_was(interleaved, x64):
    x, turning = normal(0, (2, 5, 8)), Turning(4, interleaved)
    there = rotate(x, 1, turning, 3)
    assert_agree(rotate(there, -1, turning, 3), x, 1e-12)
    np.testing.assert_array_equal(there[..., 4:], x[..., 4:])
    assert np.abs(there[..., :4] - x[..., :4]).max() > 0.1


@pytest.mark.parametrize("block", [None, 2])
def test_a_bias_of_minus_infinity_hides_a_key(block):
    layer, x = nn.attention(2, block=block), normal(0, (1, 3, 4))
    params, _ = started(layer, x)
    seen = jnp.array([[True, False, True]])
    bias = jnp.where(seen, 0, -jnp.inf)[:, None, None]
    y, (dx, _), gradients = passes(layer, params, (), (x, seen))
    found, (by_x, by_bias), others = passes(layer, params, (), (x, bias))
    assert_agree((found, by_x, others), (y, dx, gradients), 1e-6)
    assert np.isfinite(by_bias).all()


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16], ids=lambda half: half.__name__)
def test_both_forms_sum_half_precision_in_float32(half):
    options = {"relative": 3, "alibi": True, "softcap": 4.0, "causal": True}
    layer, x = nn.attention(2, **options), normal(0, (2, 64, 8), half)
    bias = normal(1, (2, 2, 1, 64), half)
    params, _ = started(nn.attention(2, **options), (x, bias))
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (params, (x, bias)))
    expected = passes(layer, wide[0], (), wide[1])
    for block in (None, 16):
        found = passes(nn.attention(2, block=block, **options), params, (), (x, bias))
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(half)}
        as_wide = jax.tree.map(lambda a: a.astype(jnp.float32), found)
        assert_agree(as_wide, expected, 4 * float(jnp.finfo(half).eps))


def test_the_past_in_memory_is_the_end_of_the_whole(x64):
    layer = nn.attention(2, causal=True, rotary=True, alibi=True, relative=2)
    x = normal(0, (2, 6, 4))
    params, _ = started(layer, x)
    whole = jax.jit(layer.predict)(params, (), x)
    last = jax.jit(layer.predict)(params, (), (x[:, 4:], x))
    assert_agree(last, whole[:, 4:], 1e-12)


def test_the_distance_table_takes_no_array_of_time_and_memory():
    x = jax.ShapeDtypeStruct((1, 1024, 64), jnp.float32)

    def memory_of(layer):
        params = jax.eval_shape(layer.init, jax.random.key(0), x)[0]
        program = jax.jit(lambda p, x, dy: passes.__wrapped__(layer, p, (), x, dy)[1:])
        return program.lower(params, x, x).compile().memory_analysis().temp_size_in_bytes

    options = {"alibi": True, "relative": 8, "softcap": 5.0}
    in_blocks = memory_of(nn.attention(4, block=128, **options))
    assert in_blocks <= 0.2 * memory_of(nn.attention(4, **options))


def test_statistics_of_single_examples_take_the_capture_of_relative_positions(x64):
    network = nn.serial(nn.attention(2, relative=1), nn.dense(1))
    loss = nn.half_squared_error()
    x, target = normal(0, (3, 4, 4)), normal(1, (3, 4, 1))
    params, state = started(network, x)

    def squared_norm(x, target):
        gradient = nn.autodiff(network, loss)(params, state, x[None], target[None])[1]
        return sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))

    norms = jax.jit(per_example_squared_norms(network, loss))(params, state, x, target)
    assert_agree(norms, jax.jit(jax.vmap(squared_norm))(x, target), 1e-10)
