import copy
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    HALVES_AND_FLOATS,
    PUBLIC,
    assert_agree,
    differences,
    differentiated,
    normal,
    value_and_gradient,
)
from jax.experimental import checkify

import jaxnn as nn

LOGITS = normal(0, (4, 5), np.float32)
PROBABILITIES = jax.nn.softmax(LOGITS)
SOFT = jax.nn.softmax(normal(1, (4, 5), np.float32))
LABELS = jnp.asarray([0, 4, 2, 2])
ONE_HOT = jax.nn.one_hot(LABELS, 5)
BITS = jnp.asarray(np.random.default_rng(2).integers(2, size=(4, 5)))
SIGNS = 2 * BITS - 1
WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0)


def weighted(targets):
    return targets * jnp.asarray(WEIGHTS, targets.dtype)


def eased(p, of):
    return -of * (1 - p) ** 1.5 * jnp.log(p)


# The loss, a prediction, a target, and the same values written by others or plainly.
LOSSES = {
    "mean_squared_error": (
        nn.mean_squared_error(),
        LOGITS,
        SOFT,
        lambda y, t: optax.squared_error(y, t).mean(-1),
    ),
    "half_squared_error": (
        nn.half_squared_error(),
        LOGITS,
        SOFT,
        lambda y, t: optax.l2_loss(y, t).sum(-1),
    ),
    "sum_squared_error": (
        nn.sum_squared_error(),
        LOGITS,
        SOFT,
        lambda y, t: optax.squared_error(y, t).sum(-1),
    ),
    "sum_absolute_error": (
        nn.sum_absolute_error(),
        LOGITS,
        SOFT,
        lambda y, t: jnp.abs(y - t).sum(-1),
    ),
    "mean_absolute_error": (
        nn.mean_absolute_error(),
        LOGITS,
        SOFT,
        lambda y, t: jnp.abs(y - t).mean(-1),
    ),
    "quantile": (
        nn.quantile(0.3),
        LOGITS,
        SOFT,
        lambda y, t: jnp.maximum(0.3 * (t - y), 0.7 * (y - t)).mean(-1),
    ),
    "poisson_nll": (
        nn.poisson_nll(),
        LOGITS,
        SOFT,
        lambda y, t: (jnp.exp(y) - t * y).mean(-1),
    ),
    "poisson_nll of rates": (
        nn.poisson_nll(False, full=True, delta=0.0),
        PROBABILITIES,
        4 * SOFT,
        lambda y, t: (
            y
            - t * jnp.log(y)
            + jnp.where(t > 1, t * jnp.log(t) - t + jnp.log(2 * np.pi * t) / 2, 0)
        ).mean(-1),
    ),
    "focal": (
        nn.focal(1.5, alpha=0.3),
        LOGITS,
        BITS,
        lambda z, t: optax.sigmoid_focal_loss(z, t, alpha=0.3, gamma=1.5).mean(-1),
    ),
    "huber": (nn.huber(0.5), LOGITS, SOFT, lambda y, t: optax.huber_loss(y, t, delta=0.5).mean(-1)),
    "binary_cross_entropy": (
        nn.binary_cross_entropy(0.0),
        PROBABILITIES,
        SOFT,
        lambda y, t: -(t * jnp.log(y) + (1 - t) * jnp.log(1 - y)).mean(-1),
    ),
    "sigmoid_binary_cross_entropy": (
        nn.sigmoid_binary_cross_entropy(),
        LOGITS,
        BITS,
        lambda z, t: optax.sigmoid_binary_cross_entropy(z, t).mean(-1),
    ),
    "sigmoid_binary_cross_entropy with pos_weight": (
        nn.sigmoid_binary_cross_entropy(pos_weight=WEIGHTS),
        LOGITS,
        SOFT,
        lambda z, t: (-weighted(t) * jax.nn.log_sigmoid(z) - (1 - t) * jax.nn.log_sigmoid(-z)).mean(
            -1
        ),
    ),
    "binary_cross_entropy with pos_weight": (
        nn.binary_cross_entropy(0.0, pos_weight=3.0),
        PROBABILITIES,
        BITS,
        lambda y, t: -(3 * t * jnp.log(y) + (1 - t) * jnp.log(1 - y)).mean(-1),
    ),
    "hinge": (nn.hinge(), LOGITS, SIGNS, lambda y, t: optax.hinge_loss(y, t).mean(-1)),
    "categorical_cross_entropy": (
        nn.categorical_cross_entropy(0.0),
        PROBABILITIES,
        LABELS,
        lambda y, t: -jnp.log(y)[jnp.arange(4), t],
    ),
    "categorical_cross_entropy with class_weights": (
        nn.categorical_cross_entropy(0.0, class_weights=WEIGHTS),
        PROBABILITIES,
        SOFT,
        lambda y, t: -(weighted(t) * jnp.log(y)).sum(-1),
    ),
    "negative_log_likelihood": (
        nn.negative_log_likelihood(class_weights=WEIGHTS),
        LOGITS,
        LABELS,
        lambda y, t: -jnp.asarray(WEIGHTS, y.dtype)[t] * y[jnp.arange(4), t],
    ),
    "kl_divergence": (
        nn.kl_divergence(),
        LOGITS,
        SOFT,
        lambda y, t: (t * (jnp.log(t) - y)).sum(-1),
    ),
    "kl_divergence of labels": (
        nn.kl_divergence(),
        LOGITS,
        LABELS,
        lambda y, t: -y[jnp.arange(4), t],
    ),
    "softmax_focal": (
        nn.softmax_focal(1.5, class_weights=WEIGHTS),
        LOGITS,
        SOFT,
        lambda z, t: eased(jax.nn.softmax(z), weighted(t)).sum(-1),
    ),
    "softmax_focal of labels": (
        nn.softmax_focal(1.5),
        LOGITS,
        LABELS,
        lambda z, t: eased(jax.nn.softmax(z)[jnp.arange(4), t], 1),
    ),
    "softmax_cross_entropy with class_weights": (
        nn.softmax_cross_entropy(0.1, class_weights=WEIGHTS),
        LOGITS,
        ONE_HOT,
        lambda z, t: optax.softmax_cross_entropy(z, weighted(optax.smooth_labels(t, 0.1))),
    ),
    "softmax_cross_entropy of labels": (
        nn.softmax_cross_entropy(),
        LOGITS,
        LABELS,
        optax.softmax_cross_entropy_with_integer_labels,
    ),
    "softmax_cross_entropy of soft targets": (
        nn.softmax_cross_entropy(),
        LOGITS,
        SOFT,
        optax.softmax_cross_entropy,
    ),
    "softmax_cross_entropy with smoothing": (
        nn.softmax_cross_entropy(0.1),
        LOGITS,
        ONE_HOT,
        lambda z, t: optax.softmax_cross_entropy(z, optax.smooth_labels(t, 0.1)),
    ),
}


