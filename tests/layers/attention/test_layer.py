import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_equal
from helpers import HALVES_AND_FLOATS, assert_agree, normal, passes, started
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.layers.attention import attention_maps, blocks, plain
from jaxnn.layers.attention.rotary import rotate
from jaxnn.statistics import per_example_squared_norms


def reference(params, queries, memory, visible, heads, groups, rotary=False):
    """Head by head, as the formula has it; ``visible`` is [batch, heads, time, memory]."""

    def project(name, x):
        return x @ params[name]["weight"] + params[name]["bias"]

    def turn(x):
        n = x.shape[-1] // 2
        angle = jnp.arange(x.shape[1])[:, None] / 10000.0 ** (jnp.arange(n) / n)
        z = (x[..., :n] + 1j * x[..., n:]) * jnp.exp(1j * angle)
        return jnp.concatenate([z.real, z.imag], -1)

    q = jnp.split(project("query", queries), heads, -1)
    k, v = (jnp.split(project(name, memory), groups, -1) for name in ("key", "value"))
    outputs = []
    for head in range(heads):
        group = head // (heads // groups)
        a, b = (turn(q[head]), turn(k[group])) if rotary else (q[head], k[group])
        scores = jnp.einsum("btd,bsd->bts", a, b) / jnp.sqrt(a.shape[-1])
        # A finite stand-in for −∞: rows without any key are cleared behind it.
        weights = jax.nn.softmax(jnp.where(visible[:, head], scores, -1e30))
        weights = jnp.where(visible[:, head], weights, 0)
        outputs.append(jnp.einsum("bts,bsd->btd", weights, v[group]))
    return project("output", jnp.concatenate(outputs, -1))


@given(
    heads_and_groups=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    sizes=st.sampled_from([(1, 1), (5, 3), (4, 6)]),
    batch=st.integers(1, 3),
    masking=st.sampled_from(["none", "lengths", "keys", "queries", "heads"]),
    block=st.sampled_from([None, 1, 2, 16]),
    seed=st.integers(0, 100),
)
def test_cross_attention_agrees_with_autodiff_of_the_formula(
    heads_and_groups, sizes, batch, masking, block, seed
):
    (heads, groups), (time, memory) = heads_and_groups, sizes
    random = np.random.default_rng(seed)
    mask, visible = {
        "none": (None, np.ones((batch, 1, 1, memory), bool)),
        "lengths": (lengths := random.integers(0, memory + 1, batch).astype(np.int32), None),
        "keys": (keys := random.random((batch, memory)) > 0.4, keys[:, None, None]),
        "queries": (rows := random.random((batch, time, memory)) > 0.4, rows[:, None]),
        "heads": ((every := random.random((batch, heads, time, memory)) > 0.4), every),
    }[masking]
    if visible is None:
        visible = (np.arange(memory) < lengths[:, None])[:, None, None]
    visible = np.broadcast_to(visible, (batch, heads, time, memory))
    with jax.enable_x64(True):
        layer = nn.attention(heads, groups=groups, depth=2, block=block)
        q, m = normal(seed, (batch, time, 4)), normal(seed + 1, (batch, memory, 3))
        x = (q, m) if mask is None else (q, m, jnp.asarray(mask))
        params, _ = started(layer, x)
        dy = normal(seed + 2, q.shape)

        @jax.jit
        def both(params, x, dy):
            expected, vjp = jax.vjp(
                lambda p, q, m: reference(p, q, m, visible, heads, groups), params, *x[:2]
            )
            return passes(layer, params, (), x, dy), (expected, *vjp(dy))

        (y, dx, gradients), expected = both(params, x, dy)
        assert_agree((y, gradients, *dx[:2]), expected, 1e-10)
        assert dx[2:] == (() if mask is None else (None,))


