"""Losses of tuples of vectors, each example by itself or told from the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, differentiated, initialized, normal, value_and_gradient

import jaxnn as nn
from jaxnn import statistics
from jaxnn.learning import privacy

VECTORS = tuple(normal(seed, (4, 3)) for seed in range(3))
SIGNS = jnp.array([1, -1, -1, 1])
CASES = {
    "cosine_embedding": (nn.cosine_embedding(-0.5), VECTORS[:2], SIGNS),
    "triplet_margin": (nn.triplet_margin(), VECTORS, None),
    "triplet_margin swapped": (nn.triplet_margin(3.0, 1.5, swap=True), VECTORS, None),
    "contrastive": (nn.contrastive(0.3), VECTORS[:2], None),
    "contrastive of some": (
        nn.contrastive(0.3, symmetric=True),
        VECTORS[:2],
        jnp.array([True, True, False, True]),
    ),
}


def double(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, float), tree)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_autodiff(name, x64):
    loss, prediction, target = CASES[name]
    prediction = double(prediction)
    factors = jnp.array([1.0, 0.0, -2.0, 0.5])

    @jax.jit
    def run(prediction):
        def total(p):
            return jnp.sum(loss.value(p, target) * factors)

        found = loss.weighted(prediction, target, factors)
        return found, (loss.value(prediction, target), jax.grad(total)(prediction))

    assert_agree(*run(prediction), 1e-10)
    found = value_and_gradient(loss, prediction, target)
    assert_agree(found, differentiated(loss.value, prediction, target), 1e-10)
    assert_agree(value_and_gradient.__wrapped__(loss, prediction, target), found, 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_has_no_values(name):
    loss, prediction, target = CASES[name]
    prediction, target = jax.tree.map(lambda a: a[:0], (prediction, target))
    value, gradient = value_and_gradient(loss, prediction, target)
    assert value.shape == (0,)
    assert all(g.shape == (0, 3) for g in gradient)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_vectors_of_any_length_have_finite_losses_and_gradients(name, scale):
    loss, prediction, target = CASES[name]
    prediction = jax.tree.map(lambda a: jnp.asarray(scale * a, jnp.float32), prediction)
    found = value_and_gradient(loss, prediction, target)
    by_autodiff = differentiated(loss.value, prediction, target)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(by_autodiff), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name", ["cosine_embedding", "contrastive"])
def test_vectors_whose_squares_are_no_float32_have_the_angles_that_they_have(name):
    loss, prediction, target = CASES[name]
    prediction = jax.tree.map(jnp.float32, prediction)
    value, gradient = value_and_gradient(loss, prediction, target)
    large = jax.tree.map(lambda a: a * jnp.float32(2.0**100), prediction)
    of_large, by_large = value_and_gradient(loss, large, target)
    np.testing.assert_allclose(of_large, value, rtol=1e-6)
    for a, b in zip(by_large, gradient, strict=True):
        np.testing.assert_allclose(2.0**100 * a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_equal_vectors_have_the_distance_and_the_slope_0(p):
    loss, same = nn.triplet_margin(1.0, p, delta=0.0), (jnp.ones((2, 3)),) * 3
    for value, gradient in (
        value_and_gradient(loss, same, None),
        differentiated(loss.value, same, None),
    ):
        np.testing.assert_array_equal(value, [1, 1])
        assert not np.any(gradient)


def test_at_the_margin_the_slope_is_0():
    a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    found = value_and_gradient(nn.cosine_embedding(), (a, b), jnp.array([-1]))
    assert not np.any(jax.tree.leaves(found)[1:])
    apart = (a, a, a + jnp.array([[2.0, 0.0]]))
    value, gradient = value_and_gradient(nn.triplet_margin(2.0, delta=0.0), apart, None)
    assert value == 0
    assert not np.any(gradient)


def test_labels_of_8_bits_and_numbers_say_the_same():
    loss, pair = nn.cosine_embedding(), jax.tree.map(jnp.float32, VECTORS[:2])
    expected = value_and_gradient(loss, pair, SIGNS)
    for target in (SIGNS.astype(jnp.int8), SIGNS.astype(jnp.float32)):
        found = value_and_gradient(loss, pair, target)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "error", "message"),
    [
        (nn.cosine_embedding(), VECTORS[0], SIGNS, TypeError, r"a tuple \(first, second\), got"),
        (nn.cosine_embedding(), VECTORS, SIGNS, TypeError, "got tuple of 3"),
        (nn.cosine_embedding(), VECTORS[:2], SIGNS - 1, ValueError, "to be -1 or 1, got 0 at exa"),
        (nn.cosine_embedding(), VECTORS[:2], SIGNS[:, None], ValueError, "shape of prediction"),
        (nn.triplet_margin(), VECTORS, SIGNS, TypeError, "no target, which is None"),
        (nn.triplet_margin(), tuple(v[0] for v in VECTORS), None, ValueError, "anchor to have sha"),
        (
            nn.contrastive(),
            (VECTORS[0], VECTORS[1][:1]),
            None,
            ValueError,
            "of one shape and dtype",
        ),
        (nn.contrastive(), VECTORS[:2], SIGNS, TypeError, "None or booleans of shape"),
        (nn.contrastive(), (SIGNS, SIGNS), None, TypeError, "first to be floating-point"),
    ],
)
def test_what_does_not_fit_is_named(loss, prediction, target, error, message, untyped):
    for function in (loss.value, loss.gradient):
        with pytest.raises(error, match=f"{loss.name}: expected .*?{message}"):
            function(prediction, target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.cosine_embedding(2.0), r"margin to lie in \[-1, 1\]"),
        (lambda: nn.triplet_margin(0.0), r"margin to lie in \(0, inf\)"),
        (lambda: nn.triplet_margin(p=0.5), r"p to lie in \[1, inf\)"),
        (lambda: nn.contrastive(0.0), r"temperature to lie in \(0, inf\)"),
    ],
)
def test_options_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


NETWORK = nn.fork(nn.dense(2), nn.dense(2))


@pytest.mark.parametrize("symmetric", [False, True])
def test_an_example_of_weight_0_is_none_that_others_are_told_from(symmetric, x64):
    loss, x = nn.contrastive(0.5, symmetric=symmetric), normal(0, (4, 3))
    params, state = initialized(NETWORK, x)
    weights = jnp.array([1.0, 2.0, 0.0, 3.0])
    there = jnp.array([0, 1, 3])

    @jax.jit
    def run(x):
        given = (params, state, x.at[2].set(jnp.nan), None, None, weights)
        fewer = (params, state, x[there], None, None, weights[there])
        return [
            [function(NETWORK, loss)(*arguments) for function in (nn.backprop, nn.autodiff)]
            for arguments in (given, fewer)
        ]

    (by_hand, by_autodiff), (alone, _) = run(x)
    assert_agree(by_hand, by_autodiff, 1e-10)
    assert_agree(by_hand, alone, 1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda loss: statistics.per_example_gradients(NETWORK, loss),
        lambda loss: statistics.gradient_variance(NETWORK, loss),
        lambda loss: statistics.measure(NETWORK, loss, norms=statistics.per_example_squared_norms),
        lambda loss: statistics.measuring(NETWORK, loss),
        lambda loss: statistics.ggn_vector_product(NETWORK, loss),
        lambda loss: privacy.clipped_sum(NETWORK, loss, 1.0),
        lambda loss: nn.accumulate(nn.backprop(NETWORK, loss), 2, network=NETWORK),
        lambda loss: nn.accumulate(nn.autodiff(NETWORK, loss), 2, network=NETWORK),
    ],
)
def test_what_is_of_single_examples_refuses_a_loss_that_compares_them(make):
    with pytest.raises(ValueError, match=r"but contrastive compares the examples of a batch"):
        make(nn.contrastive())


def test_a_network_of_two_vectors_learns_its_pairs():
    x = normal(0, (8, 4), jnp.float32)
    loss = nn.contrastive()
    params, state = initialized(NETWORK, x)

    @jax.jit
    def step(params, _):
        (value, _), gradient = nn.backprop(NETWORK, loss)(params, state, x, None)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

    _, values = jax.lax.scan(step, params, None, 60)
    assert values[-1] < values[0] / 4
