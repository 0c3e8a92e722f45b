from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import HALVES_AND_FLOATS, assert_agree, differences, normal

import jaxnn as nn

LOGITS = normal(0, (4, 5), np.float32)
PROBABILITIES = jax.nn.softmax(LOGITS)
SOFT = jax.nn.softmax(normal(1, (4, 5), np.float32))
LABELS = jnp.asarray([0, 4, 2, 2])
ONE_HOT = jax.nn.one_hot(LABELS, 5)
BITS = jnp.asarray(np.random.default_rng(2).integers(2, size=(4, 5)))
SIGNS = 2 * BITS - 1
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
    "hinge": (nn.hinge(), LOGITS, SIGNS, lambda y, t: optax.hinge_loss(y, t).mean(-1)),
    "categorical_cross_entropy": (
        nn.categorical_cross_entropy(0.0),
        PROBABILITIES,
        LABELS,
        lambda y, t: -jnp.log(y)[jnp.arange(4), t],
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


@partial(jax.jit, static_argnums=0)
def both(loss, prediction, target):
    return loss.value(prediction, target), loss.gradient(prediction, target)


@partial(jax.jit, static_argnums=0)
def autodiff(value, prediction, target):
    values, vjp = jax.vjp(lambda y: value(y, target), prediction)
    return values, *vjp(jnp.ones_like(values))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_agree_with_a_reference(name, dtype, tolerance, x64):
    loss, prediction, target, reference = case(name, dtype)
    for run in (both, both.__wrapped__):  # with jit and without
        value, gradient = run(loss, prediction, target)
        for function in (reference, loss.value):
            expected = autodiff(function, prediction, target)
            assert_agree((value, gradient), expected, tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_numerical_differentiation(name, x64):
    loss, prediction, target, _ = case(name, np.float64)
    slopes = differences(lambda y: both(loss, y, target)[0].sum(), prediction)
    assert_agree(both(loss, prediction, target)[1], slopes, 1e-7)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
def test_the_dtype_of_the_prediction_is_kept(name, dtype, x64):
    loss, prediction, target, _ = case(name, dtype)
    value, gradient = jax.eval_shape(partial(both, loss), prediction, target)
    assert value.dtype == gradient.dtype == dtype


@pytest.mark.parametrize("name", LOSSES)
def test_each_value_is_that_of_its_example_alone(name):
    loss, prediction, target, _ = case(name, np.float32)
    values = loss.value(prediction, target)
    assert values.shape == (4,)
    alone = both(loss, prediction[1:2], target[1:2])[0]
    assert_agree(values[1:2], alone, 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_has_no_values(name):
    loss, prediction, target, _ = case(name, np.float32)
    values, gradient = both(loss, prediction[:0], target[:0])
    assert values.shape == (0,)
    assert gradient.shape == (0, 5)


@pytest.mark.parametrize("loss", [nn.softmax_cross_entropy(), nn.softmax_cross_entropy(0.1)])
def test_softmax_cross_entropy_is_exact_for_logits_of_any_size(loss, x64):
    z = jnp.asarray([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]])
    labels = jnp.asarray([1, 1, 0])
    values, gradient = both(loss, z, labels)
    smoothing = 0.05 if values[1] > 0 else 0.0
    wide = [2e4 * (1 - smoothing), 2e4 * smoothing, np.log(2)]
    np.testing.assert_allclose(values, wide, rtol=1e-14)
    assert_agree(gradient, autodiff(loss.value, z, labels)[1], 1e-12)


def test_sigmoid_binary_cross_entropy_is_exact_for_logits_of_any_size(x64):
    z, t = jnp.asarray([1e4, -1e4, 1e4, -1e4]), jnp.asarray([1, 0, 0, 1])
    values, gradient = both(nn.sigmoid_binary_cross_entropy(), z, t)
    np.testing.assert_allclose(values, [0, 0, 1e4, 1e4])
    np.testing.assert_allclose(gradient, [0, 0, 1, -1])


def test_a_masked_class_adds_nothing_to_softmax_cross_entropy():
    z = jnp.asarray([[0.0, -jnp.inf, 0.0]])
    value, gradient = both(nn.softmax_cross_entropy(), z, jnp.asarray([0]))
    np.testing.assert_allclose(value, [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0, 0.5]])


def test_labels_one_hot_and_positions_are_the_same_loss(x64):
    z, labels = normal(0, (2, 3, 5)), jnp.asarray([[0, 1, 4], [2, 2, 3]])
    one_hot = jnp.asarray(np.eye(5)[labels])
    for loss in (nn.softmax_cross_entropy(), nn.softmax_cross_entropy(0.2)):
        values, gradient = both(loss, z, labels)
        assert_agree((values, gradient), both(loss, z, one_hot), 1e-14)
        flat = both(loss, z.reshape(6, 5), labels.reshape(6))[0]
        assert_agree(values, np.asarray(flat).reshape(2, 3).mean(1), 1e-14)


def test_a_label_outside_of_the_classes_counts_as_a_target_of_zeros():
    value = nn.softmax_cross_entropy().value(LOGITS[:1], jnp.asarray([5]))
    np.testing.assert_array_equal(value, [0])


@pytest.mark.parametrize(
    ("loss", "y", "t", "slopes"),
    [
        (nn.sum_absolute_error(), [2.0], [2.0], [0.0]),
        (nn.hinge(), [1.0, -1.0], [1.0, -1.0], [0.0, 0.0]),
        (nn.huber(), [3.0, 1.0, 2.0], [2.0, 2.0, 2.0], [1.0, -1.0, 0.0]),
    ],
)
def test_gradients_at_kinks_and_ties_are_those_of_autodiff(loss, y, t, slopes):
    y, t, slopes = (jnp.asarray(np.transpose([a])) for a in (y, t, slopes))
    np.testing.assert_array_equal(both(loss, y, t)[1], slopes)
    np.testing.assert_array_equal(autodiff(loss.value, y, t)[1], slopes)


@pytest.mark.parametrize("loss", [nn.binary_cross_entropy(), nn.categorical_cross_entropy()])
def test_the_small_constant_keeps_certain_but_wrong_probabilities_finite(loss):
    y, t = jnp.asarray([[0.0, 1.0]]), jnp.asarray([[1.0, 0.0]])
    value, gradient = both(loss, y, t)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))


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


def test_integer_targets_of_a_regression_are_refused():
    with pytest.raises(TypeError, match="expected target to have the dtype of prediction"):
        nn.mean_squared_error().value(LOGITS, BITS)


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
