import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import HALVES_AND_FLOATS, assert_agree, normal
from samples import LOSSES, SEQUENCE

import jaxnn as nn
from jaxnn import functional as f

# Arguments of the functions that take others than prediction and target.
APART = {
    "gaussian_nll": lambda y, t: (y[0], t, y[1]),
    "cosine_embedding": lambda y, t: (*y, t),
    "triplet_margin": lambda y, t: y,
    "contrastive": lambda y, t: y,
    "sequence_loss": lambda y, t: (y, t, nn.softmax_cross_entropy()),
}
SAMPLES = {name: s for name, s in LOSSES.items() if name != "projected_cross_entropy"}


def call(name, prediction, target, **options):
    loss = SAMPLES[name][0]
    fields = dict(loss.__dict__) if name != "sequence_loss" else {}
    arguments = APART.get(loss.__class__.__name__, lambda y, t: (y, t))(prediction, target)
    return getattr(f, loss.__class__.__name__)(*arguments, **fields, **options)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_function_is_the_weighted_mean_of_its_loss_with_its_gradient(name):
    loss, prediction, target = SAMPLES[name]
    weights = jnp.asarray([0.5, 2.0, 1.0, 0.25])

    @jax.jit
    def both(y):
        run = jax.value_and_grad(lambda y: call(name, y, target, weights=weights, reduction="mean"))
        share = weights / jnp.sum(weights)
        values, gradient = loss.value(y, target), loss.weighted(y, target, share)[1]
        by_hand = call(name, y, target, reduction="none"), run(y)
        return by_hand, (values, (jnp.sum(values * share), gradient))

    assert_agree(*both(prediction), 1e-5)


def test_the_printed_examples_of_the_notes(x64):
    logits, labels = normal(0, (4, 3)), jnp.asarray([0, 2, 1, 1])

    @jax.jit
    def run():
        squared = jnp.asarray([3, 5, 8]), jnp.asarray([2, 4, 6])
        absolute = jnp.asarray([0.9, 0.2, 0.1, 0.4, 0.9]), jnp.asarray([1, 0, 0, 1, 1])
        values = [
            f.mean_squared_error(*squared),
            f.mean_squared_error(33, 20),
            f.half_squared_error(*squared),
            f.sum_absolute_error(*absolute),
            f.sum_squared_error(*absolute),
        ]
        return values, jax.grad(f.softmax_cross_entropy)(logits, labels)

    values, gradient = run()
    np.testing.assert_allclose(values, [2, 169, 3, 1.1, 0.43], rtol=1e-14)
    expected = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)) / 4
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


OTHERS = np.random.default_rng(1).normal(size=(4, 3))

# The function, that of optax for each example, and the target.
OF_OPTAX = {
    "mean_squared_error": (
        lambda y, t: jnp.mean(optax.squared_error(y, t), -1),
        OTHERS,
        {},
    ),
    "half_squared_error": (lambda y, t: jnp.sum(optax.l2_loss(y, t), -1), OTHERS, {}),
    "huber": (
        lambda y, t: jnp.mean(optax.huber_loss(y, t, delta=0.5), -1),
        OTHERS,
        {"delta": 0.5},
    ),
    "softmax_cross_entropy": (
        optax.softmax_cross_entropy_with_integer_labels,
        np.asarray([2, 0, 1, 1]),
        {},
    ),
    "sigmoid_binary_cross_entropy": (
        lambda y, t: jnp.mean(optax.sigmoid_binary_cross_entropy(y, t), -1),
        np.eye(4, 3),
        {},
    ),
    "hinge": (
        lambda y, t: jnp.mean(optax.hinge_loss(y, t), -1),
        2 * np.eye(4, 3) - 1,
        {},
    ),
    "kl_divergence": (optax.kl_divergence, np.full((4, 3), 1 / 3), {}),
}


@pytest.mark.parametrize("name", OF_OPTAX)
def test_value_and_gradient_are_those_of_optax(name, x64):
    of_optax, target, options = OF_OPTAX[name]
    target = jnp.asarray(target)

    @jax.jit
    def both(y):
        def by_hand(reduction):
            given = {"reduction": reduction} | options
            return jax.value_and_grad(lambda y: getattr(f, name)(y, target, **given))(y)

        def expected(reduce):
            return jax.value_and_grad(lambda y: reduce(of_optax(y, target)))(y)

        return [by_hand(r) for r in ("mean", "sum")], [expected(r) for r in (jnp.mean, jnp.sum)]

    assert_agree(*both(normal(0, (4, 3))), 1e-10)


