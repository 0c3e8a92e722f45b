"""The Kronecker operator and its functions against dense linear algebra, for many layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from jax.flatten_util import ravel_pytree
from samples import LAYERS, NETWORKS

import jaxnn as nn
from jaxnn import interop, statistics
from jaxnn.core.captures import map_captures
from jaxnn.statistics.blocks import Diagonal, from_matrix

SAMPLES = {name: (LAYERS | NETWORKS)[name] for name in (
    "conv_transpose",
    "conv_relu_max_pool",
    "embedding",
    "bilinear",
    "group_norm",
    "attention",
    "weight_norm",
)}  # fmt: skip
SAMPLES["share"] = (
    nn.serial(nn.fork(nn.tanh(), nn.sigmoid()), nn.share(nn.dense(3, use_bias=False)), nn.add()),
    LAYERS["dense"][1],
)
SAMPLES["groups that are repeated"] = (
    nn.serial(nn.repeat(nn.serial(nn.conv(4, (2, 2), groups=2), nn.tanh()), 2), nn.layer_norm()),
    normal(0, (4, 3, 3, 4), np.float32),
)
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0])
DAMPING = 0.3
LOSS = nn.half_squared_error()


def problem(name):
    network, x = SAMPLES[name]
    x = jax.tree.map(lambda a: a.astype(float) if jnp.issubdtype(a.dtype, jnp.floating) else a, x)
    params, state = started(network, x)
    prediction = jax.eval_shape(network.predict, params, state, x)
    return network, params, state, x, normal(9, prediction.shape)


def placed(operator, function):
    """[parameters, parameters], what ``function`` of each block says in matrix form, [m n, m n], in
    the places that the elements of the matrix have in the parameters."""
    sizes = jax.tree.map(lambda s: int(np.prod(s.shape)), operator.parameters())
    total = sum(jax.tree.leaves(sizes))
    flat = np.zeros((total, total))
    numbers = ravel_pytree(jax.tree.map(jnp.zeros_like, operator.diagonal()))[1](
        jnp.arange(total, dtype=float)
    )

    def place(capture, block, own):
        if isinstance(block, Diagonal):
            where = np.concatenate([np.ravel(own[name]) for name in sorted(own)]).astype(int)
            values = np.concatenate([np.ravel(block.values[name]) for name in sorted(own)])
            flat[np.ix_(where, where)] = function(values)
            return
        matrices = block.shape[:-2]
        count = int(np.prod(block.shape))
        order = jnp.arange(count, dtype=float).reshape(block.shape)
        folded = from_matrix(capture, block, order)
        places = np.zeros(count, int)
        for key in folded:
            places[np.ravel(folded[key]).astype(int)] = np.ravel(own[key]).astype(int)
        places = places.reshape(*matrices, -1)
        for index in np.ndindex(matrices):
            one = jax.tree.map(lambda a, index=index: np.asarray(a)[index], block)
            flat[np.ix_(places[index], places[index])] = function(one)

    map_captures(place, operator._captures(), operator.blocks, numbers)
    return flat


def kron(block):
    return np.diag(block) if isinstance(block, np.ndarray) else np.kron(block.inputs, block.deltas)


def vectors_of(block):
    return np.eye(len(block)) if isinstance(block, np.ndarray) else kron(block)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_operator_and_its_functions_are_those_of_the_dense_matrix(name, x64):
    network, params, state, x, target = problem(name)

    def everything(params, state, x, target, weights):
        operator = statistics.kronecker(network, LOSS, empirical=True)(
            params, state, x, target, weights=weights
        )
        inverse = operator.inverse(DAMPING)
        corrected = statistics.ekfac(network, LOSS, empirical=True)(
            params, state, x, target, weights=weights, operator=operator
        )
        gradients = statistics.per_example_gradients(nn.plain(network), LOSS)(
            params, state, x, target
        )
        return {
            "operator": operator,
            "eigen": operator.eigh(),
            "corrected": corrected,
            "gradients": jax.vmap(lambda g: ravel_pytree(g)[0])(gradients),
            "dense": operator.dense(),
            "product": ravel_pytree(operator @ params)[0],
            "diagonal": ravel_pytree(operator.eigh().diagonal())[0],
            "inverse": ravel_pytree(inverse @ params)[0],
            "heuristic": operator.inverse(DAMPING, "heuristic").dense(),
            "root": ravel_pytree(operator.sqrt() @ params)[0],
            "numbers": [
                operator.logdet(DAMPING),
                operator.trace(),
                corrected.trace(),
                inverse.trace(),
                operator.scaled(2.0).trace(),
            ],
            "dense corrected": corrected.dense(),
        }

    found = jax.jit(everything)(params, state, x, target, jnp.asarray(WEIGHTS))
    operator, vector = found["operator"], np.asarray(ravel_pytree(params)[0])
    dense = placed(operator, kron)
    size = len(dense)
    shares = WEIGHTS / WEIGHTS.sum()
    fisher = np.einsum("b,bi,bj->ij", shares, found["gradients"], found["gradients"])
    values, vectors = np.linalg.eigh(dense)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    damped = dense + DAMPING * np.eye(size)

    assert_agree(found["dense"], dense, 1e-9)
    assert_agree(found["product"], dense @ vector, 1e-9)
    assert_agree(found["diagonal"], np.diag(dense).copy(), 1e-9)
    assert_agree(found["inverse"], np.linalg.solve(damped, vector), 1e-9)
    assert np.abs(found["root"] - root @ vector).max() < 1e-6 * np.abs(root @ vector).max()

    # The eigenvectors of the blocks; along them the second moments of the gradients.
    basis = placed(
        found["eigen"], lambda b: np.eye(len(b)) if isinstance(b, np.ndarray) else kron(b)
    )
    moments = np.einsum("ik,ij,jk->k", basis, fisher, basis)
    assert_agree(basis.T @ basis, np.eye(size), 1e-9)
    corrected = (basis * moments) @ basis.T
    assert_agree(found["dense corrected"], corrected, 1e-9)
    numbers = [
        np.linalg.slogdet(damped)[1],
        np.trace(dense),
        np.trace(fisher),
        np.trace(np.linalg.inv(damped)),
        2 * np.trace(dense),
    ]
    assert_agree(np.asarray(found["numbers"]), np.asarray(numbers), 1e-9)

    def heuristic(block):
        if isinstance(block, np.ndarray):
            return np.diag(1 / (block + DAMPING))
        a, b = block.inputs, block.deltas
        traces = np.trace(a) / len(a), np.trace(b) / len(b)
        pi = np.sqrt(traces[0] / traces[1]) if min(traces) > 0 else 1.0
        a, b = (
            a + np.sqrt(DAMPING) * pi * np.eye(len(a)),
            b + np.sqrt(DAMPING) / pi * np.eye(len(b)),
        )
        return np.kron(np.linalg.inv(a), np.linalg.inv(b))

    assert_agree(found["heuristic"], placed(operator, heuristic), 1e-9)


NETWORK = nn.serial(nn.conv(2, (2, 2)), nn.tanh(), nn.flatten(), nn.dense(3), nn.layer_norm())
LABELS = jnp.array([0, 2, 1, 1, 0])
OF_IMAGES = np.array([1.0, 0.5, 2.0, 0.0, 1.5])
ENTROPY = nn.softmax_cross_entropy()


def images():
    x = normal(1, (5, 3, 3, 1))
    return *started(NETWORK, x), x, LABELS


@pytest.mark.parametrize("positions", ["expand", "reduce"])
def test_of_many_batches_it_is_that_of_all_examples(positions, x64):
    params, state, x, target = images()
    compute = statistics.kronecker(NETWORK, ENTROPY, positions=positions)
    whole = jax.jit(compute)(params, state, x, target, None, OF_IMAGES)
    batches = [*statistics.blocks(x, target, 2, OF_IMAGES)]
    assert [len(batch[0]) for batch in batches] == [2, 2, 2]
    parts = statistics.over_batches(compute)(params, state, batches)
    assert_agree(parts.blocks, whole.blocks, 1e-12)
    assert parts.layout == whole.layout


def test_its_correction_over_batches_is_that_of_the_gauss_newton_matrix(x64):
    params, state, x, target = images()
    batches = [*statistics.blocks(x, target, 2, OF_IMAGES)]
    whole = statistics.over_batches(statistics.kronecker(NETWORK, ENTROPY))(params, state, batches)
    correct = statistics.over_batches(statistics.ekfac(NETWORK, ENTROPY))
    corrected = correct(params, state, batches, operator=whole.eigh())
    ggn = jax.jit(statistics.fisher_information(NETWORK, ENTROPY))(
        params, state, x, target, None, OF_IMAGES
    )
    basis = placed(whole.eigh(), vectors_of)
    moments = np.einsum("ik,ij,jk->k", basis, np.asarray(ggn), basis)
    assert_agree(corrected.dense(), (basis * moments) @ basis.T, 1e-9)
    traces = corrected.trace(per_layer=True)
    assert_agree(sum(jax.tree.leaves(traces)), np.trace(ggn), 1e-9)
    assert len(jax.tree.leaves(traces)) == 3


def test_of_one_example_at_one_position_it_is_the_gauss_newton_matrix(x64):
    network, loss = nn.dense(3), nn.softmax_cross_entropy()
    x, target = normal(0, (1, 4)), jnp.array([2])
    params, state = started(network, x)

    @jax.jit
    def dense(*arguments):
        exact = statistics.kronecker(network, loss)(*arguments)
        sampled = statistics.kronecker(network, loss, samples=4000)(*arguments)
        ggn = statistics.fisher_information(network, loss)(*arguments)
        return ggn, exact.dense(), sampled.dense()

    ggn, exact, sampled = dense(params, state, x, target, jax.random.key(0))
    assert_agree(exact, ggn, 1e-10)
    assert_agree(sampled, ggn, 5 / np.sqrt(4000))


def test_of_a_function_of_jax_it_is_that_of_the_same_layer(x64):
    network, loss = nn.serial(nn.dense(3), nn.tanh(), nn.dense(2)), nn.half_squared_error()
    x, target = normal(0, (4, 3)), normal(1, (4, 2))
    params, state = started(network, x)

    def function(tree, example):
        hidden = jnp.tanh(tree["in"].T @ example[0] + tree["b"])
        difference = hidden @ tree["out"] + tree["c"] - example[1]
        return jnp.sum(difference**2) / 2

    first, _, last = params
    tree = {"in": first["weight"], "b": first["bias"], "out": last["weight"], "c": last["bias"]}

    @jax.jit
    def both(tree, params):
        _, captures = interop.captures(function)(tree, (x, target))
        operator = statistics.kronecker.of(captures).inverse(DAMPING)
        own = statistics.kronecker(network, loss, empirical=True)(params, state, x, target)
        return operator @ tree, own.inverse(DAMPING) @ params

    found, (first, _, last) = both(tree, params)
    expected = {"in": first["weight"], "b": first["bias"], "out": last["weight"], "c": last["bias"]}
    assert_agree(found, expected, 1e-9)


def test_what_does_not_fit_is_refused_by_name(untyped):
    params, state, x, target = images()
    loss, other = nn.softmax_cross_entropy(), nn.dense(3)
    small = normal(0, (4, 2))
    compute = statistics.kronecker(other, loss, empirical=True)
    operator = jax.eval_shape(compute, *started(other, small), small, LABELS[:4])
    for damping in (0, -1.0, jnp.array(0.0)):
        with pytest.raises(ValueError, match="damping"):
            operator.inverse(damping)
    with pytest.raises(ValueError, match="damping"):
        operator.logdet(0.0)
    with pytest.raises(ValueError, match="method"):
        operator.inverse(0.1, "exakt")
    with pytest.raises(ValueError, match="eigenvalues, which are no products"):
        jax.eval_shape(lambda o: o.eigh().inverse(0.1, "heuristic"), operator)
    with pytest.raises(ValueError, match=r"shape \(3,\) at \['bias'\], got nothing"):
        operator @ params
    with pytest.raises(ValueError, match=r"damping to be one number, got shape \(2,\)"):
        operator.inverse(jnp.array([0.1, 0.2]))
    with pytest.raises(TypeError, match="every array of the vector to be floating-point"):
        operator @ {"weight": jnp.ones((2, 3), int), "bias": jnp.ones(3, int)}
    ekfac, wide = statistics.ekfac(other, loss), normal(0, (4, 5))
    with pytest.raises(ValueError, match=r"shapes \[\(3,\), \(2, 3\)\], got \[\(3,\), \(5, 3\)\]"):
        ekfac(*started(other, wide), wide, LABELS[:4], operator=operator)
    with pytest.raises(ValueError, match="captures of the network of the operator"):
        statistics.ekfac(NETWORK, loss, empirical=True)(params, state, x, target, operator=operator)
    with pytest.raises(ValueError, match="samples=None with empirical=True"):
        statistics.kronecker(NETWORK, loss, empirical=True, samples=3)
    with pytest.raises(ValueError, match="hessian_root"):
        statistics.kronecker(other, nn.sum_absolute_error())
    with pytest.raises(ValueError, match="network with parameters"):
        jax.eval_shape(statistics.kronecker(nn.tanh(), loss), (), (), small, LABELS[:4] % 2)
    compute = statistics.diagonal_curvature(nn.tanh(), loss)
    with pytest.raises(ValueError, match="diagonal_curvature: expected a network with parameters"):
        jax.eval_shape(compute, (), (), small, LABELS[:4] % 2)
    mixing = nn.serial(nn.batch_norm(), nn.dense(3))
    shapes = jax.eval_shape(mixing.init, jax.random.key(0), small)
    with pytest.raises(ValueError, match="mixes the examples"):
        jax.eval_shape(statistics.kronecker(mixing, loss), *shapes, small, LABELS[:4])
    with pytest.raises(ValueError, match="at least one example"):
        statistics.over_batches(statistics.kronecker(other, loss))(params, state, [])
    with pytest.raises(ValueError, match="target of the 4 examples"):
        statistics.blocks(small, LABELS, 2)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_of_half_precision_are_counted_beyond_what_it_holds(dtype):
    """257 ones are 256 in bfloat16, and 65,536 of them infinite in float16."""
    x, target = jnp.ones((66_000, 1), dtype), jnp.arange(66_000.0) % 5

    def mean(params, state, x, target, key, weights):
        return jnp.mean(target, where=weights > 0)

    mean = statistics.over_batches(mean)((), (), statistics.blocks(x, target, 65_537))
    assert_agree(mean, jnp.mean(target), 1e-5)
