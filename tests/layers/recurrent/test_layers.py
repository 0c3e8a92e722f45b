"""Recurrent layers against textbook loops differentiated by JAX, and the options they share."""

import copy
import pickle
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_equal
from helpers import PUBLIC, assert_agree, differences, normal, passes, started
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify

import jaxnn as nn
from jaxnn.core.captures import ContractedCapture, LinearCapture
from jaxnn.rewrites.precision import POLICIES, with_precision
from jaxnn.statistics import kfac_factors, per_example_gradients, per_example_squared_norms

LAYERS = {"rnn": nn.rnn, "gru": nn.gru, "lstm": nn.lstm}


def textbook(kind, params, state, x):
    """One time of a cell as PyTorch's documentation has it."""
    features = state[0].shape[-1]
    of_x = x @ params["input"]["weight"] + params["input"]["bias"]
    of_h = state[0] @ params["recurrent"]["weight"] + params["recurrent"].get("bias", 0)
    if kind == "rnn":
        return (jnp.tanh(of_x + of_h),)
    sigma = jax.nn.sigmoid
    if kind == "gru":
        xr, xz, xn = jnp.split(of_x, 3, -1)
        hr, hz, hn = jnp.split(of_h, 3, -1)
        z = sigma(xz + hz)
        n = jnp.tanh(xn + sigma(xr + hr) * hn)
        return ((1 - z) * n + z * state[0],)
    i, f, g, o = (
        (of_x + of_h)[:, start : start + features] for start in range(0, 4 * features, features)
    )
    c = sigma(f) * state[1] + sigma(i) * jnp.tanh(g)
    return sigma(o) * jnp.tanh(c), c


def loop(kind, params, x, lengths, state, *, reverse=False, truncate=None):
    """(every h, the last state), by a loop over the times."""
    time = x.shape[1]
    outputs = [None] * time
    for step, t in enumerate(reversed(range(time)) if reverse else range(time)):
        if truncate and step and step % truncate == 0:
            state = jax.lax.stop_gradient(state)
        on = (t < lengths)[:, None]
        new = textbook(kind, params, state, x[:, t])
        state = jax.tree.map(lambda a, b, on=on: jnp.where(on, a, b), new, state)
        outputs[t] = jnp.where(on, new[0], 0)
    return jnp.stack(outputs, 1), state


def states_of(kind, batch, features, dtype=float):
    h, c = normal(7, (batch, features), dtype), normal(8, (batch, features), dtype)
    return (h, c) if kind == "lstm" else (h,)


def compare(kind, batch, time, size, features, lengths, options, dtype=jnp.float64):
    """Outputs and all gradients of the layer beside those of the loop, from one program."""
    layer = LAYERS[kind](features, output="all", **options)
    x = normal(1, (batch, time, size), dtype)
    lengths = jnp.asarray(lengths, jnp.int32)
    state = states_of(kind, batch, features, dtype)
    params, _ = started(layer, x)
    dy, dlast = normal(2, (batch, time, features), dtype), states_of(kind, batch, features, dtype)
    taken = {k: v for k, v in options.items() if k != "chunk"}
    single = kind != "lstm"

    @jax.jit
    def both(params, x, state):
        given = (x, lengths, state[0] if single else state)
        (y, _, last), _, residuals = layer.forward(params, (), given, None)
        cotangent = (dy, None, dlast[0] if single else dlast)
        (dx, none, dstate), captures = layer.backward(params, residuals, cotangent)
        assert none is None
        _, contracted = layer.summing().backward(params, residuals, cotangent)
        by_hand = (y, (last,) if single else last, dx, (dstate,) if single else dstate)
        outputs, vjp = jax.vjp(
            lambda p, x, s: loop(kind, p, x, lengths, s, **taken), params, x, state
        )
        dparams, dx, dstate = vjp((dy, dlast))
        predicted = layer.predict(params, (), given)[0]
        by_hand += (nn.contract(captures), nn.contract(contracted), predicted)
        return by_hand, (*outputs, dx, dstate, dparams, dparams, outputs[0])

    return both(params, x, state)