@given(
    time=st.sampled_from([1, 4, 5]),
    block=st.sampled_from([None, 2]),
    causal=st.booleans(),
    rotary=st.booleans(),
    seed=st.integers(0, 100),
)
def test_self_attention_agrees_with_autodiff_of_the_formula(time, block, causal, rotary, seed):
    with jax.enable_x64(True):
        layer = nn.attention(2, groups=1, causal=causal, rotary=rotary, block=block)
        x, dy = normal(seed, (2, time, 8)), normal(seed + 1, (2, time, 8))
        params, _ = started(layer, x)
        past = np.tril(np.ones((time, time), bool)) if causal else np.ones((time, time), bool)
        visible = np.broadcast_to(past, (2, 2, time, time))

        @jax.jit
        def both(params, x, dy):
            expected, vjp = jax.vjp(
                lambda x, p: reference(p, x, x, visible, 2, 1, rotary), x, params
            )
            return passes(layer, params, (), x, dy), (expected, *vjp(dy))

        assert_agree(*both(params, x, dy), 1e-10)


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("crosses", [False, True])
def test_the_layer_keeps_the_laws_with_dropout_and_a_mask(block, crosses):
    x, memory = normal(0, (2, 5, 4)), normal(1, (2, 4, 3))
    if crosses:
        layer = nn.attention(2, groups=1, dropout=0.3, block=block)
        nn.check_layer(layer, (x, memory, np.array([2, 0], np.int32))).require()
    else:
        layer = nn.attention(2, causal=True, rotary=True, dropout=0.3, block=block, use_bias=False)
        nn.check_layer(layer, (x, np.arange(10).reshape(2, 5) % 3 > 0)).require()


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_projections_and_heads_agree_with_pytorch(causal, block, x64):
    torch = pytest.importorskip("torch", reason="PyTorch is an independent reference")
    heads, groups, depth = 4, 2, 3
    x = normal(0, (2, 9, 6))
    mask = np.random.default_rng(1).random((2, heads, 9, 9)) > 0.3
    mask[..., 0] = True  # PyTorch gives NaN where nothing is visible
    layer = nn.attention(heads, groups=groups, depth=depth, causal=causal, block=block)
    params, _ = started(layer, (x, mask))
    names = ("query", "key", "value")
    inputs = torch.tensor(np.asarray(x), requires_grad=True)
    weights = {
        n: {k: torch.tensor(np.asarray(a), requires_grad=True) for k, a in p.items()}
        for n, p in params.items()
    }

    def project(name, a, count):
        y = a @ weights[name]["weight"] + weights[name]["bias"]
        return y.reshape(2, 9, count, depth).transpose(1, 2)

    q, k, v = (project(n, inputs, c) for n, c in zip(names, (heads, groups, groups), strict=True))
    seen = torch.tensor(mask & np.tril(np.ones((9, 9), bool)) if causal else mask)
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    o = o.transpose(1, 2).reshape(2, 9, -1)
    expected = o @ weights["output"]["weight"] + weights["output"]["bias"]
    dy = normal(2, (2, 9, 6))
    expected.backward(torch.tensor(np.asarray(dy)))
    y, (dx, _), gradients = passes(layer, params, (), (x, mask), dy)
    assert_agree(y, expected.detach().numpy(), 1e-12)
    assert_agree(dx, inputs.grad.numpy(), 1e-10)
    theirs = {n: {k: a.grad.numpy() for k, a in p.items()} for n, p in weights.items()}
    assert_agree(gradients, theirs, 1e-10)


def test_the_core_agrees_with_pytorch_in_float32():
    torch = pytest.importorskip("torch", reason="PyTorch is an independent reference")
    q, k, v = (normal(seed, (2, 3, 17, 8), jnp.float32) for seed in range(3))
    inputs = (torch.tensor(np.asarray(a)) for a in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=True).numpy()
    past = jnp.asarray(np.tril(np.ones((17, 17), bool)))[None, None, None]
    geometry = blocks.Geometry(17, 17, 4, 4, True)

    @jax.jit
    def both(q, k, v):
        whole, _ = plain.attend(q, k, v, past, 0.0, None)
        in_blocks, _ = blocks.attend(q, k, v, None, geometry, 0.0, None)
        return whole, in_blocks

    for y in both(q[:, :, None], k, v):
        assert_agree(np.asarray(y)[:, :, 0], expected, 1e-6)


