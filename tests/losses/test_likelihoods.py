import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, differentiated, initialized, normal, value_and_gradient
from jax.experimental import checkify

import jaxnn as nn


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_losses_are_exact_for_logits_of_any_size(gamma, x64):
    z = jnp.array([[1e4], [-1e4], [1e4], [-1e4], [jnp.inf], [-jnp.inf]])
    t = jnp.array([[1], [0], [0], [1], [1], [0]])
    for run in (value_and_gradient(nn.focal(gamma), z, t),):
        np.testing.assert_allclose(run[0], [0, 0, 1e4, 1e4, 0, 0])
        np.testing.assert_allclose(run[1][:, 0], [0, 0, 1, -1, 0, 0])
    two = jnp.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [-jnp.inf, 0.0]])
    labels = jnp.array([0, 0, 1, 1])
    loss = nn.softmax_focal(gamma)
    value, gradient = value_and_gradient(loss, two, labels)
    half = np.log(2) * 0.5**gamma
    np.testing.assert_allclose(value, [0, 2e4, half, 0], rtol=1e-12)
    assert_agree(gradient[:3], differentiated(loss.value, two[:3], labels[:3])[1], 1e-12)
    assert not gradient[3].any()


def test_without_gamma_the_focal_losses_are_the_cross_entropies(x64):
    z, bits, labels = normal(0, (4, 3)), jnp.array([[0, 1, 1]] * 4), jnp.array([0, 1, 2, 1])
    for one, other, target in [
        (nn.focal(0.0), nn.sigmoid_binary_cross_entropy(), bits),
        (nn.softmax_focal(0.0), nn.softmax_cross_entropy(), labels),
    ]:
        found = value_and_gradient(one, z, target)
        assert_agree(found, value_and_gradient(other, z, target), 1e-12)


@pytest.mark.parametrize(
    ("loss", "y", "t"),
    [
        (nn.poisson_nll(), [[0.3, -1.0, 2.0]], [[0.0, 1.0, 5.0]]),
        (nn.poisson_nll(False), [[0.3, 1.0, 2.0]], [[0.0, 1.0, 5.0]]),
        (
            nn.sigmoid_binary_cross_entropy(pos_weight=(0.5, 2.0, 3.0)),
            [[0.3, -1.0, 2.0]],
            [[0, 1, 1]],
        ),
        (nn.softmax_cross_entropy(0.1, class_weights=(0.5, 2.0, 3.0)), [[0.3, -1.0, 2.0]], [1]),
        (nn.projected_cross_entropy(class_weights=(0.5, 2.0, 3.0)), [[0.3, -1.0, 2.0]], [1]),
    ],
    ids=repr,
)
def test_roots_are_those_of_the_hessian(loss, y, t, x64):
    y, t = jnp.array(y), jnp.array(t)

    @jax.jit
    def both(y):
        hessian = jax.hessian(lambda y: loss.value(y[None], t)[0])(y[0])
        return jax.vmap(lambda v: loss.hessian_root(y, t, v[None])[0])(jnp.eye(3)).T, hessian

    root, hessian = both(y)
    assert loss.root_known
    assert_agree(root @ root.T, hessian, 1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        nn.mean_absolute_error(),
        nn.quantile(),
        nn.focal(),
        nn.softmax_focal(),
        nn.kl_divergence(),
        nn.negative_log_likelihood(),
        nn.gaussian_nll(),
        nn.contrastive(),
        nn.triplet_margin(),
        nn.cosine_embedding(),
    ],
    ids=repr,
)
def test_losses_without_a_root_say_so(loss):
    assert not loss.root_known
    with pytest.raises(ValueError, match=f"{loss.name}: expected a loss whose hessian_root is kn"):
        loss.hessian_root(None, None, None)


def test_what_has_no_probability_and_is_not_wanted_adds_nothing():
    y = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
    for loss, target in [
        (nn.negative_log_likelihood(), jnp.array([0, 1])),
        (nn.kl_divergence(), jnp.eye(2)),
        (nn.kl_divergence(log_target=True), y),
        (nn.kl_divergence(), jnp.array([0, 1])),
    ]:
        value, gradient = value_and_gradient(loss, y, target)
        np.testing.assert_array_equal(value, [0, 0])
        np.testing.assert_array_equal(gradient, -np.eye(2))
        np.testing.assert_array_equal(value_and_gradient(loss, y[::-1], target)[0], [np.inf] * 2)