SINGLE = {
    "softmax_cross_entropy": ((3,), 2),
    "categorical_cross_entropy": ((3,), jnp.asarray([0.2, 0.3, 0.5])),
    "mean_squared_error": ((), 0.5),
    "huber": ((), 3),
    "focal": ((), 1),
    "hinge": ((), -1),
    "ctc": ((5, 6), jnp.asarray([2, 1])),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_example_needs_no_batch(name):
    shape, target = SINGLE[name]
    function, batch = getattr(f, name), jnp.asarray(target)[None]

    @jax.jit
    def run(y):
        single = [function(y, target, reduction=r) for r in ("mean", "sum", "none")]
        heavy = function(y, target, weights=2.0, reduction="sum") / 2
        whole = jax.value_and_grad(lambda y: function(y, batch, reduction="mean"))(y[None])
        return [*single, heavy], jax.grad(function)(y, target), whole

    values, gradient, (expected, expected_gradient) = run(jnp.abs(normal(0, shape, np.float32)))
    assert_agree(values, [expected] * 4, 1e-5)
    assert_agree(gradient, expected_gradient[0], 1e-5)


def test_vectors_that_are_compared_need_no_batch():
    @jax.jit
    def both(a, b, c):
        batches = [x[None] for x in (a, b, c)]
        single = (
            f.triplet_margin(a, b, c),
            f.cosine_embedding(a, b, -1),
            f.gaussian_nll(a[0], 1, 2.0),
        )
        whole = (
            f.triplet_margin(*batches),
            f.cosine_embedding(*batches[:2], jnp.asarray([-1])),
            f.gaussian_nll(a[:1], jnp.ones(1), jnp.full(1, 2.0)),
        )
        return single, whole

    assert_agree(*both(*(normal(seed, (3,), np.float32) for seed in range(3))), 1e-5)


def test_an_example_of_weight_zero_counts_as_if_it_were_not_there():
    y, labels = normal(0, (3, 4), np.float32), jnp.asarray([1, 0, 3])
    broken = y.at[1].set(jnp.nan)
    weights = np.asarray([1, 0, 3])

    first, second = normal(1, (3, 4), np.float32), normal(2, (3, 4), np.float32)

    @jax.jit
    def run(y):
        given = jax.value_and_grad(f.softmax_cross_entropy)(y, labels, weights=weights)
        none = f.softmax_cross_entropy(y, labels, weights=weights, reduction="none")
        compared = f.contrastive(first, second, weights=jnp.asarray([1.0, 0.0, 1.0]))
        expected = (
            f.softmax_cross_entropy(y[::2], labels[::2], weights=weights[::2]),
            f.contrastive(first[::2], second[::2]),
        )
        return given, none, compared, expected

    (value, gradient), none, compared, expected = run(broken)
    np.testing.assert_allclose((value, compared), expected, rtol=1e-5)
    assert not gradient[1].any()
    assert float(none[1]) == 0


def test_weights_have_a_gradient(x64):
    y, t, weights = normal(0, (4, 2)), normal(1, (4, 2)), jnp.asarray([1.0, 2, 0.5, 1])

    def expected(weights):
        return jnp.sum(weights * jnp.mean((y - t) ** 2, -1)) / jnp.sum(weights)

    by_hand = jax.grad(lambda w: f.mean_squared_error(y, t, weights=w))(weights)
    assert_agree(by_hand, jax.grad(expected)(weights), 1e-10)


def test_a_projection_and_its_loss_are_one_function(x64):
    x, weight, bias = normal(0, (4, 5, 6)), normal(1, (6, 7)), normal(2, (7,))
    labels = jnp.arange(20).reshape(4, 5) % 7

    def run(function):
        return jax.jit(jax.value_and_grad(function, (0, 1, 2)))(x, weight, bias)

    def by_hand(x, weight, bias):
        weights = jnp.asarray([1.0, 2.0, 0.0, 1.0])
        return f.projected_cross_entropy(x, weight, labels, bias, 3, weights=weights)

    def expected(x, weight, bias):
        losses = optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, labels)
        return jnp.sum(jnp.mean(losses, -1) * jnp.asarray([1.0, 2.0, 0.0, 1.0])) / 4

    assert_agree(run(by_hand), run(expected), 1e-10)
    single = f.projected_cross_entropy(x[0, 0], weight, 2)
    expected = optax.softmax_cross_entropy_with_integer_labels(x[0, 0] @ weight, 2)
    np.testing.assert_allclose(single, expected)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS, ids=lambda dtype: dtype.__name__)