def test_the_gradient_agrees_with_numerical_differentiation():
    with jax.enable_x64(True):
        layer = nn.attention(2, causal=True, rotary=True, block=2)
        x, target = normal(0, (2, 3, 4)), normal(1, (2, 3, 4))
        params, state = started(layer, x)
        nn.check_gradients(layer, nn.half_squared_error(), params, state, x, target).require()


@pytest.mark.parametrize("block", [None, 2])
def test_padding_contributes_nothing_forward_or_backward(block):
    layer = nn.attention(2, block=block)
    q, memory, lengths = normal(0, (2, 3, 4)), normal(1, (2, 5, 4)), jnp.array([2, 4])
    params, _ = started(layer, (q, memory, lengths))
    padding = (np.arange(5) >= np.asarray(lengths)[:, None])[..., None]
    outputs = passes(layer, params, (), (q, memory, lengths))
    assert not np.any(np.where(padding, outputs[1][1], 0))
    other = jnp.asarray(np.where(padding, np.float32(100), memory))
    assert_agree(passes(layer, params, (), (q, other, lengths)), outputs, 1e-6)


@pytest.mark.parametrize("block", [None, 2])
def test_a_query_that_sees_nothing_gives_the_bias_and_no_gradient(block):
    layer = nn.attention(2, block=block)
    x, nothing = normal(0, (2, 3, 4)), jnp.zeros((2, 3), bool)
    params, _ = started(layer, (x, nothing))
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, dx, gradients = both(layer, params, (), (x, nothing))
        np.testing.assert_array_equal(y, np.broadcast_to(params["output"]["bias"], y.shape))
        np.testing.assert_array_equal(dx[0], np.zeros_like(x))
        np.testing.assert_array_equal(gradients["query"]["weight"], np.zeros((4, 4)))


def test_scores_of_any_size_are_safe():
    x = jnp.asarray(np.asarray(normal(0, (1, 6, 4))) * 1e6)
    for block in (None, 2):
        layer = nn.attention(1, block=block)
        y, dx, _ = passes(layer, *started(layer, x), x)
        assert np.all(np.isfinite(y))
        assert np.all(np.isfinite(dx))


def test_the_past_does_not_depend_on_the_future():
    layer = nn.attention(2, causal=True, block=2)
    x = normal(0, (1, 5, 4))
    params, _ = started(layer, x)
    changed = jnp.asarray(np.where(np.arange(5)[:, None] < 3, x, np.float32(7)))
    y, other = (np.asarray(jax.jit(layer.predict)(params, (), a)) for a in (x, changed))
    np.testing.assert_array_equal(y[:, :3], other[:, :3])
    assert np.abs(y[:, 3:] - other[:, 3:]).min() > 1e-6


def test_rotary_attention_depends_on_distances_alone(x64):
    layer = nn.attention(1, rotary=True)
    x = normal(0, (1, 3, 4))
    # In front stand three positions that the mask hides: all others move on by three.
    later = jnp.asarray(np.concatenate([np.zeros((1, 3, 4)), x], 1))
    params, _ = started(layer, x)
    predict = jax.jit(layer.predict)
    moved = predict(params, (), (later, jnp.asarray(np.arange(6)[None] >= 3)))
    assert_agree(np.asarray(moved)[:, 3:], predict(params, (), x), 1e-12)


@pytest.mark.parametrize("block", [None, 8])
def test_dropout_keeps_the_mean_and_inference_leaves_it_out(block):
    layer = nn.attention(1, dropout=0.5, block=block)
    x = normal(0, (4, 32, 2))
    params, _ = started(layer, x)
    forward = jax.vmap(lambda key: layer.forward(params, (), x, key)[0])
    noisy = np.asarray(jax.jit(lambda key: forward(jax.random.split(key, 400)))(jax.random.key(0)))
    y = jax.jit(layer.predict)(params, (), x)
    assert np.abs(noisy - y).max() > 0.1
    np.testing.assert_allclose(noisy.mean(0), y, atol=5 * float(noisy.std(0).max()) / 20)
    assert_agree(jax.jit(nn.in_inference_mode(layer).forward)(params, (), x, None)[0], y, 1e-6)


