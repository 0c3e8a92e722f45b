from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, initialized, normal, passes, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.rewrites.precision import (
    POLICIES,
    Policy,
    ScaledState,
    adjust_scale,
    at_full_precision,
    skip_overflow,
    skipped_steps,
    with_precision,
)
from jaxnn.training import create_state, make_step, train

LOSS = nn.softmax_cross_entropy()
X, LABELS = normal(0, (6, 4), np.float32), jnp.arange(6) % 3
IMAGES = normal(1, (2, 6, 6, 3), np.float32)
NETWORKS = {
    "dense": (nn.serial(nn.dense(5), nn.layer_norm(), nn.gelu(), nn.dense(3)), X),
    "combinators": (
        nn.serial(
            nn.repeat(nn.skip(nn.dense(4), nn.tanh()), 2),
            nn.recompute(nn.serial(nn.dense(4, use_bias=False), nn.batch_norm())),
            nn.fork(nn.identity(), nn.softmax()),
            nn.concatenate(),
        ),
        X,
    ),
    "convolution": (
        nn.fuse(nn.serial(nn.conv(8, (3, 3)), nn.relu(), nn.max_pool(2), nn.flatten())),
        IMAGES,
    ),
    "sequence": (nn.serial(nn.embedding(7, 4), nn.gru(3)), jnp.asarray([[0, 3, 6], [1, 1, 5]])),
    "attention": (nn.transformer_block(4, 2), normal(2, (2, 3, 4), np.float32)),
}
HALVES = [(name, half) for name in NETWORKS for half in POLICIES]


def assert_near(values, expected, tolerance):
    """As a whole: what is zero but for rounding, such as a key's bias, has that of the others."""
    for value, reference in zip(values, expected, strict=True):
        assert jax.tree.structure(value) == jax.tree.structure(reference)
        a, b = (
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)] or [np.zeros(0)])
            for tree in (value, reference)
        )
        assert a.dtype == b.dtype
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@partial(jax.jit, static_argnums=0)
def passes_and_prediction(network, params, state, x, dy):
    return passes(network, params, state, x, dy), network.predict(params, state, x)


@pytest.mark.parametrize(("name", "half"), HALVES)
def test_half_precision_is_near_float32_and_gives_its_dtypes(name, half):
    network, x = NETWORKS[name]
    mixed = with_precision(network, POLICIES[half])
    params, state = initialized(mixed, x)
    plain = state.inner if isinstance(state, ScaledState) else state
    y = jax.eval_shape(lambda: network.forward(params, plain, x, None)[0])
    dy = jnp.asarray(np.asarray(normal(3, y.shape)) / 32, np.float32)
    expected, expected_y = passes_and_prediction(network, params, plain, x, dy)
    values, predicted = passes_and_prediction(mixed, params, state, x, dy)
    assert_near(values, expected, 0.03 if half == "bfloat16" else 0.004)
    assert_near([predicted], [expected_y], 0.03)


def seen_dtypes(policy):
    """What a layer between two dense ones is given."""
    seen = {}

    def forward(x):
        seen["x"] = x.dtype
        return x, ()

    def backward(residuals, dy):
        seen["dy"] = dy.dtype
        return dy

    spy = nn.parameter_free("spy", forward, backward)
    network = with_precision(nn.serial(nn.dense(4), spy, nn.softmax(), nn.dense(3)), policy)
    params, state = initialized(network, X)
    (value, _), gradients = jax.jit(nn.backprop(network, LOSS))(params, state, X, LABELS)
    seen["value"] = value.dtype
    return seen, {leaf.dtype for leaf in jax.tree.leaves((params, gradients))}


def test_arithmetic_is_in_the_compute_dtype_and_the_rest_in_float32():
    seen, kept = seen_dtypes(POLICIES["bfloat16"])
    assert seen == {"x": jnp.bfloat16, "dy": jnp.bfloat16, "value": jnp.float32}
    assert kept == {jnp.dtype("float32")}


