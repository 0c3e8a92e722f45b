"""Influence scores over data against their definition by autodiff and dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from jax.flatten_util import ravel_pytree

import jaxnn as nn
from jaxnn import statistics

DAMPING = 0.2
LOSS = nn.softmax_cross_entropy()
NETWORK = nn.serial(
    nn.conv(4, (2, 2), groups=2), nn.tanh(), nn.flatten(), nn.layer_norm(), nn.dense(3)
)
WORDS = nn.serial(nn.embedding(6, 4), nn.repeat(nn.serial(nn.dense(4), nn.tanh()), 2), nn.dense(3))


def images(seed, count):
    labels = np.random.default_rng(seed).integers(0, 3, count)
    return normal(seed, (count, 2, 2, 2)), jnp.asarray(labels)


def words(seed, count):
    generator = np.random.default_rng(seed)
    return tuple(jnp.asarray(generator.integers(0, high, (count, 4))) for high in (6, 3))


def gradients(network, params, state, data):
    """[batch, parameters], by autodiff."""
    flat, unravel = ravel_pytree(params)

    def own_loss(flat, x, target):
        prediction = network.forward(unravel(flat), state, x[None], None)[0]
        return LOSS.value(prediction, target[None])[0]

    return np.asarray(jax.jit(jax.vmap(jax.grad(own_loss), (None, 0, 0)))(flat, *data))


@pytest.mark.parametrize("make", [images, words], ids=["images", "words"])
def test_scores_are_products_of_gradients_whatever_stands_between(make, x64):
    network = NETWORK if make is images else WORDS
    queries, training = make(0, 5), make(1, 5)
    params, state = started(network, training[0])
    asked, learnt = (gradients(network, params, state, data) for data in (queries, training))

    @jax.jit
    def made(*arguments):
        compute = statistics.kronecker(network, LOSS, empirical=True)
        factors = compute(*arguments)
        correct = statistics.ekfac(network, LOSS, empirical=True)
        corrected = correct(*arguments, operator=factors)
        operators = {
            "factors": factors.inverse(DAMPING, "heuristic"),
            "eigenvalues": corrected.inverse(DAMPING),
        }
        return operators, {name: one.dense() for name, one in operators.items()}

    operators, matrices = made(params, state, *training)
    if make is images:
        operators["none"], matrices["none"] = None, np.eye(asked.shape[1])
    # So little memory that two queries and a few examples are taken at a time.
    compute = statistics.influence_scores(network, LOSS, memory=12_000)
    own = statistics.self_influence(network, LOSS, memory=12_000)
    for name, operator in operators.items():
        matrix = np.asarray(matrices[name])
        scores = compute(params, state, queries, training, operator=operator)
        assert_agree(scores, -asked @ matrix @ learnt.T, 1e-9)
        itself = own(params, state, training, operator=operator)
        assert_agree(itself, np.einsum("bi,ij,bj->b", learnt, matrix, learnt), 1e-9)


def test_by_conjugate_gradients_they_are_those_of_the_gauss_newton_matrix(x64):
    network = nn.serial(nn.dense(2), nn.tanh(), nn.dense(3))
    x, target = normal(0, (5, 2)), jnp.array([0, 1, 1, 2, 0])
    params, state = started(network, x)
    learnt = gradients(network, params, state, (x, target))
    ggn = jax.jit(statistics.fisher_information(network, LOSS))(params, state, x, target)
    inverse = np.linalg.inv(ggn + DAMPING * np.eye(len(ggn)))
    options = {"damping": DAMPING, "tolerance": 1e-13}
    operator = statistics.GgnInverse(network, LOSS, params, state, x, target, block=2, **options)
    compute = statistics.influence_scores(network, LOSS)
    scores = compute(params, state, (x[:2], target[:2]), (x, target), operator=operator)
    assert_agree(scores, -learnt[:2] @ inverse @ learnt.T, 1e-9)
    own = statistics.self_influence(network, LOSS)(params, state, (x, target), operator=operator)
    assert_agree(own, np.einsum("bi,ij,bj->b", learnt, inverse, learnt), 1e-9)


def test_parts_of_positions_add_up_and_are_those_of_the_position_alone(x64):
    queries, training = words(0, 2), words(1, 3)
    params, state = started(WORDS, training[0])
    operator = statistics.kronecker(WORDS, LOSS, empirical=True)(params, state, *training).inverse(
        DAMPING
    )
    compute = statistics.influence_scores(WORDS, LOSS, per_position=True, memory=50_000)
    parts = compute(params, state, queries, training, operator=operator)
    whole = statistics.influence_scores(WORDS, LOSS)
    scores = whole(params, state, queries, training, operator=operator)
    assert parts.shape == (2, 3, 4)
    assert_agree(parts.sum(-1), scores, 1e-9)
    # Every layer acts on a word by itself, so that a part is the gradient of that word's loss.
    alone = whole(
        params, state, queries, (training[0][:, 2:3], training[1][:, 2:3]), operator=operator
    )
    assert_agree(parts[..., 2], alone / 4, 1e-9)


def test_products_of_random_features_are_those_of_gradients_in_the_mean(x64):
    queries, training = words(0, 5), words(1, 5)
    params, state = started(WORDS, training[0])
    asked, learnt = (gradients(WORDS, params, state, data) for data in (queries, training))

    @jax.jit
    def mean_products(keys):
        def products(key):
            features = statistics.projected_gradients(WORDS, LOSS, size=8, key=key)
            sides = (features(params, state, *data) for data in (queries, training))
            return jnp.matmul(next(sides), next(sides).T)

        return jnp.mean(jax.lax.map(products, keys), 0)

    found = mean_products(jax.random.split(jax.random.key(0), 400))
    norms = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(learnt, axis=1)
    assert np.all(np.abs(found - asked @ learnt.T) < 0.15 * norms)


def test_scores_of_random_features_are_those_of_their_fisher_matrix(x64):
    queries, training, key = images(0, 5), images(1, 5), jax.random.key(1)
    params, state = started(NETWORK, training[0])
    features = jax.jit(statistics.projected_gradients(NETWORK, LOSS, size=3, key=key))
    a, b = (np.asarray(features(params, state, *data)) for data in (queries, training))
    solved = np.linalg.solve(b.T @ b / len(b) + DAMPING * np.eye(b.shape[1]), b.T)
    compute = statistics.trak(NETWORK, LOSS, size=3, damping=DAMPING, memory=12_000)
    assert_agree(compute(params, state, queries, training, key), -a @ solved, 1e-9)


def test_what_cannot_be_scored_is_refused(untyped):
    params, state = started(NETWORK, images(0, 1)[0])
    compute = statistics.influence_scores(NETWORK, LOSS, per_position=True)
    with pytest.raises(ValueError, match="per_position=True, got a ConvCapture"):
        compute(params, state, images(0, 2), images(1, 2))
    compute = statistics.influence_scores(NETWORK, LOSS)
    with pytest.raises(TypeError, match="operator to be None or to have a method matvec"):
        compute(params, state, images(0, 2), images(1, 2), operator=3)
    with pytest.raises(TypeError, match=r"queries to be a tuple \(x, target\)"):
        compute(params, state, images(0, 2)[0], images(1, 2))
    with pytest.raises(ValueError, match="training to hold at least one example"):
        compute(params, state, images(0, 2), images(1, 0))
    with pytest.raises(ValueError, match="memory"):
        statistics.influence_scores(NETWORK, LOSS, memory=0)
    with pytest.raises(ValueError, match="block"):
        statistics.GgnInverse(NETWORK, LOSS, params, state, *images(0, 2), damping=0.1, block=0)
    with pytest.raises(ValueError, match="damping"):
        statistics.trak(NETWORK, LOSS, size=3, damping=0.0)
    with pytest.raises(ValueError, match=r"trak: expected .*key"):
        statistics.trak(NETWORK, LOSS, size=3, damping=0.1)(
            params, state, images(0, 2), images(1, 2), None
        )
    # Of an operator that has no bias, nothing would have been said of the network's.
    for layer in (nn.dense(3, use_bias=False), nn.serial(nn.dense(3)), nn.dense(4)):
        x, target = normal(0, (2, 5)), jnp.array([0, 1])
        operator = statistics.kronecker(layer, LOSS)(*started(layer, x), x, target)
        asked = (*started(nn.dense(3), x), (x, target))
        for compute, given in (
            (statistics.influence_scores(nn.dense(3), LOSS), (*asked, (x, target))),
            (statistics.self_influence(nn.dense(3), LOSS), asked),
        ):
            with pytest.raises(ValueError, match="captures of the network of the operator"):
                compute(*given, operator=operator.inverse(0.1))
    with pytest.raises(ValueError, match="self_influence: expected a network with parameters"):
        statistics.self_influence(nn.tanh(), LOSS)((), (), (x, target))
    rows = nn.serial(nn.dense(3), nn.batch_norm())
    x, target = normal(0, (2, 3)), jnp.array([0, 1])
    with pytest.raises(ValueError, match="mixes the examples"):
        statistics.influence_scores(rows, LOSS)(*started(rows, x), (x, target), (x, target))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_by_conjugate_gradients_half_precision_is_solved_in_single(dtype):
    network = nn.serial(nn.dense(3), nn.tanh(), nn.dense(3))
    x, target = normal(0, (6, 4), dtype), jnp.arange(6) % 3
    params, state = network.init(jax.random.key(0), x)
    found = []
    scores = statistics.influence_scores(network, LOSS)
    influence = statistics.influence(network, LOSS, damping=0.1)
    for own, of in ((params, x), (jax.tree.map(jnp.float32, params), jnp.float32(x))):
        solver = statistics.GgnInverse(network, LOSS, own, state, of, target, damping=0.1, block=3)
        found.append(scores(own, state, (of, target), (of, target), operator=solver))
        found.append(influence(own, state, *2 * (of, target)))
    half_scores, half_influence, exact_scores, exact_influence = map(np.asarray, found)
    tolerance = 8 * float(jnp.finfo(dtype).eps)
    assert_agree(half_scores, exact_scores, tolerance)
    assert_agree(np.float32(half_influence), exact_influence, tolerance)