def test_a_rate_of_0_is_right_for_a_count_of_0():
    zero = jnp.zeros((1, 1))
    value, gradient = value_and_gradient(nn.poisson_nll(False, delta=0.0), zero, zero)
    assert (value, gradient) == (0, 1)
    value, gradient = value_and_gradient(nn.poisson_nll(), zero - jnp.inf, zero)
    assert (value, gradient) == (0, 0)


def test_a_count_below_0_is_named_and_found_by_runtime_checks():
    loss, y = nn.poisson_nll(), jnp.zeros((2, 2))
    counts = jnp.array([[0.0, 1.0], [3.0, -2.0]])
    with pytest.raises(ValueError, match=r"counts of at least 0 .*, got -2.0 at example 1, posit"):
        loss.value(y, counts)
    checked = jax.jit(checkify.checkify(loss.value, errors=checkify.user_checks))
    assert "counts of at least 0" in str(checked(y, counts)[0].get())
    assert checked(y, -counts * 0)[0].get() is None


def test_a_variance_below_0_is_named():
    y = jnp.zeros((1, 2))
    with pytest.raises(ValueError, match=r"variances of at least 0, got -1.0 at example 0, pos"):
        nn.gaussian_nll().value((y, y.at[0, 1].set(-1)), y)
    with pytest.raises(TypeError, match=r"a tuple \(mean, variance\), got"):
        nn.gaussian_nll().value(y, y)


@pytest.mark.parametrize("size", [1e30, 1e-6])
def test_an_error_whose_square_is_no_float32_may_be_small_for_its_variance(size):
    zero, size = jnp.zeros((1, 1)), jnp.full((1, 1), size)
    value = nn.gaussian_nll(delta=1e-30).value((zero, size), size)
    np.testing.assert_allclose(value, (np.log(size) + size)[0] / 2, rtol=1e-6)


def test_the_gaussian_gradient_is_that_of_autodiff_where_the_variance_is_small_too(x64):
    m, t = normal(0, (4, 3)), normal(1, (4, 3))
    v = jnp.abs(normal(2, (4, 3))).at[0].set(0)
    loss = nn.gaussian_nll(delta=1e-2)
    found = value_and_gradient(loss, (m, v), t)
    assert_agree(found, differentiated(loss.value, (m, v), t), 1e-10)
    at_delta = value_and_gradient(loss, (m[:1], jnp.full((1, 3), 1e-2)), t[:1])
    assert_agree(jax.tree.map(lambda a: a[:1], found), at_delta, 1e-12)


def test_mean_and_variance_of_a_network_have_the_gradient_of_autodiff(x64):
    network = nn.fork(nn.dense(2), nn.serial(nn.dense(2), nn.softplus()))
    x, t, weights = normal(0, (4, 3)), normal(1, (4, 2)), jnp.array([1.0, 0.0, 2.0, 0.5])
    params, state = initialized(network, x)
    by_hand, by_autodiff = jax.jit(
        lambda *a: [f(network, nn.gaussian_nll())(*a) for f in (nn.backprop, nn.autodiff)]
    )(params, state, x, t, None, weights)
    assert_agree(by_hand, by_autodiff, 1e-10)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.quantile(0.0), ValueError, r"quantile: expected level to lie in \(0, 1\)"),
        (lambda: nn.focal(-1.0), ValueError, "focal: expected gamma to lie"),
        (lambda: nn.focal(alpha=1.5), ValueError, "focal: expected alpha to lie"),
        (lambda: nn.gaussian_nll(delta=0.0), ValueError, "gaussian_nll: expected delta to lie"),
        (
            lambda: nn.sigmoid_binary_cross_entropy(pos_weight=-1.0),
            ValueError,
            "sigmoid_binary_cross_entropy: expected pos_weight to lie",
        ),
        (
            lambda: nn.softmax_cross_entropy(class_weights=(1.0, -1.0)),
            ValueError,
            "every one of class_weights to lie",
        ),
        (
            lambda: nn.softmax_cross_entropy(class_weights=2.0),
            TypeError,
            "class_weights to be a tuple of numbers, got 2.0",
        ),
        (
            lambda: nn.softmax_cross_entropy(class_weights=(1.0,)).value(
                jnp.ones((1, 3)), jnp.array([0])
            ),
            ValueError,
            "class_weights to hold 3 numbers, .* got 1",
        ),
        (
            lambda: nn.binary_cross_entropy(pos_weight=(1.0, 2.0)).value(jnp.ones(2), jnp.ones(2)),
            ValueError,
            "pos_weight to hold 1 numbers, .* got 2",
        ),
    ],
)
def test_wrong_options_are_named(make, error, message, untyped):
    with pytest.raises(error, match=message):
        make()
