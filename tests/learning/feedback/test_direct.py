"""Direct feedback alignment, straight-through estimators and angles, by their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ChangedLoss, assert_agree, normal, passes, started

import jaxnn as nn
from jaxnn.learning.feedback import alignment_angles, delta_angles

BATCH = 4
LOSS = nn.softmax_cross_entropy()


def network():
    return nn.direct_feedback_alignment(
        nn.serial(nn.conv(2, (2, 2)), nn.relu(), nn.max_pool(2)),
        nn.serial(nn.flatten(), nn.dense(5), nn.tanh()),
        nn.dense(3),
    )


def test_every_block_is_given_the_error_of_the_output(x64):
    """Each block's gradients are jax.vjp of the block at dy · Bᵢ, of the last one at dy."""
    layer, x = network(), normal(1, (BATCH, 4, 4, 1))
    params, state = started(layer, x)

    @jax.jit
    def run(params, x):
        y, after, residuals = layer.forward(params, state, x, None)
        dy = jnp.sin(y)
        dx, captures = layer.backward(params, residuals, dy)
        expected, at, dx_of_first = [], x, None
        for index, block in enumerate(layer.parts):
            out, vjp = jax.vjp(lambda p, a, b=block: b.predict(p, ((),) * 3, a), params[index], at)
            delta = dy
            if index < 2:
                delta = jnp.einsum("bk,k...->b...", dy, state[-1][index])
            gradient, dx_of_block = vjp(delta)
            dx_of_first = dx_of_block if dx_of_first is None else dx_of_first
            expected.append(gradient)
            at = out
        return (dx, nn.contract(captures)), (dx_of_first, tuple(expected)), (after, state), (y, at)

    result, expected, states, outputs = run(params, x)
    assert_agree(result, expected, 1e-10)
    assert_agree(*states, 0)
    assert_agree(*outputs, 1e-12)


def test_backward_is_linear_in_dy_and_the_last_block_has_its_gradient(x64):
    layer, x = network(), normal(1, (BATCH, 4, 4, 1))
    params, state = started(layer, x)
    labels = jnp.array([0, 1, 2, 2])
    angles = jax.jit(alignment_angles(layer, LOSS))(params, state, x, labels)
    *hidden, last = map(float, angles.values())
    assert list(angles) == ["0.0 conv", "1.1 dense", "2 dense"]
    assert last < 1e-9
    assert all(1 < angle < 179 for angle in hidden)

    @jax.jit
    def pull_back(dy):
        _, _, residuals = layer.forward(params, state, x, None)
        return nn.contract(layer.backward(params, residuals, dy)[1])

    one, other = (np.asarray(normal(seed, (BATCH, 3))) for seed in (2, 3))
    combined = jax.tree.map(
        lambda a, b: 2 * np.asarray(a) - np.asarray(b), pull_back(one), pull_back(other)
    )
    assert_agree(pull_back(2 * one - other), combined, 1e-10)


def test_a_single_block_is_refused():
    with pytest.raises(ValueError, match="expected at least two blocks, got one"):
        nn.direct_feedback_alignment(nn.dense(3))


def test_a_block_without_anything_floating_is_refused():
    threshold = nn.parameter_free("threshold", lambda x: (x > 0, ()), lambda r, dy: None)
    layer = nn.direct_feedback_alignment(threshold, nn.identity())
    with pytest.raises(ValueError, match="to return something floating, threshold returns"):
        layer.init(jax.random.key(0), jnp.ones((2, 3)))


def test_each_member_of_a_tuple_has_feedback_of_its_own(x64):
    """Every member's delta is dy · B of that member."""
    layer = nn.direct_feedback_alignment(
        nn.fork(nn.dense(2), nn.serial(nn.dense(2), nn.tanh())), nn.serial(nn.add(), nn.dense(3))
    )
    x, dy = normal(1, (BATCH, 5)), normal(2, (BATCH, 3))
    params, state = started(layer, x)
    first, second = state.memory[0]
    assert first.shape == second.shape == (3, 2)
    assert not np.allclose(first, second)
    _, _, found = passes(layer, params, state, x, dy)
    y = np.tanh(x @ params[0][1][0]["weight"] + params[0][1][0]["bias"])
    np.testing.assert_allclose(found[0][0]["weight"], x.T @ (dy @ first))
    np.testing.assert_allclose(found[0][1][0]["bias"], ((dy @ second) * (1 - y**2)).sum(0))