def test_every_dtype_of_the_policy_is_what_it_says():
    seen, kept = seen_dtypes(Policy("bfloat16", "float32", "bfloat16"))
    assert (seen["x"], seen["dy"], seen["value"]) == (jnp.float32, jnp.float32, jnp.bfloat16)
    assert jnp.dtype("bfloat16") in kept


@pytest.mark.parametrize("half", POLICIES)
def test_normalisation_and_softmax_compute_in_float32(half):
    # Beyond 1 / ε apart: to half precision the differences between these numbers are rounding.
    x = jnp.asarray(1 + np.array([[0, 1, 2, 3], [3, 1, 2, 0]]) / 64, np.float32)
    for layer in (nn.layer_norm(), nn.softmax()):
        mixed = with_precision(layer, POLICIES[half])
        params, state = mixed.init(None, x)
        inner = state.inner if isinstance(state, ScaledState) else state
        y = jax.jit(mixed.predict)(params, state, x)
        assert_agree(y, jax.jit(layer.predict)(params, inner, x), 4e-3)
        assert f"{half}[" not in str(nn.summarize(mixed, x))  # it returns float32 itself


def test_a_gradient_is_summed_in_float32_and_not_rounded_to_half():
    network = with_precision(nn.dense(1, use_bias=False), POLICIES["bfloat16"])
    x = jnp.ones((1000, 1), np.float32)  # 1000 needs ten bits, bfloat16 has eight
    _, _, gradients = passes(network, *initialized(network, x), x)
    assert float(gradients["weight"][0, 0]) == 1000.0


def test_deltas_below_the_range_of_float16_survive():
    network, x = NETWORKS["dense"]
    dy = jnp.asarray(1e-9 * np.asarray(normal(3, (6, 3))), np.float32)
    mixed = with_precision(network, POLICIES["float16"])
    params, state = initialized(mixed, x)
    state = state._replace(scale=jnp.float32(2**15))
    expected = passes(network, params, state.inner, x, dy)
    assert_near(passes(mixed, params, state, x, dy)[1:], expected[1:], 0.01)
    unscaled = state._replace(scale=jnp.float32(1))
    assert not np.any(passes(mixed, params, unscaled, x, dy)[1])


def test_statistics_are_those_of_unscaled_deltas():
    network, x = NETWORKS["dense"]
    mixed = with_precision(network, POLICIES["float16"])
    params, state = initialized(mixed, x)
    norms = [
        jax.jit(statistics.per_example_squared_norms(n, LOSS))(params, s, x, LABELS)
        for n, s in ((mixed, state), (network, state.inner))
    ]
    assert_agree(*norms, 0.01)


@pytest.mark.parametrize("half", POLICIES)
def test_walk_and_inference_mode_look_through_the_policy(half):
    network = nn.serial(nn.dense(4), nn.batch_norm(), nn.dropout(0.5))
    mixed = with_precision(network, POLICIES[half])
    assert [path for path, _ in nn.walk(mixed)] == ["0", "1", "2"]
    params, state = initialized(mixed, X)
    inference = nn.in_inference_mode(mixed)
    y = jax.jit(inference.forward)(params, state, X, None)[0]
    assert y.dtype == jnp.float32
    assert_agree(y, jax.jit(mixed.predict)(params, state, X), 1e-6)
    assert f"0 dense       {half}[6, 4]" in str(nn.summarize(mixed, X))


FLOAT16 = POLICIES["float16"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: with_precision(network, FLOAT16),
        lambda network: nn.feedback_alignment(with_precision(network, FLOAT16)),
        lambda network: with_precision(nn.feedback_alignment(network), FLOAT16),
        lambda network: nn.repeat(with_precision(network, FLOAT16), 2),
    ],
    ids=["alone", "inside of a rule", "around a rule", "repeated"],
)
def test_state_seen_without_its_policy_keeps_the_scale(wrap):
    network = wrap(nn.serial(nn.dense(4), nn.tanh()))
    params, state = initialized(network, X)
    without = jax.jit(at_full_precision(network).forward)(params, state, X, None)[1]
    assert jax.tree.structure(without) == jax.tree.structure(state)
    assert_agree(without, state, 0)