@pytest.mark.parametrize("options", [{}, {"chunk": 2, "truncate": 3, "reverse": True}], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_and_gradients_agree_with_autodiff_of_a_plain_loop(kind, options, x64):
    by_hand, by_loop = compare(kind, 3, 5, 2, 3, [5, 2, 0], options)
    assert_agree(by_hand, by_loop, 1e-10)


@pytest.mark.parametrize("kind", LAYERS)
def test_float32_agrees_to_its_precision(kind):
    by_hand, by_loop = compare(kind, 2, 4, 3, 2, [4, 3], {}, jnp.float32)
    assert_agree(by_hand, by_loop, 1e-5)


@pytest.mark.parametrize("options", [{"reverse": True}, {"truncate": 2}, {"chunk": 2}], ids=str)
def test_each_option_agrees_by_itself(options, x64):
    by_hand, by_loop = compare("lstm", 2, 4, 2, 2, [4, 2], options)
    assert_agree(by_hand, by_loop, 1e-10)


@settings(max_examples=6)
@given(
    kind=st.sampled_from(sorted(LAYERS)),
    batch=st.sampled_from([0, 1, 3]),
    time=st.integers(1, 4),
    size=st.sampled_from([1, 4]),
    features=st.sampled_from([1, 3]),
    chunk=st.sampled_from([None, 1, 3, 9]),
)
def test_any_shape_agrees(kind, batch, time, size, features, chunk):
    with jax.enable_x64(True):
        lengths = np.arange(batch) % (time + 1)
        by_hand, by_loop = compare(kind, batch, time, size, features, lengths, {"chunk": chunk})
        assert_agree(by_hand, by_loop, 1e-10)


@pytest.mark.parametrize("truncate", [None, 2])
def test_the_layer_keeps_the_laws(truncate):
    layer = nn.gru(2, output="last", truncate=truncate)
    nn.check_layer(layer, normal(0, (2, 3, 2))).require()


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16], ids=lambda half: half.__name__)
@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_have_the_dtype_of_the_parameters(chunk, half):
    layer, x = nn.gru(2, output="last", chunk=chunk), normal(0, (2, 3, 2), half)
    arguments = (*started(layer, x), x, jnp.zeros((2, 2), half))
    _, gradients = jax.eval_shape(nn.backprop(layer, nn.half_squared_error()), *arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype(half)}


@pytest.mark.parametrize("kind", LAYERS)
def test_without_jit_the_gradients_are_the_same(kind, x64):
    layer, x = LAYERS[kind](2), normal(0, (1, 2, 2))
    params, state = started(layer, x)
    by_jit = passes(layer, params, state, x)
    assert_agree(passes.__wrapped__(layer, params, state, x), by_jit, 1e-14)


def test_saturated_gates_have_finite_gradients(x64):
    layer = nn.lstm(2)
    x = jnp.array([[[1e3], [-1e3], [1e3]]])
    y, dx, _ = passes(layer, *started(layer, x), x)
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


def test_the_gradient_agrees_with_differences(x64):
    layer = nn.gru(2, output="last")
    x = normal(0, (1, 3, 2))
    params, state = started(layer, x)
    predict = jax.jit(lambda x: jnp.sum(layer.predict(params, state, x) ** 2))

    @jax.jit
    def slopes(x):
        y, _, kept = layer.forward(params, state, x, None)
        return layer.backward(params, kept, 2 * y)[0]

    assert_agree(slopes(x), differences(predict, x), 1e-8)


def test_what_stands_after_the_end_contributes_nothing():
    layer = nn.serial(nn.bidirectional(nn.lstm(2), nn.lstm(2, reverse=True)), nn.gru(3))
    x, lengths = np.array(normal(0, (2, 4, 2))), jnp.array([4, 2])
    params, state = started(layer, (x, lengths))
    dy = (np.ones((2, 4, 3), np.float32), None)
    clean = passes(layer, params, state, (x, lengths), dy)
    for bad in (np.nan, np.inf, 1e30):
        x[1, 2:] = bad
        assert_trees_all_equal(passes(layer, params, state, (x, lengths), dy), clean)
    (y, kept_lengths), (dx, _), _ = clean
    assert_trees_all_equal(kept_lengths, lengths)
    assert not np.asarray(y)[1, 2:].any()
    assert not np.asarray(dx)[1, 2:].any()