def case(name, dtype):
    loss, prediction, target, reference = LOSSES[name]
    if jnp.issubdtype(target.dtype, jnp.floating):
        target = jnp.asarray(np.asarray(target), dtype)
    return loss, jnp.asarray(np.asarray(prediction), dtype), target, reference


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_agree_with_a_reference(name, dtype, tolerance, x64):
    loss, prediction, target, reference = case(name, dtype)
    for run in (value_and_gradient, value_and_gradient.__wrapped__):  # with jit and without
        value, gradient = run(loss, prediction, target)
        for function in (reference, loss.value):
            expected = differentiated(function, prediction, target)
            assert_agree((value, gradient), expected, tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_numerical_differentiation(name, x64):
    loss, prediction, target, _ = case(name, np.float64)
    slopes = differences(lambda y: value_and_gradient(loss, y, target)[0].sum(), prediction)
    assert_agree(value_and_gradient(loss, prediction, target)[1], slopes, 1e-7)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
def test_the_dtype_of_the_prediction_is_kept(name, dtype, x64):
    loss, prediction, target, _ = case(name, dtype)
    value, gradient = jax.eval_shape(partial(value_and_gradient, loss), prediction, target)
    assert value.dtype == gradient.dtype == dtype


@pytest.mark.parametrize("name", LOSSES)
def test_each_value_is_that_of_its_example_alone(name):
    loss, prediction, target, _ = case(name, np.float32)
    values = loss.value(prediction, target)
    assert values.shape == (4,)
    alone = value_and_gradient(loss, prediction[1:2], target[1:2])[0]
    assert_agree(values[1:2], alone, 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_has_no_values(name):
    loss, prediction, target, _ = case(name, np.float32)
    values, gradient = value_and_gradient(loss, prediction[:0], target[:0])
    assert values.shape == (0,)
    assert gradient.shape == (0, 5)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_broadcast(name):
    loss, prediction, target, _ = case(name, np.float32)
    for wrong in (target[:1], target[..., None], target[0]):
        with pytest.raises(ValueError, match=f"{loss.name}: expected"):
            loss.value(prediction, wrong)
        with pytest.raises(ValueError, match=f"{loss.name}: expected"):
            loss.gradient(prediction, wrong)


@pytest.mark.parametrize("name", LOSSES)
def test_wrong_dtypes_and_types_are_refused(name, untyped):
    loss, prediction, target, _ = case(name, np.float32)
    for y, t in [
        (prediction.astype(int), target),
        (prediction, jnp.asarray(prediction, jnp.float16)),
        (prediction, None),
        (prediction, [1, 2]),
        (None, target),
    ]:
        with pytest.raises(TypeError, match=f"{loss.name}: expected"):
            loss.value(y, t)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.huber(0.0),
        lambda: nn.softmax_cross_entropy(1.5),
        lambda: nn.softmax_cross_entropy(-0.1),
        lambda: nn.binary_cross_entropy(-1.0),
        lambda: nn.categorical_cross_entropy(float("inf")),
    ],
)
def test_factories_refuse_values_outside_of_the_interval(make):
    with pytest.raises(ValueError, match=r"expected (delta|label_smoothing) to lie in"):
        make()


