import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, masked, normal, passes, started
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn import statistics

X = normal(0, (3, 4), np.float32)
BLOCK = nn.serial(nn.dense(4), nn.tanh())
LAYERS = {
    "dense": (nn.dense(2), X),
    "serial": (BLOCK, X),
    "dropout": (nn.serial(nn.dense(3), nn.dropout(0.5)), X),
    "batch_norm": (nn.batch_norm(), X),
    "embedding": (nn.embedding(5, 2), jnp.asarray([[0, 4], [1, 1]])),
    "mask": (nn.serial(nn.on(0, nn.dense(4)), masked()), (X, jnp.asarray([[1, 0, 1, 1]] * 3))),
    "recompute": (nn.serial(nn.recompute(nn.tanh()), nn.dense(2)), X),
    "empty batch": (nn.dense(2), X[:0]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_recomputed_layers_keep_the_laws(name):
    layer, x = LAYERS[name]
    nn.check_layer(nn.recompute(layer), x).require()


@pytest.mark.parametrize("around", [lambda f: nn.repeat(f, 3), nn.share, nn.skip])
def test_recomputed_layers_keep_the_laws_inside_of_combinators(around):
    x = (X, 2 * X) if around is nn.share else X
    nn.check_layer(around(nn.recompute(BLOCK)), x).require()


@given(shape=st.sampled_from([(1, 4), (5, 2, 4)]), double=st.booleans())
def test_values_gradients_and_state_are_those_of_the_layer(shape, double):
    with jax.enable_x64(double):
        x = normal(0, shape)
        layer = nn.serial(nn.dense(3, use_bias=False), nn.batch_norm(), nn.relu(), nn.dropout(0.3))
        params, state = started(layer, x)
        key = jax.random.key(3)

        def run(layer, params, state):
            y, state, residuals = layer.forward(params, state, x, key)
            dx, captures = layer.backward(params, residuals, jnp.cos(y))
            return y, dx, nn.contract(captures), state

        @jax.jit
        def both(params, state):
            again = run(nn.recompute(layer), (params,), (state,))
            return run(layer, params, state), again

        expected, (y, dx, gradients, new_state) = both(params, state)
        tolerance = 1e-10 if double else 1e-5
        assert_agree((y, dx, gradients[0], new_state[0]), expected, tolerance)


def test_forward_is_run_again_with_the_params_that_it_was_run_with():
    layer = nn.recompute(BLOCK)
    params, state = started(layer, X)
    others, _ = started(layer, X, seed=7)

    @jax.jit
    def both(params, others):
        y, _, residuals = layer.forward(params, state, X, None)
        dx, captures = layer.backward(others, residuals, y)
        _, _, kept = BLOCK.forward(params[0], state[0], X, None)
        expected_dx, expected = BLOCK.backward(others[0], kept, y)
        return (dx, nn.contract(captures[0])), (expected_dx, nn.contract(expected))

    assert_agree(*both(params, others), 1e-6)


def test_no_delta_whatever_its_bits_changes_what_is_computed_again():
    params, state = started(BLOCK, X)
    _, _, kept = BLOCK.forward(params, state, X, None)
    layer = nn.recompute(BLOCK)
    residuals = layer.forward((params,), (state,), X, None)[2]
    for value in (np.nan, np.inf, -0.0, 1e-40, 3e38):
        dy = jnp.full((3, 4), value, jnp.float32)
        expected = BLOCK.backward(params, kept, dy)
        dx, captures = layer.backward((params,), residuals, dy)
        jax.tree.map(np.testing.assert_array_equal, (dx, captures[0]), expected)


NETWORK = nn.serial(
    nn.recompute(nn.serial(nn.dense(4), nn.tanh(), nn.dropout(0.5))),
    nn.repeat(nn.recompute(nn.skip(nn.dense(4), nn.tanh())), 2),
    nn.dense(3),
)
PLAIN = nn.serial(
    nn.serial(nn.serial(nn.dense(4), nn.tanh(), nn.dropout(0.5))),
    nn.repeat(nn.serial(nn.skip(nn.dense(4), nn.tanh())), 2),
    nn.dense(3),
)


@pytest.mark.parametrize(
    "quantity",
    [
        statistics.per_example_squared_norms,
        statistics.diagonal_ggn,
        statistics.gradient_variance,
        nn.backprop,
    ],
)
def test_statistics_are_those_of_the_network_without_recomputation(quantity, x64):
    x, labels = normal(0, (5, 4)), jnp.asarray(np.arange(5) % 3)
    loss = nn.softmax_cross_entropy()
    params, state = started(NETWORK, x)
    both = [quantity(nn.in_inference_mode(network), loss) for network in (NETWORK, PLAIN)]
    results = jax.jit(lambda *arguments: [f(*arguments) for f in both])(params, state, x, labels)
    assert_agree(*results, 1e-10)


def test_forward_mode_goes_through_the_backward_pass(x64):
    x, labels = normal(0, (5, 4)), jnp.asarray(np.arange(5) % 3)
    network, loss = nn.in_inference_mode(NETWORK), nn.softmax_cross_entropy()
    params, state = started(network, x)
    vector, _ = started(network, x, seed=5)

    def product(gradient):
        return jax.jvp(lambda p: gradient(p, state, x, labels)[1], (params,), (vector,))[1]

    expected = jax.jit(lambda: product(nn.autodiff(network, loss)))()
    assert_agree(jax.jit(lambda: product(nn.backprop(network, loss)))(), expected, 1e-10)


def test_walk_fuse_and_rules_of_feedback_look_inside():
    assert [path for path, _ in nn.walk(nn.recompute(BLOCK))] == ["0.0", "0.1"]
    images = normal(0, (2, 8, 8, 3), np.float32)
    block = nn.recompute(nn.serial(nn.conv(8, (3, 3)), nn.relu(), nn.max_pool(2)))
    fused = nn.fuse(block)
    assert next(layer.name for _, layer in nn.walk(fused)) == "conv_relu_max_pool"
    params, state = started(block, images)
    expected = jax.jit(block.predict)(params, state, images)
    assert_agree(passes(fused, params, state, images)[0], expected, 1e-5)
    fed = nn.feedback_alignment(nn.recompute(BLOCK))
    nn.check_layer(nn.in_inference_mode(fed), X)
    assert jax.tree.leaves(fed.init(jax.random.key(0), X)[1])


def temporary_bytes(network, x, *, steps=None):
    """What XLA says that a gradient, or a scan of steps of descent, takes beside its arguments."""
    gradient = nn.backprop(network, nn.mean_squared_error())
    params, state = jax.eval_shape(network.init, jax.random.key(0), x)

    def step(params, x):
        (value, _), gradients = gradient(params, state, x, x)
        return jax.tree.map(lambda p, g: p - g, params, gradients), value

    def run(params, x):
        if steps is None:
            return step(params, x)
        return jax.lax.scan(step, params, jnp.broadcast_to(x, (steps, *x.shape)))

    return jax.jit(run).lower(params, x).compile().memory_analysis().temp_size_in_bytes


DEEP = nn.serial(nn.dense(64), nn.gelu(), nn.dense(64), nn.tanh())
BLOCKS = 6


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("scanned", [False, True])
def test_the_memory_that_the_compiled_program_saves_is_what_the_summary_foretells(scanned, steps):
    def network(block):
        return nn.repeat(block, BLOCKS) if scanned else nn.serial(*[block] * BLOCKS)

    x = jax.ShapeDtypeStruct((1024, 64), jnp.float32)
    plain, recomputed = network(DEEP), network(nn.recompute(DEEP))
    summary = nn.summarize(recomputed, x)
    # Backward is in one block at a time, whose residuals are there again.
    foretold = summary.total.saved_bytes * (BLOCKS - 1) / BLOCKS
    saved = temporary_bytes(plain, x, steps=steps) - temporary_bytes(recomputed, x, steps=steps)
    # A scan stacks an array that two layers keep once for each, which is not foretold.
    assert 0.9 * foretold < saved < (1.6 if scanned else 1.1) * foretold


def test_the_summary_tells_what_is_kept_and_what_is_saved():
    x = jax.ShapeDtypeStruct((16, 8), jnp.float32)
    layers = nn.dense(8), nn.relu(), nn.dense(8), nn.relu()
    network = nn.serial(nn.dense(8), nn.recompute(nn.serial(*layers)), nn.dense(2))
    size = 16 * 8 * 4
    summary = nn.summarize(network, x)
    assert [row.residual_bytes for row in summary.rows] == [0, size, 0, 0, 0, size]
    # The output of the last relu is kept by the layer behind.
    assert [row.saved_bytes for row in summary.rows] == [0, 0, size, 0, 0, 0]
    assert "saved by recomputing" in str(summary)
    assert "saved by recomputing" not in str(nn.summarize(nn.serial(*layers), x))


@pytest.mark.parametrize("argument", [nn.relu, 3])
def test_what_is_no_layer_is_refused(argument, untyped):
    with pytest.raises(TypeError, match="recompute: expected layer to be a Layer"):
        nn.recompute(argument)