def test_the_block_form_needs_a_fraction_of_the_memory():
    x = jax.ShapeDtypeStruct((1, 1024, 64), jnp.float32)

    def by_autodiff(params, x, dy):
        layer = nn.attention(4)
        return jax.vjp(lambda p, x: layer.predict(p, (), x), params, x)[1](dy)

    params = jax.eval_shape(nn.attention(4).init, jax.random.key(0), x)[0]
    in_blocks = nn.attention(4, block=128)
    programs = (lambda p, x, dy: passes(in_blocks, p, (), x, dy)[1:], by_autodiff)
    blocks, plain = (
        jax.jit(p).lower(params, x, x).compile().memory_analysis().temp_size_in_bytes
        for p in programs
    )
    assert blocks <= 0.2 * plain


def test_statistics_of_single_examples_take_its_captures():
    with jax.enable_x64(True):
        network = nn.serial(nn.attention(2, groups=1), nn.dense(1))
        loss = nn.half_squared_error()
        x, target = normal(0, (3, 4, 4)), normal(1, (3, 4, 1))
        params, state = started(network, x)

        def squared_norm(x, target):
            gradient = nn.autodiff(network, loss)(params, state, x[None], target[None])[1]
            return sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))

        norms = jax.jit(per_example_squared_norms(network, loss))(params, state, x, target)
        assert_agree(norms, jax.jit(jax.vmap(squared_norm))(x, target), 1e-10)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
@pytest.mark.parametrize("block", [None, 2])
def test_the_dtype_of_the_input_is_that_of_everything(dtype, block, x64):
    layer = nn.attention(2, rotary=True, causal=True, block=block)
    x = normal(0, (1, 3, 4), dtype)

    @jax.jit
    def run(x):
        params, _ = layer.init(jax.random.key(0), x)
        y, _, residuals = layer.forward(params, (), x, None)
        dx, captures = layer.backward(params, residuals, y)
        return params, y, dx, nn.contract(captures)

    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(run, x))} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("block", [None, 2])
def test_it_takes_an_empty_batch(block):
    layer = nn.attention(2, block=block)
    params, _ = started(layer, jnp.ones((1, 3, 4)))
    y, dx, gradients = passes(layer, params, (), jnp.ones((0, 3, 4)))
    assert dx.shape == y.shape == (0, 3, 4)
    assert not np.any(gradients["query"]["weight"])


PLAIN = nn.attention(2)
X, MEMORY = jnp.ones((2, 3, 4)), jnp.ones((2, 5, 4))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (jnp.ones((2, 0, 4)), ValueError, "queries to be .* at least one position, got shape"),
        ((X, jnp.ones((2, 0, 4))), ValueError, "memory to be .* at least one position"),
        (jnp.ones((2, 4)), ValueError, "queries to have at least 3 axes"),
        (jnp.ones((2, 3, 4), int), TypeError, "queries to be floating-point"),
        (jnp.ones((2, 3, 5)), ValueError, "the last axis of x to be 4, got 5"),
        ((X, jnp.ones((1, 5, 4))), ValueError, "queries and memory of one batch size"),
        ((X, jnp.ones((2, 4), bool)), ValueError, r"mask to be .*\(2, 3\).*got \(2, 4\)"),
        ((X, jnp.array([1, 2, 3])), ValueError, r"lengths to have shape \(2,\)"),
        ((X, jnp.array([1, 4])), ValueError, "lengths to lie in 0 … 3, .* got 1 … 4"),
        ((X, MEMORY, jnp.array([-1, 4])), ValueError, "lengths to lie in 0 … 5, .* got -1 … 4"),
        ((X, MEMORY, MEMORY), TypeError, "mask to be booleans or integer lengths, got float32"),
        ((X, jnp.array([1, 2]), X), TypeError, "x to be queries or a tuple"),
        ((X, jnp.ones((2, 3, 3, 3))), ValueError, r"bias to have shape \(2, 2, 3, 3\), or 1 in"),
        ((X, jnp.ones((1, 2, 3, 3))), ValueError, r"bias to have shape \(2, 2, 3, 3\), or 1 in"),
        ((X, jnp.ones((2, 1, 1, 3), jnp.float16)), TypeError, "bias to be float32 as queries are"),
        ((X, [1, 2]), TypeError, "every member of x to be an array, got list"),
        ((), TypeError, "x to be queries or a tuple"),
    ],
)
def test_an_unfit_input_is_refused(x, error, message):
    params, _ = started(PLAIN, X)
    with pytest.raises(error, match=f"attention: expected {message}"):
        PLAIN.predict(params, (), x)