INTEGERS = (jnp.int4, jnp.uint4, jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32)
OF_LABELS = {
    "softmax_cross_entropy": nn.softmax_cross_entropy(),
    "softmax_cross_entropy with smoothing": nn.softmax_cross_entropy(0.2),
    "categorical_cross_entropy": nn.categorical_cross_entropy(),
    "negative_log_likelihood": nn.negative_log_likelihood(),
    "kl_divergence": nn.kl_divergence(),
    "softmax_focal": nn.softmax_focal(),
    "projected_cross_entropy": nn.projected_cross_entropy(),
    "sequence_loss": nn.sequence_loss(nn.softmax_cross_entropy()),
}


def of_labels(name, labels):
    """The target of a loss in `OF_LABELS`."""
    if name != "sequence_loss":
        return labels
    return labels[:, None], jnp.ones(len(labels), jnp.int32)


def for_labels(name, y):
    return y[:, None] if name == "sequence_loss" else y


@pytest.mark.parametrize("name", OF_LABELS)
def test_labels_of_every_integer_dtype_are_the_same_classes(name):
    y = for_labels(name, jax.nn.softmax(normal(0, (2, 300), np.float32)))

    @jax.jit
    def run(labels):
        run = partial(value_and_gradient.__wrapped__, OF_LABELS[name], y)
        return [run(of_labels(name, given)) for given in labels]

    expected, *found = run([jnp.array([5, 0], dtype) for dtype in (int, *INTEGERS)])
    for pair in found:
        for a, b in zip(pair, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_labels_of_8_bits_and_more_classes_than_they_hold():
    zeros = jnp.zeros((1, 258))
    for run in (value_and_gradient, value_and_gradient.__wrapped__):
        value, _ = run(nn.softmax_cross_entropy(), zeros, jnp.array([0], jnp.uint8))
        np.testing.assert_allclose(value, [np.log(258)], rtol=1e-6)
    _, gradient = value_and_gradient(
        nn.softmax_cross_entropy(), jnp.zeros((1, 300)), jnp.array([5], jnp.uint8)
    )
    assert np.flatnonzero(gradient[0] < 0).tolist() == [5]


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, bool])
def test_binary_labels_of_every_dtype_are_the_same_numbers(dtype):
    loss, z = nn.sigmoid_binary_cross_entropy(), jnp.array([[1.0, -2.0]])
    found = value_and_gradient(loss, z, jnp.array([[1, 0]], dtype))
    assert_agree(found, value_and_gradient(loss, z, jnp.array([[1.0, 0.0]])), 1e-7)