@pytest.mark.parametrize("kind", LAYERS)
def test_the_last_output_is_the_one_at_the_length(kind):
    x, lengths = normal(0, (3, 4, 2)), jnp.array([4, 1, 3])
    every, last = LAYERS[kind](3), LAYERS[kind](3, output="last")
    params, state = started(every, x)
    y, _ = jax.jit(every.predict)(params, state, (x, lengths))
    expected = np.asarray(y)[np.arange(3), np.asarray(lengths) - 1]
    assert_trees_all_equal(jax.jit(last.predict)(params, state, (x, lengths)), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_forward_equals_pytorch_with_the_same_weights(kind):
    torch = pytest.importorskip("torch")
    x = normal(0, (3, 6, 4))
    layer = LAYERS[kind](5)
    params, state = started(layer, x)
    reference = getattr(torch.nn, {"rnn": "RNN"}.get(kind, kind.upper()))(4, 5, batch_first=True)
    with torch.no_grad():
        for ours, theirs in (("input", "ih"), ("recurrent", "hh")):
            weight, bias = np.array(params[ours]["weight"]), params[ours].get("bias")
            getattr(reference, f"weight_{theirs}_l0").copy_(torch.tensor(weight.T))
            bias = torch.zeros(weight.shape[1]) if bias is None else torch.tensor(np.array(bias))
            getattr(reference, f"bias_{theirs}_l0").copy_(bias)
        expected, _ = reference(torch.tensor(np.array(x)))
    np.testing.assert_allclose(jax.jit(layer.predict)(params, state, x), expected, atol=1e-6)


def test_statistics_take_the_captures_as_those_of_a_linear_map(x64):
    layer = nn.gru(2)
    x = normal(0, (3, 4, 2))
    target = normal(1, (3, 4, 2))
    params, state = started(layer, x)
    loss = nn.half_squared_error()

    @jax.jit
    def run(params):
        arguments = (params, state, x, target)
        each = per_example_gradients(layer, loss)(*arguments)
        norms = per_example_squared_norms(layer, loss)(*arguments)
        factors = kfac_factors(layer, loss, samples=None)(*arguments)

        def of_one(x, target):
            return nn.autodiff(layer, loss)(params, state, x[None], target[None])[1]

        return each, jax.vmap(of_one)(x, target), norms, factors

    each, expected, norms, factors = run(params)
    assert_agree(each, expected, 1e-10)
    leaves = [np.asarray(leaf).reshape(3, -1) for leaf in jax.tree.leaves(expected)]
    by_hand = sum((leaf**2).sum(1) for leaf in leaves)
    np.testing.assert_allclose(norms, by_hand, rtol=1e-10)
    assert factors["input"]["inputs"].shape == (3, 3)
    assert factors["recurrent"]["deltas"].shape == (6, 6)


def test_chunks_refuse_statistics_by_name():
    layer = nn.rnn(2, chunk=2)
    x = normal(0, (1, 4, 2))
    params, state = started(layer, x)
    with pytest.raises(ValueError, match="rnn gives its gradient summed over the batch"):
        per_example_gradients(layer, nn.half_squared_error())(params, state, x, x)


def test_chunks_keep_less_memory():
    x = jax.ShapeDtypeStruct((8, 256, 4), jnp.float32)

    def temporary(chunk):
        layer = nn.lstm(16, output="last", chunk=chunk)
        params, state = jax.eval_shape(layer.init, jax.random.key(0), x)

        def run(params, x):
            y, _, kept = layer.forward(params, state, x, None)
            dx, captures = layer.backward(params, kept, jnp.ones_like(y))
            return dx, nn.contract(captures)

        return jax.jit(run).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) < temporary(None) / 4


