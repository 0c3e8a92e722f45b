"""Feedback rules against their definitions: backward passes over other weights, by jax.vjp."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, initialized, normal, passes, started
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.learning.feedback import Feedback, FeedbackState, alignment_angles
from jaxnn.training import create_state, make_epoch, make_step

BATCH = 4


def twice():
    """y = tanh(x W + b) V in one layer, whose parameters are a dict of dicts, as recurrent ones."""
    inner = nn.serial(nn.dense(4), nn.tanh(), nn.dense(5, use_bias=False))

    def split(trees):
        return {"input": trees[0], "output": trees[2]}

    def whole(params):
        return params["input"], (), params["output"]

    def init(key, x):
        params, _ = inner.init(key, x)
        return split(params), ()

    def forward(params, state, x, key):
        y, _, residuals = inner.forward(whole(params), ((), (), ()), x, key)
        return y, state, residuals

    def backward(params, residuals, dy):
        dx, captures = inner.backward(whole(params), residuals, dy)
        return dx, split(captures)

    return nn.layer("twice", init, forward, backward)


RULES = {
    "feedback_alignment": nn.feedback_alignment,
    "uniform": nn.sign_concordant,
    "fixed": lambda layer: nn.sign_concordant(layer, "fixed"),
    "batch": lambda layer: nn.sign_concordant(layer, "batch"),
    "kolen_pollack": nn.kolen_pollack,
}
NETWORKS = {
    "dense": (
        lambda: nn.serial(nn.dense(4), nn.tanh(), nn.layer_norm(), nn.dense(3), nn.dense(3)),
        lambda: normal(1, (BATCH, 5)),
    ),
    "convolution": (
        lambda: nn.serial(
            nn.conv(4, (2, 2)),
            nn.relu(),
            nn.max_pool(2),
            nn.conv(2, (2, 2), groups=2),
            nn.flatten(),
            nn.dense(3),
        ),
        lambda: normal(1, (BATCH, 4, 4, 2)),
    ),
    "nested parameters": (
        lambda: nn.serial(twice(), nn.dense(3)),
        lambda: normal(1, (BATCH, 5)),
    ),
    "recurrent": (
        lambda: nn.serial(nn.lstm(3), nn.gru(4, output="last"), nn.dense(3)),
        lambda: normal(1, (BATCH, 3, 2)),
    ),
    "repeat and skip": (
        lambda: nn.serial(nn.repeat(nn.skip(nn.dense(5), nn.tanh()), 2), nn.dense(3)),
        lambda: normal(1, (BATCH, 5)),
    ),
}


class OverItsOwn(Feedback):
    """A rule defined outside of the package: the feedback weights are the weights."""

    def start(self, weights, draw, key):
        return ()

    def renew(self, memory, weights, draw, key):
        return (), weights


LOSS = nn.softmax_cross_entropy()
LABELS = jnp.array([0, 2, 1, 1])


def feedback_of(state):
    """Every dict of feedback weights of the state, in order."""
    states = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, FeedbackState))
    return [s.memory for s in states if isinstance(s, FeedbackState)]


PLAIN = {name: make() for name, (make, _) in NETWORKS.items()}


@partial(jax.jit, static_argnums=0)
def params_and_outputs(layer, x):
    key = jax.random.key(0)
    params, state = layer.init(key, x)
    y, *_ = layer.forward(params, state, x, key)
    return params, y, layer.predict(params, state, x)


@pytest.mark.parametrize("network", ["convolution", "repeat and skip"])
@pytest.mark.parametrize("rule", RULES)
def test_the_forward_pass_and_the_parameters_are_those_of_the_network_itself(network, rule, x64):
    plain, x = PLAIN[network], NETWORKS[network][1]()
    assert_agree(params_and_outputs(RULES[rule](plain), x), params_and_outputs(plain, x), 1e-15)


@pytest.mark.parametrize("network", NETWORKS)
def test_with_the_weights_themselves_as_feedback_every_rule_is_backprop(network, x64):
    """The angle between update and gradient is 0: law 4 holds for every layer of the network."""
    make, data = NETWORKS[network]
    layer, x = OverItsOwn(make()), data()
    params, state = started(layer, x)
    angles = jax.jit(alignment_angles(layer, LOSS))(params, state, x, LABELS, jax.random.key(1))
    assert len(angles) >= 2
    assert max(map(float, angles.values())) < 1e-9


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_deltas_travel_over_the_feedback_weights(kind, x64):
    """dx of one layer is jax.vjp of the layer with B in place of W; its gradient is its own."""
    layer, x = {
        "dense": (nn.dense(3), normal(1, (BATCH, 2, 5))),
        "convolution": (nn.conv(4, (3, 2), groups=2, strides=2), normal(1, (BATCH, 5, 4, 2))),
    }[kind]
    fed = nn.feedback_alignment(layer)

    @jax.jit
    def run(x):
        params, state = fed.init(jax.random.key(0), x)
        y, after, residuals = fed.forward(params, state, x, None)
        dy = jnp.cos(y)
        dx, captures = fed.backward(params, residuals, dy)
        substituted = params | {"weight": state.memory["weight"]}
        expected_dx = jax.vjp(lambda x: layer.predict(substituted, (), x), x)[1](dy)[0]
        gradients = jax.vjp(lambda p: layer.predict(p, (), x), params)[1](dy)[0]
        true_dx = jax.vjp(lambda x: layer.predict(params, (), x), x)[1](dy)[0]
        return (dx, nn.contract(captures)), (expected_dx, gradients), true_dx, (state, after)

    result, expected, true_dx, (state, after) = run(x)
    assert_agree(result, expected, 1e-10)
    assert np.abs(result[0] - true_dx).max() > 0.1
    assert_agree(after, state, 0)


def test_two_layers_learn_by_the_rule_of_lillicrap(x64):
    """Δ W₁ = xᵀ (e Bᵀ ∘ φ′), written out with NumPy."""
    network, loss = nn.serial(nn.dense(4), nn.tanh(), nn.dense(3)), nn.half_squared_error()
    fed, x, target = nn.feedback_alignment(network), normal(1, (BATCH, 5)), normal(2, (BATCH, 3))
    params, state = fed.init(jax.random.key(0), x)
    _, gradients = jax.jit(nn.backprop(fed, loss))(params, state, x, target)
    first, _, last = jax.tree.map(np.asarray, params)
    feedback = np.asarray(state[2].memory["weight"])
    hidden = np.tanh(x @ first["weight"] + first["bias"])
    error = (hidden @ last["weight"] + last["bias"] - target) / BATCH
    delta = (error @ feedback.T) * (1 - hidden**2)
    expected = (
        {"weight": np.asarray(x).T @ delta, "bias": delta.sum(0)},
        (),
        {"weight": hidden.T @ error, "bias": error.sum(0)},
    )
    assert_agree(gradients, expected, 1e-10)


@pytest.mark.parametrize("magnitude", ["uniform", "fixed", "batch"])
def test_sign_concordant_feedback_has_the_signs_of_the_weights(magnitude, x64):
    layer, x = nn.sign_concordant(nn.dense(6), magnitude), normal(1, (BATCH, 5))
    params, state = layer.init(jax.random.key(0), x)
    flipped = jax.tree.map(lambda p: -2 * np.asarray(p), params)

    @jax.jit
    def feedback(params, key):
        _, _, residuals = layer.forward(params, state, x, key)
        dy = jnp.eye(6)[:BATCH]
        return layer.backward(params, residuals, dy)[0]  # [BATCH, 5]: columns of B

    one, other = jax.random.key(1), jax.random.key(2)
    b, again, opposite = (
        np.asarray(feedback(*arguments))
        for arguments in ((params, one), (params, other), (flipped, one))
    )
    weight = np.asarray(params["weight"])[:, :BATCH].T
    np.testing.assert_array_equal(np.sign(b), np.sign(weight))
    assert_agree(opposite, -b, 1e-12)  # magnitudes do not follow the weights
    if magnitude == "batch":
        assert np.abs(np.abs(b) - np.abs(again)).max() > 1e-3
    else:
        assert_agree(again, b, 0)
    if magnitude == "uniform":
        root = np.sqrt((np.asarray(params["weight"]) ** 2).mean())
        np.testing.assert_allclose(np.abs(b), root, rtol=1e-12)


@given(decay=st.sampled_from([0.0, 0.1, 1.0]))
def test_the_difference_of_kolen_and_pollack_decays_whatever_the_optimiser(decay, x64):
    layer, x = nn.kolen_pollack(nn.dense(3), decay), normal(1, (BATCH, 5))
    params, state = layer.init(jax.random.key(0), x)
    before = np.asarray(state.memory["feedback"]["weight"] - params["weight"])
    for step in range(3):
        params = jax.tree.map(lambda p, s=step: p + normal(s, p.shape), params)
        _, state, _ = layer.forward(params, state, x, None)
    after = state.memory["feedback"]["weight"] - params["weight"]
    # The first renewal sees the change of the first update, so that all three have decayed.
    assert np.abs(after - (1 - decay) ** 3 * before).max() < 1e-12


def test_redrawn_magnitudes_need_a_key():
    layer, x = nn.sign_concordant(nn.dense(3), "batch"), normal(1, (BATCH, 5))
    params, state = layer.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="sign_concordant: expected key to be a random key"):
        layer.forward(params, state, x, None)


def test_redrawn_magnitudes_at_rest_need_no_key_and_have_the_true_gradient():
    network, x = nn.serial(nn.dense(4), nn.tanh(), nn.dense(2)), normal(0, (3, 5), np.float32)
    rule = nn.sign_concordant(network, "batch")
    params, state = initialized(rule, x)
    dy = normal(1, (3, 2), np.float32)
    at_rest = passes(nn.in_inference_mode(rule), params, state, x, dy)
    assert_agree(at_rest, passes(nn.plain(rule), params, state, x, dy), 1e-7)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", [nn.relu(), nn.serial(nn.layer_norm(), nn.tanh())])
def test_a_layer_without_weights_is_refused(rule, layer):
    with pytest.raises(ValueError, match=f"with weights that deltas .* {layer.name} has none"):
        RULES[rule](layer).init(jax.random.key(0), jnp.ones((2, 3)))


def test_a_layer_that_runs_forward_again_on_the_way_back_is_refused():
    network = nn.feedback_alignment(nn.rnn(3, chunk=2))
    with pytest.raises(ValueError, match="but rnn gives its gradient already contracted"):
        network.init(jax.random.key(0), jnp.ones((2, 4, 3)))


def test_an_embedding_has_no_deltas_to_propagate_and_keeps_no_feedback():
    network = nn.feedback_alignment(nn.serial(nn.embedding(7, 3), nn.dense(2)))
    _, state = network.init(jax.random.key(0), jnp.zeros((2, 4), int))
    assert [f["weight"].shape for f in feedback_of(state)] == [(3, 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.sign_concordant(nn.dense(2), "uniforms"), "did you mean 'uniform'"),
        (lambda: nn.kolen_pollack(nn.dense(2), 1.5), "expected decay to lie in"),
    ],
)
def test_wrong_options_are_named(make, message, untyped):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_rule_keeps_what_a_layer_does_in_inference():
    network = nn.feedback_alignment(nn.serial(nn.dense(4), nn.batch_norm(), nn.dense(2)))
    x = normal(1, (BATCH, 3))
    params, state = initialized(network, x)
    y, _, gradients = passes(nn.in_inference_mode(network), params, state, x)
    np.testing.assert_allclose(y, jax.jit(network.predict)(params, state, x), rtol=1e-6)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_stays_half_precision(dtype):
    network = nn.sign_concordant(nn.serial(nn.dense(4), nn.tanh(), nn.dense(2)), "batch")
    x = normal(1, (BATCH, 3), dtype)
    outputs = passes(network, *initialized(network, x), x, key=jax.random.key(1))
    assert {a.dtype for a in jax.tree.leaves(outputs)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("rule", ["kolen_pollack", "batch"])
def test_a_rule_trains_in_a_scanned_epoch_that_takes_the_memory_of_its_state(rule):
    network = RULES[rule](nn.serial(nn.dense(8), nn.tanh(), nn.dense(3)))
    x = normal(1, (32, 5), jnp.float32)
    target = jnp.asarray(np.argmax(x[:, :3], 1))
    optimizer = optax.sgd(0.5)
    train_state = create_state(network, optimizer, jax.random.key(0), x[:1])
    epoch = make_epoch(make_step(nn.backprop(network, LOSS), optimizer), 8)
    means = []
    for _ in range(10):
        train_state, values = epoch(train_state, x, target)
        means.append(float(values.mean()))
    assert means[-1] < 0.5 * means[0]