@pytest.mark.parametrize("label", [-1, 3, 100])
@pytest.mark.parametrize("name", OF_LABELS)
def test_a_concrete_label_that_is_no_class_is_named(name, label):
    y = for_labels(name, jnp.ones((2, 3)))
    target = of_labels(name, jnp.array([2, label]))
    place = "example 1, position 0" if name == "sequence_loss" else "example 1"
    expected = rf"\w: expected labels to lie in 0 … 2 .*, got {label} at {place}$"
    for function in (OF_LABELS[name].value, OF_LABELS[name].gradient):
        with pytest.raises(ValueError, match=expected):
            function(y, target)


def test_a_label_that_is_a_constant_of_a_program_is_checked_when_it_is_traced():
    y, labels = jnp.ones((1, 3)), jnp.array([3])
    with pytest.raises(ValueError, match=r"0 … 2 .*, got 3 at example 0"):
        jax.jit(lambda y: nn.softmax_cross_entropy().value(y, labels))(y)


def test_the_error_names_the_position_of_a_label():
    with pytest.raises(ValueError, match=r"got 7 at example 1, position 2, 0$"):
        nn.softmax_cross_entropy().value(
            jnp.ones((2, 3, 1, 4)), jnp.zeros((2, 3, 1), int).at[1, 2, 0].set(7)
        )
    with pytest.raises(ValueError, match=r"got 7 at example 1, position 2$"):
        nn.sequence_loss(nn.softmax_cross_entropy()).value(
            jnp.ones((2, 3, 4)), (jnp.zeros((2, 3), int).at[1, 2].set(7), jnp.array([1, 3]))
        )


@pytest.mark.parametrize(
    ("dtype", "label"), [(np.uint32, 2**32 - 1), (np.int64, 2**32), (np.uint64, 2**64 - 1)]
)
def test_a_label_beyond_32_bits_is_not_wrapped_into_a_class(dtype, label, x64):
    loss, y = nn.softmax_cross_entropy(ignore_index=-1), jnp.ones((1, 3))
    labels = np.array([label], dtype)
    with pytest.raises(ValueError, match=f"got {label} at example 0"):
        loss.value(y, labels)
    value, gradient = value_and_gradient(nn.softmax_cross_entropy(), y, labels)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", OF_LABELS)
def test_under_jit_a_label_that_is_no_class_has_no_loss_and_no_gradient(name):
    y = for_labels(name, jax.nn.softmax(normal(0, (3, 5), np.float32)))
    labels = of_labels(name, jnp.array([-1, 2, 5]))
    value, gradient = value_and_gradient(OF_LABELS[name], y, labels)
    np.testing.assert_array_equal(np.asarray(value) != 0, [False, True, False])
    np.testing.assert_array_equal(np.any(gradient, range(1, gradient.ndim)), [False, True, False])
    assert_agree(gradient, differentiated(OF_LABELS[name].value, y, labels)[1], 1e-6)


@pytest.mark.parametrize("name", [*OF_LABELS, "sigmoid_binary_cross_entropy"])
def test_runtime_checks_report_a_label_that_is_no_class(name):
    loss = OF_LABELS.get(name, nn.sigmoid_binary_cross_entropy())
    checked = jax.jit(checkify.checkify(loss.value, errors=checkify.user_checks))

    def report(label):
        labels = jnp.array([0, label], jnp.int8)
        if name in OF_LABELS:
            target, y = of_labels(name, labels), for_labels(name, jnp.ones((2, 3)))
        else:
            target, y = labels, jnp.ones(2)
        return checked(y, target)[0].get()

    assert "expected labels to lie in 0 … " in report(3)
    assert "expected labels to lie in 0 … " in report(-1)
    assert report(1) is None


def test_the_check_of_labels_is_no_hindrance_to_transformations():
    loss = nn.softmax_cross_entropy()

    def value(y, labels):
        return jax.checkpoint(loss.value)(y, labels).sum()

    def body(total, inputs):
        return total + jax.grad(value)(*inputs).sum(), None

    y, labels = normal(0, (2, 3, 4, 5), np.float32), jnp.zeros((2, 3, 4), jnp.int8)
    jax.jit(jax.vmap(lambda *a: jax.lax.scan(body, 0.0, a)[0]))(y, labels)