@pytest.mark.parametrize("kind", LAYERS)
def test_captures_are_contracted_at_once_where_nothing_but_gradients_is_wanted(kind):
    layer, x = LAYERS[kind](2).summing(), normal(0, (1, 2, 2))
    params, state = started(layer, x)

    def backward(params):
        y, _, kept = layer.forward(params, state, x, None)
        return layer.backward(params, kept, y)[1]

    captures = jax.eval_shape(backward, params)
    assert all(isinstance(capture, ContractedCapture) for capture in captures.values())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads what XLA compiles for CPU")
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_what_is_overwritten_is_not_copied_at_every_time(kind):
    layer = LAYERS[kind](8)
    x = (normal(0, (4, 16, 3), jnp.float32), jnp.array([16, 3, 5, 0]))
    text = passes.lower(layer, *started(layer, x), x, (x[0] @ jnp.ones((3, 8)), None))
    text = text.compile().as_text()
    blocks = {"gru": 3, "lstm": 4}[kind]
    of_all_times = f"f32[16,4,{8 * blocks}]"
    loops = re.findall(r"body=%?([\w.\-]+)", text)
    bodies = [re.search(rf"\n%?{re.escape(loop)} \(.*?\n}}", text, re.DOTALL) for loop in loops]
    lines = [line for body in bodies for line in body[0].splitlines()]
    assert sum(of_all_times in line and "dynamic-update-slice" in line for line in lines) >= 2
    copies = [line for line in lines if of_all_times in line and re.search(r"\} copy\(", line)]
    assert not copies


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_contracted_at_once_are_summed_in_float32_and_not_rounded_to_half(kind):
    network = with_precision(LAYERS[kind](2, output="last"), POLICIES["bfloat16"])
    x, target = normal(0, (64, 2, 2), jnp.float32), normal(1, (64, 2), jnp.float32)
    params, state = started(network, x)
    loss = nn.half_squared_error()

    @jax.jit
    def gradients():
        captures = nn.backward_pass(network, loss)(params, state, x, target).captures
        mean = jax.tree.map(lambda g: g / 64, nn.contract(captures))
        return nn.backprop(network, loss)(params, state, x, target)[1], mean

    assert_agree(*gradients(), 1e-5)


def test_gradients_can_be_differentiated_forward_and_backward(x64):
    layer = nn.lstm(2, output="last")
    x, target = normal(0, (2, 3, 2)), normal(1, (2, 2))
    params, state = started(layer, x)
    along = jax.tree.map(lambda p: normal(3, p.shape), params)

    @jax.jit
    def second(params, along):
        def slope(of):
            def gradient(params):
                return of(layer, nn.half_squared_error())(params, state, x, target)[1]

            _, ahead = jax.jvp(gradient, (params,), (along,))
            _, back = jax.vjp(gradient, params)
            return ahead, *back(along)

        return slope(nn.backprop), slope(nn.autodiff)

    assert_agree(*second(params, along), 1e-10)


def test_the_deltas_alone_depend_on_the_cotangent():
    layer = nn.lstm(2)
    x = normal(0, (2, 3, 2))
    params, state = started(layer, x)
    kept = jax.jit(layer.forward)(params, state, x, None)[2]
    axes = {
        "input": LinearCapture(None, 0),
        "recurrent": LinearCapture(None, 0, use_bias=False),
    }
    backward = jax.vmap(lambda dy: layer.backward(params, kept, dy)[1], out_axes=axes)
    captures = jax.jit(backward)(normal(1, (4, 2, 3, 2)))
    for capture in captures.values():
        assert capture.inputs.shape == (2, 3, 2)
        assert capture.deltas.shape == (4, 2, 3, 8)


def test_two_directions_stand_side_by_side(x64):
    layer = nn.bidirectional(nn.lstm(2, output="all"), nn.lstm(3, output="all", reverse=True))
    x, lengths = normal(0, (2, 3, 2)), jnp.array([3, 1])
    params, state = started(layer, (x, lengths))
    y, kept, (h, c) = jax.jit(layer.predict)(params, state, (x, lengths))
    ahead, back = (
        np.asarray(jax.jit(one.predict)(params[0][i], (), (x, lengths))[0])
        for i, one in enumerate((nn.lstm(2), nn.lstm(3, reverse=True)))
    )
    np.testing.assert_allclose(y, np.concatenate([ahead, back], -1), rtol=1e-12)
    np.testing.assert_array_equal(kept, lengths)
    assert h.shape == c.shape == (2, 5)
    expected = np.concatenate([ahead[1, 0], back[1, 0]])
    np.testing.assert_allclose(np.asarray(h)[1], expected, rtol=1e-12)


def test_two_directions_must_return_the_same_form():
    layer = nn.bidirectional(nn.rnn(2), nn.rnn(2, output="last"))
    with pytest.raises(ValueError, match="bidirectional: expected both outputs to have one form"):
        layer.init(jax.random.key(0), normal(0, (1, 2, 2)))