@pytest.mark.parametrize("kind", ["lengths", "mask"])
def test_padding_is_sent_no_error(kind, x64):
    """Of an example padded to four times the gradients are those of the example without padding."""
    sequence, lengths = normal(1, (BATCH, 4, 2)), jnp.array([4, 2, 1, 3])
    if kind == "lengths":
        extra = lengths
        blocks = nn.rnn(3), nn.on(0, nn.dense(3)), nn.lstm(2, output="last")
    else:
        extra = jnp.arange(4) < lengths[:, None]
        masked = nn.parameter_free(
            "masked mean",
            lambda x: ((x[0] * x[1][..., None]).sum(1), (x[1], x[0].shape)),
            lambda kept, dy: (dy[:, None] * kept[0][..., None], None),
        )
        blocks = nn.on(0, nn.dense(3)), nn.on(0, nn.dense(3)), masked
    layer = nn.direct_feedback_alignment(*blocks)
    params, state = started(layer, (sequence, extra))

    @jax.jit
    def gradients(sequence):
        y, _, residuals = layer.forward(params, state, (sequence, extra), None)
        return nn.contract(layer.backward(params, residuals, jnp.sin(y))[1])

    there = (jnp.arange(4) < lengths[:, None])[..., None]
    found, other = gradients(sequence), gradients(jnp.where(there, sequence, 100.0))
    assert_agree(found, other, 1e-12)
    assert min(jnp.abs(leaf).max() for leaf in jax.tree.leaves(found)) > 0


def test_angles_of_deltas_are_those_of_what_reaches_each_layer(x64):
    layer, x = (
        nn.direct_feedback_alignment(nn.serial(nn.dense(5), nn.tanh()), nn.dense(3)),
        normal(1, (BATCH, 4)),
    )
    params, state = started(layer, x)
    labels = jnp.array([0, 1, 2, 2])
    angles = jax.jit(delta_angles(layer, LOSS))(params, state, x, labels)
    h = np.tanh(x @ params[0][0]["weight"] + params[0][0]["bias"])
    e = LOSS.gradient(h @ params[1]["weight"] + params[1]["bias"], labels)
    sent, true = ((1 - h**2) * (e @ w) for w in (state.memory[0], params[1]["weight"].T))
    cosine = (sent * true).sum() / np.linalg.norm(sent) / np.linalg.norm(true)
    np.testing.assert_allclose(angles["0.0 dense"], np.degrees(np.arccos(cosine)))
    assert angles["1 dense"] < 1e-9


@pytest.mark.parametrize("surrogate", [None, nn.sigmoid(), nn.tanh()])
def test_a_straight_through_estimator_has_the_value_of_one_and_the_slope_of_the_other(surrogate):
    x = jnp.array([[-2.0, -0.5, 0.0, 0.5, 2.0]])
    layer = nn.straight_through(nn.heaviside(), surrogate)
    params, state = layer.init(None, x)
    y, dx, _ = passes(layer, params, state, x, np.full(x.shape, 2, np.float32))
    np.testing.assert_array_equal(y, [[0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(jax.jit(layer.predict)(params, state, x), y)
    function = (surrogate or nn.identity()).predict
    slope = jax.jit(jax.grad(lambda x: 2 * function((), (), x).sum()))
    np.testing.assert_allclose(dx, slope(x), rtol=1e-6)


def test_a_network_of_steps_learns_through_straight_through_estimators():
    """XOR with binary hidden units, which backprop cannot teach: its slopes are all 0."""
    x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    labels = jnp.array([0, 1, 1, 0])

    def learn(activation):
        layer = nn.serial(nn.dense(16), activation, nn.dense(2))
        params, state = layer.init(jax.random.key(0), x)
        gradient = nn.backprop(layer, LOSS)

        def step(params, _):
            (value, _), gradients = gradient(params, state, x, labels)
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, gradients), value

        params, _ = jax.lax.scan(step, params, length=500)
        return params, layer.predict(params, state, x).argmax(1)

    _, decided = jax.jit(lambda: learn(nn.straight_through(nn.heaviside(), nn.sigmoid())))()
    np.testing.assert_array_equal(decided, labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.straight_through(nn.dense(3)), "dense has some"),
        (lambda: nn.straight_through(nn.heaviside(), nn.layer_norm()), "layer_norm has some"),
        (lambda: nn.straight_through(nn.heaviside(), nn.flatten()), "expected surrogate to return"),
    ],
)
def test_what_cannot_stand_in_for_the_other_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make().init(jax.random.key(0), jnp.ones((2, 3, 3)))


@pytest.mark.parametrize(("factor", "degrees"), [(2.0, 0.0), (-1.0, 180.0)])
def test_angles_are_those_of_scaled_and_opposite_updates(factor, degrees):
    """A loss whose gradient is written down wrongly, by a factor."""
    loss = nn.half_squared_error()
    wrong = ChangedLoss(loss, lambda y, t: factor * loss.gradient(y, t))
    x = normal(1, (BATCH, 3))
    params, state = started(nn.dense(2), x)
    compute = jax.jit(alignment_angles(nn.dense(2), wrong))
    angles = compute(params, state, x, jnp.zeros((BATCH, 2)))
    np.testing.assert_allclose(angles["dense"], degrees, atol=1e-2)


def test_the_angle_of_a_gradient_of_zeros_is_not_a_number():
    network = nn.serial(nn.dense(3), nn.heaviside(), nn.dense(2))
    x = normal(1, (BATCH, 3))
    params, state = started(network, x)
    compute = jax.jit(alignment_angles(network, LOSS))
    angles = compute(params, state, x, jnp.zeros(BATCH, int))
    assert np.isnan(angles["0 dense"])
    assert angles["2 dense"] < 0.1
