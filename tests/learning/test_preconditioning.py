"""K-FAC against its definition: Newton's step where it is exact, Kronecker solutions elsewhere."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.learning.preconditioning import kfac
from jaxnn.training import create_state, make_epoch, make_step

BATCH, DAMPING = 3, 0.3


def test_least_squares_are_solved_by_one_step(x64):
    """There the Gauss-Newton matrix is a Kronecker product, and K-FAC is Newton's method."""
    network, loss = nn.dense(2), nn.half_squared_error()
    x, target = normal(0, (20, 4)), normal(1, (20, 2))
    params, state = started(network, x)
    transformation = kfac(network, loss, x, target, damping=1e-20, samples=None)

    @jax.jit
    def step(params):
        _, gradients = nn.backprop(network, loss)(params, state, x, target)
        arguments = (state, x, target, None, None)
        memory = transformation.init(params)
        updates, _ = transformation.update(gradients, memory, params, arguments=arguments)
        return jax.tree.map(lambda p, u: p - u, params, updates)

    design = np.concatenate([np.asarray(x), np.ones((20, 1))], 1)
    solution = np.linalg.lstsq(design, np.asarray(target), rcond=None)[0]
    assert_agree(step(params), {"weight": solution[:4], "bias": solution[4]}, 1e-7)


def damped(factors, damping):
    a, b = (np.asarray(factors[name]) for name in ("inputs", "deltas"))
    pi = np.sqrt(np.trace(a) / len(a) / (np.trace(b) / len(b)))
    root = np.sqrt(damping)
    return a + root * pi * np.eye(len(a)), b + root / pi * np.eye(len(b))


def kronecker_solution(factors, matrix):
    """The solution P of (A ⊗ B) vec(P) = vec(G), formed without A⁻¹ and B⁻¹."""
    a, b = damped(factors, DAMPING)
    return np.linalg.solve(np.kron(a, b), np.asarray(matrix).ravel()).reshape(matrix.shape)