def test_stacked_layers_train_with_lengths_against_autodiff(x64):
    network = nn.serial(
        nn.bidirectional(nn.lstm(2), nn.gru(1, reverse=True)),
        nn.on(0, nn.dropout(0.2)),
        nn.lstm(2, output="last"),
        nn.dense(2),
    )
    x = (normal(0, (3, 4, 2)), jnp.array([4, 1, 2]))
    params, state = started(network, x)
    labels, key = jnp.array([0, 1, 1]), jax.random.key(1)
    loss = nn.softmax_cross_entropy()
    against = {"autodiff": nn.autodiff(network, loss)}
    nn.check_gradients(network, loss, params, state, x, labels, key, against=against).require()


def test_initial_biases_remember():
    params, _ = nn.lstm(2).init(jax.random.key(0), normal(0, (1, 2, 3)))
    np.testing.assert_array_equal(params["input"]["bias"], [0, 0, 1, 1, 0, 0, 0, 0])
    blocks = np.split(params["recurrent"]["weight"], 4, -1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(2), atol=1e-6)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 3)), r"sequence to have shape \[batch, time, features\]"),
        (np.ones((2, 0, 3)), "with at least one time, got"),
        ((np.ones((2, 3, 1)), np.array([4, 1])), "lengths to lie in 0 … 3"),
        ((np.ones((2, 3, 1)), np.array([-1, 1])), "lengths to lie in 0 … 3"),
        ((np.ones((2, 3, 1)), np.array([3])), r"lengths to have shape \(2,\)"),
        ((np.ones((2, 3, 1)), None, np.ones((2, 5))), r"the state to be float32 of shape \(2, 4\)"),
    ],
)
def test_wrong_values_are_named(x, message, untyped):
    x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32 if a.dtype == float else jnp.int32), x)
    with pytest.raises(ValueError, match=f"rnn: expected .*{message}"):
        nn.rnn(4).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.ones((2, 3, 1), int), "the sequence to be floating-point"),
        ((jnp.ones((2, 3, 1)),), "got a tuple of 1"),
        ((jnp.ones((2, 3, 1)), jnp.ones(2)), "lengths to be integers"),
        ((jnp.ones((2, 3, 1)), None, jnp.ones((2, 4))), r"the state to be a tuple \(h, c\)"),
    ],
)
def test_wrong_types_are_named(x, message, untyped):
    with pytest.raises(TypeError, match=f"lstm: expected .*{message}"):
        nn.lstm(4).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "lst"}, "unknown output 'lst': did you mean 'last'"),
        ({"truncate": 0}, "truncate to be at least 1"),
        ({"chunk": -1}, "chunk to be at least 1"),
        ({"activation": "tan"}, "unknown activation 'tan': did you mean 'tanh'"),
    ],
)
def test_wrong_options_are_named(options, message, untyped):
    with pytest.raises(ValueError, match=f"rnn: .*{message}"):
        nn.rnn(4, **options)