def test_a_dtype_stays_and_integers_take_that_of_the_prediction(dtype, x64):
    y = jnp.asarray([[1.0, -2.0], [0.5, 3.0]], dtype)
    for function, target in (
        (f.mean_squared_error, np.asarray([[1, 0], [2, 2]])),
        (f.softmax_cross_entropy, np.asarray([1, 0], np.uint8)),
        (f.sigmoid_binary_cross_entropy, np.asarray([[1, 0], [1, 1]])),
    ):
        run = jax.value_and_grad(function)
        value, gradient = jax.jit(lambda y: run(y, target, weights=np.asarray([1, 2])))(y)  # noqa: B023
        assert (value.dtype, gradient.dtype) == (dtype, dtype)


def test_losses_can_be_jitted_vmapped_and_scanned(x64):
    y, t = normal(0, (3, 4, 2)), normal(1, (3, 4, 2))

    def gradients(function):
        def scanned(y):
            return jax.lax.scan(lambda s, yt: (s + function(*yt), None), 0.0, (y, t))[0]

        mapped = jax.jit(jax.grad(lambda y: jnp.sum(jax.vmap(function)(y, t))))
        return mapped(y), jax.grad(scanned)(y), jax.vmap(jax.grad(function))(y, t)

    assert_agree(
        gradients(f.mean_squared_error), gradients(lambda y, t: jnp.mean((y - t) ** 2)), 1e-10
    )


def test_a_target_that_is_differentiated_by_is_refused():
    y = jnp.ones((2, 3))
    with pytest.raises(TypeError, match="mean_squared_error: expected a target that does not dep"):
        jax.grad(f.mean_squared_error, 1)(y, y)
    stopped = jax.grad(lambda a: f.mean_squared_error(2 * a, jax.lax.stop_gradient(a)))(y)
    np.testing.assert_allclose(stopped, 4 * y / 6)


LOGITS = jnp.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: f.mean_squared_error(LOGITS, LOGITS[:1]), ValueError, "target to have the shape"),
        (lambda: f.mean_squared_error(LOGITS, None), TypeError, "expected target to be an array"),
        (
            lambda: f.mean_squared_error([1.0], LOGITS),
            TypeError,
            "prediction to be an array, got l",
        ),
        (lambda: f.huber(LOGITS, LOGITS, -1.0), ValueError, "expected delta to lie in"),
        (
            lambda: f.mean_squared_error(LOGITS, LOGITS.astype(jnp.float16)),
            TypeError,
            "expected target to have the dtype of prediction",
        ),
        (lambda: f.softmax_cross_entropy(LOGITS, jnp.asarray([0, 3])), ValueError, "got 3 at exam"),
        (lambda: f.softmax_cross_entropy(LOGITS, 2), ValueError, "expected integer labels to have"),
        (lambda: f.hinge(LOGITS, LOGITS, reduction="avg"), ValueError, "unknown reduction 'avg'"),
        (
            lambda: f.hinge(LOGITS, LOGITS, weights=jnp.ones(3)),
            ValueError,
            "hinge: expected weights",
        ),
        (lambda: f.ctc(SEQUENCE, jnp.ones((4, 1))), TypeError, "expected labels to be integers"),
        (lambda: f.mean_squared_error(LOGITS), TypeError, "missing a required argument: 'target'"),
        (
            lambda: f.projected_cross_entropy(LOGITS, jnp.ones((4, 5)), jnp.asarray([0, 1])),
            ValueError,
            "projection: expected weight to be",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message, untyped):
    with pytest.raises(error, match=message):
        call()