LAYERS = {
    "dense": (lambda: nn.dense(3), (4,)),
    "dense without bias": (lambda: nn.dense(3, use_bias=False), (4,)),
    "positions": (lambda: nn.dense(3), (2, 4)),
    "conv": (lambda: nn.conv(3, (2, 3), strides=2), (4, 5, 2)),
    "grouped conv": (lambda: nn.conv(4, (2, 2), groups=2), (3, 3, 2)),
    "conv_transpose": (lambda: nn.conv_transpose(2, (3, 2), strides=2), (2, 2, 3)),
    "repeat": (lambda: nn.repeat(nn.serial(nn.conv(2, (2, 2)), nn.tanh()), 2), (3, 3, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_preconditioned_gradient_solves_the_damped_kronecker_system(name, x64):
    make, shape = LAYERS[name]
    network = nn.serial(make(), nn.layer_norm())
    loss, x = nn.half_squared_error(), normal(0, (BATCH, *shape))
    params, state = started(network, x)
    target = jnp.zeros(jax.eval_shape(network.predict, params, state, x).shape)
    transformation = kfac(network, loss, x, target, damping=DAMPING, samples=None)

    @jax.jit
    def run(params):
        result = nn.backward_pass(network, loss)(params, state, x, target)
        gradients = nn.contract(result.captures)
        arguments = (state, x, target, None, None)
        memory = transformation.init(params)
        updates, memory = transformation.update(gradients, memory, params, arguments=arguments)
        factors = statistics.kfac_factors(network, loss, samples=None)(params, *arguments)
        return result.captures, gradients, updates, factors, memory

    captures, *of_layers, memory = run(params)
    gradients, updates, factors = jax.tree.map(np.asarray, of_layers)
    assert_agree(memory.factors, factors, 1e-12)
    assert_agree(updates[1], gradients[1], 0)  # normalisation has no factors
    if name == "repeat":
        first, *layers = (
            jax.tree.map(lambda a, i=i: np.asarray(a)[i], (g[0][0][0], u[0][0][0], f[0][0][0], c))
            for i in range(2)
            for g, u, f, c in [(gradients, updates, factors, captures[0][0][0].capture)]
        )
        cases = [first, *layers]
    else:
        cases = [(gradients[0], updates[0], factors[0], captures[0])]
    for gradient, update, factor, capture in cases:
        inputs, outputs = factor["inputs"].shape, factor["deltas"].shape
        rows = inputs[-1] - ("bias" in gradient)
        # Where each element of the matrix form lies among the parameters, found by its number.
        numbers = np.arange(np.prod(inputs[:-1]) * outputs[-1], dtype=float)
        matrix = numbers.reshape(*inputs[:-1], outputs[-1])
        parameters = {"weight": matrix[..., :rows, :]}
        if "bias" in gradient:
            parameters["bias"] = matrix[..., rows, :]
        placed = jax.tree.map(lambda a: np.asarray(a, int), jax.jit(capture.fold)(parameters))
        flat = np.zeros(numbers.size)
        for key, places in placed.items():
            flat[places.ravel()] = np.asarray(gradient[key]).ravel()
        of_matrix = flat.reshape(matrix.shape)
        if len(inputs) == 3:
            pairs = [{k: v[g] for k, v in factor.items()} for g in range(inputs[0])]
            solved = np.stack([kronecker_solution(*p) for p in zip(pairs, of_matrix, strict=True)])
        else:
            solved = kronecker_solution(factor, of_matrix)
        expected = {key: solved.ravel()[places] for key, places in placed.items()}
        assert_agree(update, expected, 1e-9)


def test_averages_and_inverses_follow_their_rhythm(x64):
    network, loss = nn.dense(2), nn.half_squared_error()
    batches = [normal(i, (BATCH, 4)) for i in range(5)]
    target = jnp.zeros((BATCH, 2))
    params, state = started(network, batches[0])
    options = {"damping": DAMPING, "samples": None, "decay": 0.5}
    transformation = kfac(
        network, loss, batches[0], target, **options, factors_every=2, inverse_every=3
    )
    update = jax.jit(transformation.update)
    memory, seen = transformation.init(params), []
    for x in batches:
        arguments = (state, x, target, None, None)
        _, memory = update(params, memory, params, arguments=arguments)
        seen.append(memory)
    a = [np.asarray(x) for x in batches]
    second = [(np.c_[x, np.ones(BATCH)].T @ np.c_[x, np.ones(BATCH)]) / BATCH for x in a]
    # Weights 1, 1/2, 1/2 for the batches 0, 2 and 4.
    after_two = second[0] / 2 + second[2] / 2
    expected = [second[0], second[0], after_two, after_two, after_two / 2 + second[4] / 2]
    for one, average in zip(seen, expected, strict=True):
        assert_agree(one.factors["inputs"], average, 1e-12)
    for step, of in ((0, 0), (1, 0), (2, 0), (3, 3), (4, 3)):
        inverse = np.linalg.inv(damped(seen[of].factors, DAMPING)[0])
        assert_agree(seen[step].inverses["inputs"], inverse, 1e-9)


def test_the_norm_constraint_bounds_what_the_model_expects(x64):
    network, loss = nn.dense(2), nn.half_squared_error()
    x, target = normal(0, (BATCH, 4)), jnp.asarray(100 * np.asarray(normal(1, (BATCH, 2))))
    params, state = started(network, x)
    _, gradients = jax.jit(nn.backprop(network, loss))(params, state, x, target)
    options = {"damping": DAMPING, "samples": None}

    def expectation(**more):
        transformation = kfac(network, loss, x, target, **options, **more)
        arguments = (state, x, target, None, None)
        updates, _ = jax.jit(transformation.update)(
            gradients, transformation.init(params), params, arguments=arguments
        )
        return float(optax.tree.vdot(gradients, updates)), updates

    free, of_free = expectation()
    bound, of_bound = expectation(norm_constraint=1e-3)
    assert free > 1
    scale = np.sqrt(1e-3 / free)
    assert bound == pytest.approx(scale * free)
    assert_agree(of_bound, jax.tree.map(lambda u: scale * np.asarray(u), of_free), 1e-9)
    assert expectation(norm_constraint=1e9)[0] == free


def test_it_trains_within_the_scanned_epoch_faster_than_the_gradient_alone():
    network = nn.serial(nn.conv(4, (3, 3)), nn.relu(), nn.flatten(), nn.dense(3))
    loss = nn.softmax_cross_entropy()
    x = np.asarray(normal(0, (64, 4, 4, 1))) * np.array([0.03, 1, 1, 3])[:, None, None]
    target = jnp.asarray(np.argmax(x.reshape(64, -1)[:, :3], 1))
    x = jnp.asarray(x, jnp.float32)

    def losses(optimizer):
        train_state = create_state(network, optimizer, jax.random.key(0), x[:1])
        epoch = make_epoch(make_step(nn.backprop(network, loss), optimizer), 16)
        for _ in range(6):
            train_state, values = epoch(train_state, x, target)
        return float(values.mean())

    preconditioner = kfac(network, loss, x[:1], target[:1], damping=1e-2, inverse_every=2)
    assert losses(optax.chain(preconditioner, optax.sgd(0.1))) < losses(optax.sgd(0.1)) - 0.1


def test_an_update_without_the_batch_says_what_it_needs():
    x, target = jnp.ones((2, 3)), jnp.zeros((2, 2))
    transformation = kfac(nn.dense(2), nn.half_squared_error(), x, target, damping=0.1)
    params, _ = nn.dense(2).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="kfac: expected update to be given arguments="):
        transformation.update(params, transformation.init(params), params)


def test_a_layer_that_nothing_reaches_keeps_finite_inverses():
    network = nn.serial(nn.dense(3), nn.heaviside(), nn.dense(2))
    x, target = normal(0, (BATCH, 4), jnp.float32), jnp.zeros(BATCH, int)
    params, state = started(network, x)
    loss = nn.softmax_cross_entropy()
    transformation = kfac(network, loss, x, target, damping=DAMPING, samples=None)
    _, gradients = nn.backprop(network, loss)(params, state, x, target)
    arguments = (state, x, target, None, None)
    updates, memory = transformation.update(
        gradients, transformation.init(params), params, arguments=arguments
    )
    chex.assert_tree_all_finite((updates, memory.inverses))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "expected damping to lie in"),
        ({"damping": 0.1, "decay": 1.0}, "expected decay to lie in"),
        ({"damping": 0.1, "inverse_every": 0}, "expected inverse_every to be at least 1"),
        ({"damping": 0.1, "factors_every": 0}, "expected factors_every to be at least 1"),
        ({"damping": 0.1, "norm_constraint": -1.0}, "expected norm_constraint to lie in"),
        ({"damping": 0.1, "positions": "expanded"}, "did you mean 'expand'"),
    ],
)
def test_wrong_options_are_named(options, message):
    x, target = jnp.ones((2, 3)), jnp.zeros((2, 2))
    with pytest.raises(ValueError, match=message):
        kfac(nn.dense(2), nn.half_squared_error(), x, target, **options)


@pytest.mark.parametrize(
    ("network", "loss", "message"),
    [
        (nn.tanh(), nn.half_squared_error(), "expected a network with a linear map, tanh has none"),
        (nn.dense(3), nn.sum_absolute_error(), "expected a loss with hessian_root"),
        (nn.serial(nn.dense(3), nn.batch_norm()), nn.half_squared_error(), "mixes the examples"),
    ],
)
def test_what_has_no_factors_is_refused(network, loss, message):
    with pytest.raises(ValueError, match=message):
        kfac(network, loss, jnp.ones((2, 3)), jnp.zeros((2, 3)), damping=0.1)