def test_inside_jit_lengths_out_of_range_count_as_none_and_all():
    params, _ = started(PLAIN, X)
    x, predict = normal(0, (2, 3, 4)), jax.jit(PLAIN.predict)
    y = predict(params, (), (x, jnp.array([-2, 9])))
    assert_agree(y, predict(params, (), (x, jnp.array([0, 3]))), 1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.attention(0), ValueError, "heads to be at least 1"),
        (lambda: nn.attention(4, groups=3), ValueError, "groups to divide the 4 heads, got 3"),
        (lambda: nn.attention(2, block=0), ValueError, "block to be at least 1"),
        (lambda: nn.attention(2, dropout=1.0), ValueError, "dropout to lie in"),
        (lambda: nn.attention(2, causal=1), TypeError, "causal to be True or False"),
        (lambda: nn.attention(3).init(jax.random.key(0), X), ValueError, "heads to divide the 4"),
        (
            lambda: nn.attention(4, rotary=True).init(jax.random.key(0), X),
            ValueError,
            "an even depth where rotary is set, got 1",
        ),
        (
            lambda: nn.attention(2, interleaved=True),
            ValueError,
            "rotary_features, interleaved and rotary_base where rotary is set",
        ),
        (
            lambda: nn.attention(1, rotary=True, rotary_features=6).init(jax.random.key(0), X),
            ValueError,
            "rotary_features to be at most the depth of a head, 4, got 6",
        ),
        (lambda: nn.attention(2, softcap=0.0), ValueError, "softcap to lie in"),
        (lambda: nn.attention(2, relative=0), ValueError, "relative to be at least 1"),
        (lambda: nn.attention(2).init(None, X), ValueError, "key to be a random key, got None"),
    ],
)
def test_wrong_arguments_are_refused(make, error, message, untyped):
    with pytest.raises(error, match=f"attention: expected {message}"):
        make()


VALUES = [
    nn.attention(2),
    nn.attention(4, groups=2, depth=6, causal=True, block=3),
    nn.attention(2, rotary=True, dropout=0.25, use_bias=False, weight_init="normal(0.1)"),
]


@pytest.mark.parametrize("layer", VALUES, ids=repr)
def test_a_layer_is_a_value(layer):
    again = eval(repr(layer), {"attention": nn.attention})
    for other in (again, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other == layer
        assert hash(other) == hash(layer)
    assert sum(other == layer for other in VALUES) == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.attention([2]), TypeError, "heads to be an integer"),
        (lambda: nn.attention(10**10), ValueError, "heads to be at most"),
        (lambda: nn.attention(2, depth=0), ValueError, "depth to be at least 1"),
        (lambda: nn.attention(2, groups=1.0), TypeError, "groups to be an integer"),
        (lambda: nn.attention(2, rotary="yes"), TypeError, "rotary to be True or False"),
        (lambda: nn.attention(2, use_bias=None), TypeError, "use_bias to be True or False"),
        (lambda: nn.attention(2, dropout="0.1"), TypeError, "dropout to be a Python number"),
        (lambda: nn.attention(2, dropout=np.nan), ValueError, "dropout to lie in"),
    ],
)
def test_wrong_fields_are_refused(make, error, message, untyped):
    with pytest.raises(error, match=f"attention: expected {message}"):
        make()


def test_an_unknown_initialiser_is_refused():
    with pytest.raises(ValueError, match="attention: weight_init: unknown initializer 'glorott'"):
        nn.attention(2, weight_init="glorott")


