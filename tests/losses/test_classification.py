import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, differentiated, normal, value_and_gradient

import jaxnn as nn


@pytest.mark.parametrize("loss", [nn.softmax_cross_entropy(), nn.softmax_cross_entropy(0.1)])
def test_softmax_cross_entropy_is_exact_for_logits_of_any_size(loss, x64):
    z = jnp.asarray([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]])
    labels = jnp.asarray([1, 1, 0])
    values, gradient = value_and_gradient(loss, z, labels)
    smoothing = 0.05 if values[1] > 0 else 0.0
    wide = [2e4 * (1 - smoothing), 2e4 * smoothing, np.log(2)]
    np.testing.assert_allclose(values, wide, rtol=1e-14)
    assert_agree(gradient, differentiated(loss.value, z, labels)[1], 1e-12)


def test_a_masked_class_adds_nothing_to_softmax_cross_entropy():
    z = jnp.asarray([[0.0, -jnp.inf, 0.0]])
    value, gradient = value_and_gradient(nn.softmax_cross_entropy(), z, jnp.asarray([0]))
    np.testing.assert_allclose(value, [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0, 0.5]])


def test_labels_one_hot_and_positions_are_the_same_loss(x64):
    z, labels = normal(0, (2, 3, 5)), jnp.asarray([[0, 1, 4], [2, 2, 3]])
    one_hot = jnp.asarray(np.eye(5)[labels])
    for loss in (nn.softmax_cross_entropy(), nn.softmax_cross_entropy(0.2)):
        values, gradient = value_and_gradient(loss, z, labels)
        assert_agree((values, gradient), value_and_gradient(loss, z, one_hot), 1e-14)
        flat = value_and_gradient(loss, z.reshape(6, 5), labels.reshape(6))[0]
        assert_agree(values, np.asarray(flat).reshape(2, 3).mean(1), 1e-14)


@pytest.mark.parametrize("loss", [nn.softmax_cross_entropy(), nn.softmax_cross_entropy(0.2)])
def test_under_jit_a_label_outside_of_the_classes_counts_as_a_target_of_zeros(loss):
    z, labels = normal(0, (2, 5), np.float32), jnp.asarray([5, -1])
    value, gradient = value_and_gradient(loss, z, labels)
    np.testing.assert_array_equal(value, [0, 0])
    np.testing.assert_array_equal(gradient, np.zeros((2, 5)))
    root = jax.jit(loss.hessian_root)(z, labels, jnp.ones((2, 5)))
    np.testing.assert_array_equal(root, np.zeros((2, 5)))


def test_a_probability_of_zero_that_is_not_wanted_adds_nothing(x64):
    y = jnp.asarray([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    loss = nn.categorical_cross_entropy(0.0)
    for target in (jnp.array([1, 2]), jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])):
        value, gradient = value_and_gradient(loss, y, target)
        np.testing.assert_allclose(value, [0, np.log(2)], atol=1e-15)
        np.testing.assert_array_equal(gradient, [[0, -1, 0], [0, 0, -2]])
        assert_agree((value, gradient), differentiated(loss.value, y, target), 1e-12)


IGNORING = [
    nn.softmax_cross_entropy(ignore_index=-1),
    nn.softmax_cross_entropy(0.2, ignore_index=-1),
    nn.categorical_cross_entropy(ignore_index=-1),
    nn.softmax_focal(ignore_index=-1),
    nn.projected_cross_entropy(class_weights=(1.0, 2.0, 0.5, 3.0, 1.5), ignore_index=-1),
    nn.projected_cross_entropy(ignore_index=-1),
]


def noticing(loss):
    """The same loss that ignores no label."""
    return dataclasses.replace(loss, ignore_index=None)


@pytest.mark.parametrize("loss", IGNORING, ids=repr)
def test_an_ignored_label_has_no_loss_and_no_gradient_whatever_is_predicted(loss, x64):
    y = jax.nn.softmax(normal(0, (3, 5))).at[1].set(jnp.nan)
    labels = jnp.asarray([2, -1, 4])
    rest = value_and_gradient(noticing(loss), y[::2], labels[::2])
    for jit in (value_and_gradient, value_and_gradient.__wrapped__):
        value, gradient = jit(loss, y, labels)
        assert_agree((value[::2], gradient[::2]), rest, 1e-12)
        assert value[1] == 0
        assert not gradient[1].any()
    assert_agree((value, gradient), differentiated(loss.value, y, labels), 1e-12)


@pytest.mark.parametrize("loss", IGNORING, ids=repr)
def test_the_mean_over_positions_counts_those_that_are_not_ignored(loss, x64):
    y = jax.nn.softmax(normal(0, (3, 4, 5)))
    labels = jnp.asarray([[0, -1, 2, -1], [-1, -1, -1, -1], [1, 2, 3, 4]])
    value, gradient = value_and_gradient(loss, y, labels)
    left, slope = value_and_gradient(noticing(loss), y[:1, ::2], labels[:1, ::2])
    whole = value_and_gradient(noticing(loss), y[2:], labels[2:])
    assert_agree((value[:1], gradient[:1, ::2]), (left, slope), 1e-12)
    assert_agree((value[2:], gradient[2:]), whole, 1e-12)
    assert value[1] == 0
    assert not np.any(gradient[1])
    assert not np.any(gradient[0, 1::2])
    assert_agree(gradient, differentiated(loss.value, y, labels)[1], 1e-12)


def test_a_class_can_be_ignored():
    loss, z = nn.softmax_cross_entropy(ignore_index=0), normal(0, (2, 5), np.float32)
    value, gradient = value_and_gradient(loss, z, jnp.asarray([0, 1], jnp.uint8))
    assert value[0] == 0 < value[1]
    assert not gradient[0].any()


@pytest.mark.parametrize("loss", IGNORING, ids=repr)
def test_other_labels_outside_of_the_classes_are_not_ignored(loss):
    with pytest.raises(ValueError, match=r"0 … 4, or to be -1, which is ignored, got -2 at exam"):
        loss.value(jnp.ones((2, 5)), jnp.asarray([-1, -2]))


def test_distributions_have_no_label_to_ignore():
    z, t = normal(0, (2, 5), np.float32), jax.nn.softmax(normal(1, (2, 5), np.float32))
    found = value_and_gradient(nn.softmax_cross_entropy(ignore_index=0), z, t)
    for a, b in zip(found, value_and_gradient(nn.softmax_cross_entropy(), z, t), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_root_is_that_of_the_hessian_of_what_is_left(smoothing, x64):
    loss = nn.softmax_cross_entropy(smoothing, ignore_index=-1)
    z_shape = (1, 3, 2)
    z, labels = normal(0, z_shape), jnp.asarray([[0, -1, 1]])

    @jax.jit
    def both(flat):
        hessian = jax.hessian(lambda z: loss.value(z.reshape(z_shape), labels)[0])(flat)
        columns = jax.vmap(lambda v: loss.hessian_root(z, labels, v.reshape(z_shape)).ravel())
        return columns(jnp.eye(6)).T, hessian

    root, hessian = both(z.ravel())
    assert_agree(root @ root.T, hessian, 1e-12)
