"""Gradients from a share of the rows: the right mean, and the variance that is predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.rewrites.sampled import sample, variance

LOSS = nn.softmax_cross_entropy()
NETWORK = nn.serial(
    nn.conv(2, (3, 3)), nn.relu(), nn.flatten(), nn.dense(5), nn.tanh(), nn.dense(3)
)
IMAGES, LABELS = normal(0, (6, 4, 4, 2), np.float32), jnp.arange(6) % 3
DRAWS = 10_000


@pytest.mark.parametrize("by", ["uniform", "norm", "winner"])
def test_the_mean_is_right_and_the_variance_as_predicted(by):
    network = nn.sampled(NETWORK, 0.4, by)
    params, state = started(network, IMAGES)
    gradient = nn.backprop(network, LOSS)
    arguments = params, state, IMAGES, LABELS
    exact = jax.jit(nn.backprop(NETWORK, LOSS))(*arguments)[1]
    predicted = jax.jit(nn.sampling_variance(NETWORK, LOSS, 0.4, by))(*arguments)

    def error(key):
        return jax.tree.map(jnp.subtract, gradient(*arguments, key)[1], exact)

    keys = jax.random.split(jax.random.key(1), DRAWS)
    errors = jax.jit(lambda keys: jax.lax.map(error, keys, batch_size=1000))(keys)
    for own, foretold in zip(errors, predicted, strict=True):
        if not own:
            continue
        weight = np.asarray(own["weight"], float).reshape(DRAWS, -1)
        direction = np.random.default_rng(0).normal(size=weight.shape[1])
        along = weight @ direction
        assert abs(along.mean()) < 3 * along.std() / np.sqrt(DRAWS)
        squares = np.sum(weight**2, 1)
        assert abs(squares.mean() - foretold["weight"]) < 3 * squares.std() / np.sqrt(DRAWS)
        assert np.max(np.abs(own["bias"])) < 1e-6


def test_the_share_follows_its_schedule_and_the_mean_stays_right():
    schedule = ((0, 1.0), (2, 0.5), (3, 0.3))
    network = nn.serial(nn.sampled(nn.serial(nn.dense(5), nn.tanh()), schedule, "uniform"))
    x, key = normal(0, (6, 4), np.float32), jax.random.key(0)
    params, state = started(network, x)
    exact = jax.jit(nn.backprop(network, nn.mean_squared_error()))
    target = normal(1, (6, 5), np.float32)
    gradient = nn.backprop(network, nn.mean_squared_error())
    whole = exact(params, state, x, target, key)[1]

    def error(state, key):
        (_, state), own = gradient(params, state, x, target, key)
        return state, own[0][0]["weight"] - whole[0][0]["weight"]

    @jax.jit
    def errors(state, keys):
        return jax.lax.map(lambda key: error(state, key)[1], keys, batch_size=1000)

    step = jax.jit(error)
    for count, share in enumerate((1.0, 1.0, 0.5, 0.3, 0.3)):
        state, own = step(state, jax.random.fold_in(key, count))
        assert int(state[0][0].step) == count + 1
        assert (np.abs(np.asarray(own)).max() < 1e-6) == (share == 1)
    for count in (2, 3):
        at = jax.tree.map(lambda a, c=count: jnp.full_like(a, c), state)
        found = np.asarray(errors(at, jax.random.split(key, DRAWS)), float).reshape(DRAWS, -1)
        along = found @ np.random.default_rng(0).normal(size=found.shape[1])
        assert abs(along.mean()) < 3 * along.std() / np.sqrt(DRAWS)
        foretold = nn.sampling_variance(
            nn.serial(nn.dense(5), nn.tanh()),
            nn.mean_squared_error(),
            schedule[count - 1][1],
            "uniform",
        )(params[0], ((), ()), x, target)[0]["weight"]
        squares = np.sum(found**2, 1)
        assert abs(squares.mean() - foretold) < 3 * squares.std() / np.sqrt(DRAWS)


def test_winner_is_never_worse_than_norm_and_norm_not_than_uniform():
    inputs, deltas = normal(0, (64, 4)), normal(1, (64, 3)) ** 5
    capture = nn.LinearCapture(inputs, deltas)
    uniform, norm, winner = (float(variance(capture, 0.2, by)) for by in RULES)
    assert winner < norm < uniform


RULES = ("uniform", "norm", "winner")


@pytest.mark.parametrize("by", RULES)
def test_all_rows_give_the_gradient_itself_and_no_product_none(by):
    network = nn.sampled(NETWORK, 1.0, by)
    params, state = started(network, IMAGES)
    key = jax.random.key(0)
    run = jax.jit(
        lambda: [
            nn.backprop(n, LOSS)(params, state, IMAGES, LABELS, key)[1] for n in (network, NETWORK)
        ]
    )
    assert_agree(*run(), 1e-5)
    layer, x = nn.sampled(nn.dense(3), 0.3, by), normal(0, (6, 4), np.float32)
    params, state = started(layer, x)
    y, _, residuals = layer.forward(params, state, x, key)
    gradients = nn.contract(layer.backward(params, residuals, 0 * y)[1])
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("by", RULES)
def test_where_fewer_rows_count_than_are_taken_winner_takes_them_all(by):
    inputs, deltas = normal(0, (8, 3), np.float32), normal(1, (8, 2), np.float32)
    deltas = deltas.at[2:].set(0)
    exact = inputs.T @ deltas

    def error(key):
        rows, factors = sample(inputs, deltas, 0.5, by, key)
        return (inputs[rows] * factors[:, None]).T @ deltas[rows] - exact

    errors = np.asarray(jax.vmap(error)(jax.random.split(jax.random.key(0), 2000)))
    if by == "winner":
        assert np.max(np.abs(errors)) < 1e-5
    assert np.all(np.abs(errors.mean(0)) < 4 * errors.std(0) / np.sqrt(2000) + 1e-5)


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_under_a_policy_sums_are_not_rounded_to_half_precision(compute):
    inside = nn.serial(nn.dense(8), nn.tanh(), nn.dense(3))
    networks = [
        nn.with_precision(n, nn.Policy(compute=compute)) for n in (inside, nn.sampled(inside, 1.0))
    ]
    x, key = normal(0, (256, 4), np.float32), jax.random.key(0)
    params, state = started(networks[0], x)
    own, sampled = (
        nn.backprop(n, LOSS)(params, state, x, jnp.arange(256) % 3, key)[1] for n in networks
    )
    assert_agree(sampled, own, 1e-5)


def test_the_variance_is_predicted_for_every_copy_in_a_repeat():
    block = nn.serial(nn.dense(4), nn.tanh())
    stacked = nn.serial(nn.repeat(block, 2), nn.dense(3))
    x, labels = normal(0, (6, 4), np.float32), jnp.arange(6) % 3
    params, state = started(stacked, x)
    found = nn.sampling_variance(stacked, LOSS, 0.4)(params, state, x, labels)
    copies = [jax.tree.map(lambda a, i=i: a[i], params[0][0]) for i in range(2)]
    apart, none = nn.serial(block, block, nn.dense(3)), (((), ()), ((), ()), ())
    one, two, last = nn.sampling_variance(apart, LOSS, 0.4)((*copies, params[1]), none, x, labels)
    expected = jnp.stack([one[0]["weight"], two[0]["weight"]])
    assert_agree(found[0][0][0]["weight"], expected, 1e-5)
    assert_agree(found[1], last, 1e-5)


def test_y_and_dx_are_exact_and_at_rest_so_is_everything():
    network = nn.sampled(nn.serial(nn.dense(4), nn.dropout(0.3), nn.dense(3)), 0.2)
    x, key = normal(0, (6, 4), np.float32), jax.random.key(3)
    params, state = started(network, x)
    found = []
    for own in (network, nn.plain(network)):
        y, _, residuals = own.forward(params, state, x, key)
        found.append((y, own.backward(params, residuals, jnp.cos(y))[0]))
    assert_agree(*found, 1e-6)
    assert nn.in_inference_mode(network) == nn.serial(nn.dense(4), nn.identity(), nn.dense(3))


def test_what_cannot_be_done_is_refused(untyped):
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"sampled: expected share to lie in \(0, 1\]"):
            nn.sampled(NETWORK, share)
    for schedule in ((), ((1, 0.5),), ((0, 0.5), (0, 0.2)), (0.5, 0.2)):
        with pytest.raises(ValueError, match="begins at step 0, with rising steps, got"):
            nn.sampled(NETWORK, schedule)
    with pytest.raises(ValueError, match=r"sampled: expected .*share.* to lie in \(0, 1\]"):
        nn.sampled(NETWORK, ((0, 1.5),))
    with pytest.raises(ValueError, match=r"sampled: unknown by .best"):
        nn.sampled(NETWORK, 0.5, "best")
    network, x = nn.sampled(nn.dense(3)), normal(0, (6, 4), np.float32)
    params, state = started(network, x)
    with pytest.raises(ValueError, match="sampled: expected key to be a random key"):
        network.forward(params, state, x, None)
    norms = statistics.per_example_squared_norms(network, LOSS)
    with pytest.raises(ValueError, match="dense"):
        norms(params, state, x, LABELS, jax.random.key(0))
