"""Learning rules of stages: their limits, in which they are backprop, and their definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ChangedLoss, assert_agree, normal, started

import jaxnn as nn
from jaxnn.learning.local import (
    equilibrium_propagation,
    forward_forward,
    objective_angles,
    pepita,
    predictive_coding,
)

BATCH = 4
LOSS = nn.softmax_cross_entropy()
LABELS = jnp.array([0, 2, 1, 0])
KEY = jax.random.key(5)


def convolutional():
    """(network, params, state, x), whose pooling, at the front of the second stage, is linear."""
    network = nn.serial(
        nn.conv(2, (2, 2)), nn.tanh(), nn.avg_pool(2), nn.flatten(), nn.dense(4), nn.tanh(),
        nn.dense(3),
    )  # fmt: skip
    x = normal(1, (BATCH, 4, 4, 1))
    return network, *started(network, x), x


def rectified():
    """Two stages of forward-forward, for three classes and four features."""
    network = nn.serial(
        nn.dense(6), nn.relu(), nn.rms_norm(use_scale=False, axes=-1), nn.dense(5), nn.relu()
    )
    return network, *started(network, normal(0, (BATCH, 7))), normal(1, (BATCH, 4))


RULES = {
    "predictive coding": partial(predictive_coding, loss=LOSS, steps=3),
    "held predictions": partial(predictive_coding, loss=LOSS, steps=3, fixed_prediction=True),
    "pepita": partial(pepita, loss=LOSS),
    "equilibrium": partial(equilibrium_propagation, loss=LOSS, free_steps=3, nudged_steps=2),
    "one side": partial(
        equilibrium_propagation, loss=LOSS, free_steps=60, nudged_steps=2, two_sided=False
    ),
    "forward-forward": partial(forward_forward, classes=3),
}


def example(name):
    network, *rest = rectified() if name == "forward-forward" else convolutional()
    return RULES[name](network), *rest


def test_with_held_predictions_activities_settle_at_backprop(x64):
    network, params, state, x = convolutional()
    rule = predictive_coding(network, LOSS, steps=3, rate=1.0, fixed_prediction=True)
    slow = predictive_coding(network, LOSS, steps=400, rate=0.1, fixed_prediction=True)
    given = params, state, x, LABELS, None, jnp.array([1.0, 0.5, 0.0, 2.0])
    both, expected = jax.jit(
        lambda: ((rule(*given), slow(*given)), nn.backprop(network, LOSS)(*given))
    )()
    assert_agree(both[0], expected, 1e-12)
    assert_agree(both[1], expected, 1e-10)


def test_activities_that_settle_differ_from_backprop_by_the_second_order_of_the_error(x64):
    """A loss times ε has deltas of order ε; relative to them the difference is of order ε."""
    network, params, state, x = convolutional()

    def off_by(scale):
        value = ChangedLoss(LOSS, lambda y, t: scale * LOSS.gradient(y, t))
        rule = predictive_coding(network, value, steps=300, rate=0.3)
        found, true = (
            jax.flatten_util.ravel_pytree(g(params, state, x, LABELS)[1])[0]
            for g in (rule, nn.backprop(network, value))
        )
        return jnp.linalg.norm(found - true) / jnp.linalg.norm(true)

    large, middle, small = jax.jit(lambda: [off_by(s) for s in (1e-1, 1e-2, 1e-3)])()
    np.testing.assert_allclose([large / middle, middle / small], 10, rtol=0.5)
    assert 0 < small < 1e-2


def test_predictive_coding_descends_its_energy(x64):
    """Settled, the update is the gradient of the smallest energy (the envelope theorem)."""
    network, params, state, x = convolutional()
    rule = predictive_coding(network, LOSS, steps=2000, rate=0.2)

    def energy(params, v):
        first = network.parts[1].predict((), (), network.parts[0].predict(params[0], (), x))
        pooled = nn.avg_pool(2).predict((), (), v[0]).reshape(BATCH, -1)
        second = jnp.tanh(pooled @ params[4]["weight"] + params[4]["bias"])
        y = v[1] @ params[6]["weight"] + params[6]["bias"]
        squares = [jnp.sum((a - b) ** 2) / 2 for a, b in zip((first, second), v, strict=True)]
        return (sum(squares) + jnp.sum(LOSS.value(y, LABELS))) / BATCH

    @jax.jit
    def both():
        found = rule(params, state, x, LABELS)[1]
        first = network.parts[1].predict((), (), network.parts[0].predict(params[0], (), x))
        pooled = nn.avg_pool(2).predict((), (), first).reshape(BATCH, -1)
        v = [first, jnp.tanh(pooled @ params[4]["weight"] + params[4]["bias"])]

        def down(v, _):
            slopes = jax.grad(energy, 1)(params, v)
            return [a - 0.2 * BATCH * s for a, s in zip(v, slopes, strict=True)], None

        v, _ = jax.lax.scan(down, v, length=2000)
        return found, jax.grad(energy)(params, v)

    assert_agree(*both(), 1e-9)


@pytest.mark.parametrize("two_sided", [True, False])
def test_equilibrium_propagation_is_the_gradient_of_the_loss_at_rest_as_beta_vanishes(
    two_sided, x64
):
    """By autodiff through the way to rest; the error is O(β²), from one side O(β)."""
    network, params, state, x = convolutional()
    params = jax.tree.map(lambda p: p / 2, params)

    def off_by(beta):
        rule = equilibrium_propagation(network, LOSS, beta, 100, 100, two_sided)
        found = rule(params, state, x, LABELS)[1]
        true = jax.grad(rule.objective)(params, state, x, LABELS)
        found, true = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (found, true))
        return jnp.linalg.norm(found - true) / jnp.linalg.norm(true)

    large, small = jax.jit(lambda: [off_by(beta) for beta in (1e-2, 1e-3)])()
    np.testing.assert_allclose(large / small, 100 if two_sided else 10, rtol=0.2)
    assert small < (1e-6 if two_sided else 1e-2)


def test_at_rest_no_stage_could_lower_the_energy(x64):
    network, params, state, x = convolutional()
    params = jax.tree.map(lambda p: p / 2, params)
    rule = equilibrium_propagation(network, nn.half_squared_error(), free_steps=100)

    def energy(s):
        z = network.parts[0].predict(params[0], (), x)
        pooled = nn.avg_pool(2).predict((), (), s[0]).reshape(BATCH, -1)
        fields = [
            z,
            *(h @ p["weight"] + p["bias"] for h, p in ((pooled, params[4]), (s[1], params[6]))),
        ]
        inverse = [a * jnp.arctanh(a) + jnp.log(1 - a**2) / 2 for a in s[:2]]
        own = [*inverse, s[2] ** 2 / 2]
        return sum(jnp.sum(g - a * f) for g, a, f in zip(own, s, fields, strict=True))

    from jaxnn.learning.local.stages import stages_of

    @jax.jit
    def slopes():
        return jax.grad(energy)(rule._rest(stages_of("", network, params, state, None), x))

    assert max(jnp.abs(slope).max() for slope in slopes()) < 1e-10


@pytest.mark.parametrize("last", [(), (nn.tanh(),)], ids=["linear", "tanh"])
def test_pepita_is_its_definition(last, x64):
    """ΔWᵢ = hᵢ₋₁′ᵀ (hᵢ − hᵢ′), and hₘ₋₁′ᵀ e of the last layer, whatever is behind it."""
    network = nn.serial(nn.dense(4), nn.tanh(), nn.dense(3), *last)
    x = normal(1, (BATCH, 5))
    params, state = started(network, x)
    rule = pepita(network, LOSS, scale=0.3)
    shares = np.array([0.5, 0.25, 0.0, 0.25])[:, None]
    found = jax.jit(rule)(params, state, x, LABELS, None, jnp.asarray(4 * shares[:, 0]))[1]
    first, second = params[0], params[2]
    hidden = np.tanh(x @ first["weight"] + first["bias"])
    y = hidden @ second["weight"] + second["bias"]
    e = LOSS.gradient(jnp.tanh(y) if last else y, LABELS)
    projected = rule.projected(e, x)
    changed = np.tanh((x + projected) @ first["weight"] + first["bias"])
    delta = shares * (hidden - changed)
    np.testing.assert_allclose(found[0]["weight"], (x + projected).T @ delta)
    np.testing.assert_allclose(found[0]["bias"], delta.sum(0))
    np.testing.assert_allclose(found[2]["weight"], changed.T @ (shares * e))
    np.testing.assert_allclose(found[2]["bias"], (shares * e).sum(0))
    feedback = jax.vmap(lambda row: rule.projected(row[None], x[:1])[0])(jnp.eye(3))
    np.testing.assert_allclose(projected, e @ feedback)
    assert 0.2 * np.sqrt(6 / 5) < jnp.abs(feedback).max() <= 0.3 * np.sqrt(6 / 5)


def test_stages_of_forward_forward_descend_their_own_losses_alone(x64):
    network, params, state, x = rectified()
    rule = forward_forward(network, 3, threshold=0.5, temperature=0.7, label_scale=2.0)
    given = state, x, LABELS, KEY, jnp.array([1.0, 0.5, 0.0, 2.0])

    def first_alone(first):
        held = jax.lax.stop_gradient
        return rule.objective((first, *held(params[1:])), *given) - rule.objective(
            (held(first), *held(params[1:])), *given
        )

    @jax.jit
    def both():
        (value, _), found = rule(params, *given)
        whole = jax.grad(rule.objective)(params, *given)
        # Of a single stage the objective is that stage's loss.
        alone = forward_forward(nn.serial(*network.parts[:2]), 3, 0.5, 0.7, 2.0)
        first = jax.grad(alone.objective)(params[:2], state[:2], *given[1:])
        return found[0], found[3], first[0], whole[3], value, rule.objective(params, *given)

    *found, value, objective = both()
    assert_agree(found[:2], found[2:], 1e-12)
    assert value == objective


def test_forward_forward_is_its_definition(x64):
    """By NumPy, of one example: of the two labels that are wrong one has been drawn."""
    network = nn.serial(nn.dense(6), nn.relu())
    (x, label), right = (normal(1, (1, 4)), jnp.array([2])), 2
    params, state = started(network, normal(0, (1, 7)))
    rule = forward_forward(network, 3, threshold=0.5, temperature=0.7, label_scale=2.0)
    (value, _), found = jax.jit(rule)(params, state, x, label, KEY)
    weight, bias = (np.asarray(params[0][name]) for name in ("weight", "bias"))

    def account(given, sign):
        row = np.concatenate([2 * np.eye(3)[given], np.asarray(x)[0]])
        h = np.maximum(row @ weight + bias, 0)
        odds = np.exp(-sign * (np.mean(h**2) - 0.5) / 0.7)
        delta = -sign * odds / (1 + odds) / 0.7 * 2 * h / 6
        return np.log1p(odds), np.outer(row, delta)

    sums = [
        [a + b for a, b in zip(account(right, 1), account(wrong, -1), strict=True)]
        for wrong in (0, 1)
    ]
    loss, gradient = min(sums, key=lambda pair: abs(pair[0] - value))
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    np.testing.assert_allclose(found[0]["weight"], gradient, atol=1e-12)


def test_forward_forward_finds_the_class_whose_label_makes_the_later_stages_good(x64):
    network, params, state, x = rectified()
    rule = forward_forward(network, 3)
    found = jax.jit(rule.predict)(params, state, x)
    assert found.shape == (BATCH, 3)
    given = jnp.concatenate([3 * jnp.eye(3)[jnp.full(BATCH, 1)], x], 1)
    expected = jnp.mean(network.predict(params, state, given) ** 2, 1)
    np.testing.assert_allclose(found[:, 1], expected)


@pytest.mark.parametrize("name", RULES)
def test_an_example_of_weight_zero_counts_as_if_it_were_not_there(name, x64):
    rule, params, state, x = example(name)
    weights = jnp.array([1.0, 2.0, 0.5, 0.0])
    broken = x.at[3].set(jnp.nan)

    @jax.jit
    def both():
        found = rule(params, state, broken, LABELS, KEY, weights)
        again = rule(params, state, x, LABELS, KEY, weights)
        return found, again

    found, again = both()
    assert_agree(found, again, 0)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert jax.tree.structure(found[1]) == jax.tree.structure(params)


@pytest.mark.parametrize("name", [name for name in RULES if name != "pepita"])
def test_a_small_step_along_a_rule_of_a_fresh_network_lowers_its_objective(name, x64):
    rule, _, _, x = example(name)
    given = rule.labelled(x, LABELS) if name == "forward-forward" else x
    params, state = jax.jit(rule.network.init)(jax.random.key(0), given)
    angles = jax.jit(objective_angles(rule))(params, state, x, LABELS, KEY)
    assert all(angle < 90 for angle in angles.values()), angles


def test_what_cannot_be_cut_into_stages_is_refused():
    x = jnp.ones((BATCH, 3))
    for network, message in (
        (nn.serial(nn.dense(3), nn.batch_norm()), "expected layers without state, 1 batch_norm"),
        (nn.serial(nn.tanh()), "one with parameters"),
        (nn.serial(nn.dense(3), nn.reshape(3, 1)), "one with parameters and, behind it, pointwise"),
    ):
        params, state = network.init(jax.random.key(0), x)
        with pytest.raises(ValueError, match=message):
            pepita(network, LOSS)(params, state, x, LABELS)


def test_numbers_out_of_range_and_missing_keys_are_refused():
    network, params, state, x = rectified()
    with pytest.raises(ValueError, match="expected beta to lie in"):
        equilibrium_propagation(network, LOSS, beta=0.0)
    with pytest.raises(ValueError, match="expected steps to be"):
        predictive_coding(network, LOSS, steps=0)
    with pytest.raises(ValueError, match="expected key to be a random key"):
        forward_forward(network, 3)(params, state, x, LABELS)
    with pytest.raises(ValueError, match=r"expected x \[batch, features\]"):
        forward_forward(network, 3)(params, state, jnp.ones((BATCH, 2, 2)), LABELS, KEY)
    for classes in (0, 1):
        with pytest.raises(ValueError, match="expected classes to be at least 2"):
            forward_forward(network, classes)


def test_targets_of_forward_forward_that_are_no_labels_are_refused():
    network, params, state, x = rectified()
    for target, message in (
        (LABELS.at[1].set(3), "expected labels to lie in 0 … 2, the classes, got 0 … 3"),
        (LABELS - 1, "expected labels to lie in 0 … 2"),
        (LABELS.astype(jnp.float32), "one integer for each of 4 examples, got float32"),
        (LABELS[:, None], r"one integer for each of 4 examples, got int32 of shape \(4, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            forward_forward(network, 3)(params, state, x, target, KEY)


@pytest.mark.parametrize("name", ["held predictions", "pepita", "equilibrium", "forward-forward"])
def test_half_precision_is_that_of_the_result_alone(name):
    """Activities settle, and are compared, in float32: in bfloat16 their differences are noise."""
    rule, params, state, x = example(name)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    rounded = jax.tree.map(lambda a: a.astype(jnp.float32), half)

    @jax.jit
    def both():
        return [rule(p, state, x, LABELS, KEY) for p, x in (half, rounded)]

    found, expected = both()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize("name", ["held predictions", "pepita", "equilibrium", "forward-forward"])
def test_an_empty_batch_has_gradients_of_zero(name):
    rule, params, state, x = example(name)
    found = rule(params, state, x[:0], LABELS[:0], KEY)[1]
    assert_agree(found, jax.tree.map(jnp.zeros_like, params), 0)


@pytest.mark.parametrize("name", ["held predictions", "equilibrium", "forward-forward"])
def test_predictions_draw_nothing(name):
    rule, params, state, x = example(name)
    cut = 2 if name == "forward-forward" else 6
    layers = *rule.network.parts[:cut], nn.dropout(0.5), *rule.network.parts[cut:]
    noisy = RULES[name](nn.serial(*layers))
    own = [(*tree[:cut], (), *tree[cut:]) for tree in (params, state)]
    assert_agree(noisy.predict(*own, x), rule.predict(params, state, x), 0)


class centred(nn.Layer):
    """Of every example the mean of the batch is taken away."""

    def forward(self, params, state, x, key):
        return x - x.mean(0), state, ()

    def backward(self, params, residuals, dy):
        return dy - dy.mean(0), ()


def test_examples_that_are_mixed_are_refused():
    """Each one's captures are multiplied by its own weight."""
    x = jnp.ones((BATCH, 4))
    apart, mixed = nn.serial(nn.dense(4)), nn.serial(nn.dense(4), centred(), nn.dense(4))
    contrastive = nn.contrastive()
    for network, loss, message in (
        (mixed, LOSS, "1 centred mixes the examples"),
        (apart, contrastive, "contrastive compares the examples"),
    ):
        params, state = network.init(jax.random.key(0), x)
        for rule in (pepita, predictive_coding, equilibrium_propagation):
            with pytest.raises(ValueError, match=message):
                rule(network, loss)(params, state, x, LABELS)