def test_float16_is_accumulated_under_the_default_crosscheck():
    network = with_precision(nn.serial(nn.dense(3)), FLOAT16)
    optimizer = skip_overflow(optax.sgd(0.1))
    state = create_state(network, optimizer, jax.random.key(0), X)
    gradient = adjust_scale(nn.accumulate(nn.backprop(network, LOSS), 3, network=network))
    options = {"epochs": 1, "batch_size": 6, "gradient": gradient}
    (epoch,) = train(network, LOSS, optimizer, state, X, LABELS, **options)
    assert epoch.disagreement is not None


def trained(scale, steps, x=X):
    network = with_precision(nn.serial(nn.dense(3)), POLICIES["float16"])
    optimizer = skip_overflow(optax.sgd(0.1))
    state = create_state(network, optimizer, jax.random.key(0), x)
    state = state._replace(state=state.state._replace(scale=jnp.float32(scale)))
    step = jax.jit(make_step(adjust_scale(nn.backprop(network, LOSS)), optimizer))
    states = [state]
    for _ in range(steps):
        states.append(step(states[-1], x, LABELS)[0])
    return states


def test_a_step_that_overflows_changes_nothing_but_the_scale():
    before, after = trained(2.0**24, 1)
    np.testing.assert_array_equal(before.params[0]["weight"], after.params[0]["weight"])
    assert (float(after.state.scale), skipped_steps(after.optimizer_state)) == (2.0**23, 1)


def test_the_scale_falls_until_the_gradient_is_finite_and_training_goes_on():
    *_, last = trained(2.0**24, 12)
    skipped = skipped_steps(last.optimizer_state)
    assert 0 < skipped < 12
    assert float(last.state.scale) == 2.0 ** (24 - skipped)
    assert int(last.state.finite_steps) == 12 - skipped


def test_the_scale_doubles_after_many_finite_steps(monkeypatch):
    monkeypatch.setattr("jaxnn.rewrites.precision.DOUBLE_AFTER", 3)
    scales = [float(state.state.scale) for state in trained(4.0, 7)]
    assert scales == [4, 4, 4, 8, 8, 8, 16, 16]


def test_adjusting_leaves_other_states_as_they_are():
    network, x = NETWORKS["dense"]
    params, state = started(network, x)
    gradient = nn.backprop(network, LOSS)
    results = [jax.jit(g)(params, state, x, LABELS) for g in (adjust_scale(gradient), gradient)]
    assert_agree(*results, 0)


def test_a_layer_that_cannot_serve_the_policy_is_named():
    def forward(x):
        if x.dtype != jnp.float32:
            raise TypeError(f"solver: expected float32, got {x.dtype}")
        return x, ()

    solver = nn.parameter_free("solver", forward, lambda residuals, dy: dy)
    network = with_precision(nn.serial(nn.dense(4), solver), POLICIES["bfloat16"])
    message = "precision: expected layers that compute in bfloat16, but 1 solver does not: solver"
    with pytest.raises(ValueError, match=message):
        network.init(jax.random.key(0), X)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="unknown dtype of compute 'float8': did you mean"):
        with_precision(nn.dense(3), Policy(compute="float8"))


def test_dx_has_the_dtypes_of_x_where_a_whole_member_has_no_gradient():
    x = (normal(0, (2, 3), np.float32), (normal(1, (2, 3), np.float32), jnp.ones((2, 1))))
    first = nn.parameter_free("first", lambda x: (x[0], ()), lambda kept, dy: (dy, None))
    network = nn.with_precision(nn.serial(first, nn.dense(2)), nn.POLICIES["bfloat16"])
    params, state = initialized(network, x)
    y, _, residuals = network.forward(params, state, x, None)
    of_first, second = network.backward(params, residuals, y)[0]
    assert of_first.dtype == jnp.float32
    assert second is None