def test_the_dtype_of_the_parameters_is_required():
    layer = nn.rnn(2)
    params, state = layer.init(jax.random.key(0), jnp.ones((1, 2, 3), jnp.bfloat16))
    y = layer.predict(params, state, jnp.ones((1, 2, 3), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="rnn: expected x to be bfloat16"):
        layer.predict(params, state, jnp.ones((1, 2, 3)))


def test_runtime_checks_of_lengths_can_be_switched_on():
    layer = nn.rnn(2, output="last")
    x = normal(0, (2, 3, 1))
    params, state = started(layer, x)
    predict = jax.jit(lambda lengths: layer.predict(params, state, (x, lengths)))
    outside, inside = jnp.array([-1, 4]), jnp.array([0, 3])
    np.testing.assert_array_equal(predict(outside), predict(inside))
    checked = checkify.checkify(predict, errors=checkify.user_checks)
    message = "lengths to lie in 0 … 3, the positions of the sequence, got [-1  4]"
    assert message in str(checked(outside)[0].get())
    assert checked(inside)[0].get() is None


VALUES = [
    nn.rnn(3, activation="relu", output="last"),
    nn.gru(4, reverse=True, truncate=5),
    nn.lstm(5, chunk=2, weight_init="normal(0.1)", forget_bias=0.5, output="all"),
    nn.lstm(5).summing(),
]


@pytest.mark.parametrize("layer", VALUES, ids=repr)
def test_a_layer_is_a_value(layer):
    again = eval(repr(layer), dict(PUBLIC))
    for other in (again, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other == layer
        assert hash(other) == hash(layer)
    assert sum(other == layer for other in VALUES) == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_an_equal_layer_is_not_traced_again(kind):
    count = [0]

    @partial(jax.jit, static_argnums=0)
    def predict(layer, params, x):
        count[0] += 1
        return layer.predict(params, (), x)

    x = normal(0, (1, 2, 2))
    params, _ = started(LAYERS[kind](2), x)
    predict(LAYERS[kind](2), params, x)
    predict(LAYERS[kind](2), params, x)
    assert count == [1]


def test_at_rest_a_layer_is_itself():
    layer = nn.lstm(2)
    assert layer.at_rest() is layer
    assert layer.plain() is layer
    assert not layer.mixes


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.rnn(0), ValueError, "rnn: expected features to be at least 1"),
        (lambda: nn.lstm(10**10), ValueError, "lstm: expected features to be at most"),
        (lambda: nn.gru(2.0), TypeError, "gru: expected features to be an integer"),
        (lambda: nn.gru([2]), TypeError, "gru: expected features to be an integer"),
        (lambda: nn.gru(2, chunk=2.5), TypeError, "gru: expected chunk to be an integer"),
        (lambda: nn.gru(2, reverse=1), TypeError, "gru: expected reverse to be True or False"),
        (lambda: nn.rnn(2, weight_init="gloro"), ValueError, "rnn: weight_init: .*'glorot'"),
        (lambda: nn.rnn(2, bias_init=3), TypeError, "rnn: bias_init: .* got 3"),
        (lambda: nn.lstm(2, forget_bias="1"), TypeError, "lstm: expected forget_bias to be a"),
        (lambda: nn.lstm(2, forget_bias=np.inf), ValueError, "lstm: expected forget_bias to lie"),
        (lambda: nn.lstm(2, "last"), TypeError, "positional"),
    ],
)
def test_wrong_fields_are_refused(make, error, message, untyped):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("output", "dy", "error", "message"),
    [
        ("sequence", np.ones((1, 3, 2)), ValueError, r"dy to have the shape of y, \(2, 3, 2\)"),
        ("last", np.ones(2), ValueError, r"dy to have the shape of y, \(2, 2\), got \(2,\)"),
        ("all", np.ones((2, 3, 2)), TypeError, "dy to have the structure of y, a tuple of 3"),
        ("all", (None, None, np.ones((2, 2))), TypeError, r"dy\[2\] to have the structure of y"),
    ],
)
def test_a_cotangent_that_is_not_like_the_output_is_refused(output, dy, error, message):
    layer, x = nn.lstm(2, output=output), normal(0, (2, 3, 1))
    params, state = started(layer, x)
    _, _, kept = layer.forward(params, state, x, None)
    dy = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), dy)
    with pytest.raises(error, match=f"lstm: expected {message}"):
        layer.backward(params, kept, dy)


@pytest.mark.parametrize("kind", LAYERS)
def test_members_without_a_cotangent_count_as_zero(kind):
    layer, x = LAYERS[kind](2, output="all"), (normal(0, (2, 3, 1)), jnp.array([3, 1]))
    params, state = started(layer, x)
    y = jax.eval_shape(layer.predict, params, state, x)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), y[2])
    dy = normal(1, y[0].shape)
    expected = passes(layer, params, state, x, (dy, None, zeros))
    assert_trees_all_equal(passes(layer, params, state, x, (dy, None, None)), expected)
    no_lengths = passes(layer, params, state, x[0], (jnp.zeros_like(dy), None, zeros))
    assert_trees_all_equal(passes(layer, params, state, x[0], (None, None, None)), no_lengths)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_summing_layer_gives_sums_in_float32_of_half_precision(chunk):
    layer, x = nn.gru(2, output="last", chunk=chunk), normal(0, (2, 3, 2), jnp.bfloat16)
    params, state = started(layer, x)

    def gradients(layer):
        y, _, kept = layer.forward(params, state, x, None)
        return nn.contract(layer.backward(params, kept, y)[1])

    found = [jax.eval_shape(lambda a=a: gradients(a)) for a in (layer, layer.summing())]
    dtypes = [{str(leaf.dtype) for leaf in jax.tree.leaves(tree)} for tree in found]
    assert dtypes == [{"bfloat16"}, {"float32"}]