def test_at_rest_it_is_the_layer_without_dropout():
    layer = nn.attention(2, dropout=0.3, block=2)
    assert layer.at_rest() == nn.attention(2, block=2)
    assert PLAIN.at_rest() is PLAIN
    assert PLAIN.summing() is PLAIN
    assert not PLAIN.mixes


@pytest.mark.parametrize(
    ("dy", "error", "message"),
    [
        (
            jnp.ones((1, 3, 4)),
            ValueError,
            r"dy to have the shape of y, \(2, 3, 4\), got \(1, 3, 4\)",
        ),
        (jnp.ones((2, 3, 4), jnp.float16), TypeError, "dy to be float32 as y is, got float16"),
        ((jnp.ones((2, 3, 4)), None), TypeError, "dy to be an array, got tuple"),
    ],
)
def test_a_cotangent_that_is_not_like_the_output_is_refused(dy, error, message, untyped):
    params, _ = started(PLAIN, X)
    _, _, residuals = PLAIN.forward(params, (), X, None)
    with pytest.raises(error, match=f"attention: expected {message}"):
        PLAIN.backward(params, residuals, dy)


@pytest.mark.parametrize("block", [None, 2])
def test_in_float16_products_are_summed_where_half_precision_would_overflow(block):
    # o · do is beyond the largest float16, 65504, while every gradient is a moderate number.
    q, k = normal(0, (1, 1, 1, 3, 4), jnp.float16), normal(1, (1, 1, 3, 4), jnp.float16)
    v, do = 300 + 20 * k, jnp.full(q.shape, 300, jnp.float16)

    @jax.jit
    def run(q, k, v, do):
        if block is None:
            return plain.attend_backward(plain.attend(q, k, v, None, 0.0, None)[1], 0.0, do)[:3]
        geometry = blocks.Geometry(3, 3, block, block, False)
        kept = blocks.attend(q, k, v, None, geometry, 0.0, None)[1]
        return blocks.attend_backward(kept, geometry, 0.0, do)[:3]

    half = run(q, k, v, do)
    wide = run(*(a.astype(jnp.float32) for a in (q, k, v, do)))
    assert all(np.isfinite(a).all() for a in half)
    assert_agree([a.astype(jnp.float32) for a in half], list(wide), 0.02)


@pytest.mark.parametrize("block", [None, 1])
def test_what_keys_and_values_give_back_is_added_in_float32(block):
    # Of the first position of the memory the two are 8e4 and −1e5, of which float16 knows no sum.
    layer = nn.attention(1, depth=1, block=block, use_bias=False)
    weights = {"query": 1.0, "key": 3.2, "value": 480.0, "output": 1000.0}
    params = {n: {"weight": jnp.full((1, 1), w, jnp.float16)} for n, w in weights.items()}
    x = (jnp.ones((1, 1, 1), jnp.float16), jnp.array([[[-0.25], [0.25]]], jnp.float16))
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x))
    half, expected = (passes(layer, p, (), x)[1][1][0, 0] for p, x in ((params, x), wide))
    np.testing.assert_allclose(half, expected, rtol=0.01)
    assert -4e4 < expected < -1e4


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16], ids=lambda half: half.__name__)
def test_turning_rounds_to_half_precision_once(half):
    x = normal(0, (2, 50, 6), half)
    assert_trees_all_equal(rotate(x), rotate(x.astype(jnp.float32)).astype(half))


def test_attention_maps_finds_the_weights_of_every_layer_in_order():
    block = nn.skip(nn.attention(2, groups=1, dropout=0.5))
    network = nn.serial(
        nn.attention(2, causal=True), nn.repeat(block, 3), nn.attention(2, block=2), nn.dense(1)
    )
    x = normal(0, (2, 4, 4))
    params, state = started(network, x)
    _, _, residuals = jax.jit(network.forward)(params, state, x, jax.random.key(0))
    first, stacked = attention_maps(residuals)
    assert first.shape == (2, 2, 4, 4)
    assert stacked.shape == (3, 2, 2, 4, 4)
    for weights in (first, stacked):
        np.testing.assert_allclose(weights.sum(-1), np.ones(weights.shape[:-1]), rtol=1e-5)
    assert not np.triu(np.asarray(first), 1).any()