@pytest.mark.parametrize("loss", [nn.hinge(), nn.sequence_loss(nn.hinge())])
def test_a_label_that_the_hinge_does_not_know_is_named(loss):
    y, labels = jnp.ones((2, 1)), jnp.array([[-1], [0]])
    if isinstance(loss, nn.sequence_loss):
        labels = (labels, jnp.ones(2, int))
    with pytest.raises(ValueError, match="hinge: expected labels to be -1 or 1, got 0 at example"):
        loss.value(y, labels)


@pytest.mark.parametrize("loss", [nn.binary_cross_entropy(), nn.sigmoid_binary_cross_entropy()])
def test_an_integer_that_is_no_binary_label_is_named(loss):
    with pytest.raises(ValueError, match=r"expected labels to lie in 0 … 1, got 2 at example 0"):
        loss.gradient(jnp.ones((1, 1)) / 2, jnp.array([[2]]))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32_over_outputs(dtype):
    y = jnp.full((1, 100_000), 2.0, dtype)
    value, gradient = value_and_gradient(nn.mean_squared_error(), y, jnp.zeros_like(y))
    assert value.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(value, [4])
    np.testing.assert_allclose(np.asarray(gradient, float), 4e-5, rtol=1e-2)
    one_large = jnp.zeros_like(y).at[0, 0].set(1000)  # whose square float16 does not hold
    value, _ = value_and_gradient(nn.mean_squared_error(), one_large, jnp.zeros_like(y))
    np.testing.assert_allclose(np.asarray(value, float), [10], rtol=1e-2)


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "softmax_cross_entropy with smoothing"])
@pytest.mark.parametrize(("dtype", "eps"), [(jnp.float16, 2**-10), (jnp.bfloat16, 2**-7)])
def test_half_precision_is_summed_in_float32_over_classes(name, dtype, eps, x64):
    z, labels = jnp.asarray(normal(0, (2, 65_000)), dtype), jnp.array([3, 64_000])
    found = value_and_gradient(OF_LABELS[name], z, labels)
    expected = value_and_gradient(OF_LABELS[name], z.astype(float), labels)
    for a, b in zip(found, expected, strict=True):
        tiny = float(jnp.finfo(dtype).smallest_subnormal)
        np.testing.assert_allclose(np.asarray(a, float), b, rtol=eps / 2, atol=tiny / 2)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "sequence_loss"])
def test_half_precision_is_summed_in_float32_over_positions(name, dtype):
    z, labels = jnp.zeros((1, 70_000, 2), dtype), jnp.zeros((1, 70_000), jnp.int32)
    target = (labels, jnp.array([70_000])) if name == "sequence_loss" else labels
    value, gradient = value_and_gradient(OF_LABELS[name], z, target)
    np.testing.assert_allclose(np.asarray(value, float), [np.log(2)], rtol=4e-3)
    np.testing.assert_allclose(np.asarray(gradient[..., 1], float), 0.5 / 70_000, rtol=1e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_value(name):
    loss = LOSSES[name][0]
    again = eval(repr(loss), dict(PUBLIC))
    assert again == loss == pickle.loads(pickle.dumps(loss)) == copy.deepcopy(loss)
    assert hash(again) == hash(loss)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.huber("1"), TypeError, "huber: expected delta to be a Python number"),
        (lambda: nn.softmax_cross_entropy([0.1]), TypeError, "label_smoothing to be a Python num"),
        (lambda: nn.softmax_cross_entropy(ignore_index=0.5), TypeError, "ignore_index to be an in"),
        (lambda: nn.softmax_cross_entropy(ignore_index=2**31), ValueError, "ignore_index to be at"),
        (lambda: nn.ctc(-1), ValueError, "ctc: expected blank to be at least 0"),
        (lambda: nn.sequence_loss("hinge"), TypeError, "sequence_loss: expected loss to be a Loss"),
        (lambda: nn.sequence_loss(nn.hinge), TypeError, r"a Loss, got .* \(a factory: call it\)"),
        (lambda: nn.projection(0), ValueError, "projection: expected features to be at least 1"),
        (lambda: nn.projection(10**10), ValueError, "projection: expected features to be at most"),
    ],
)
def test_wrong_arguments_are_named(make, error, message, untyped):
    with pytest.raises(error, match=message):
        make()
