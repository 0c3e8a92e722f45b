import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, value_and_gradient

import jaxnn as nn

LENGTHS = jnp.array([3, 1, 0])
MASK = jnp.asarray(np.arange(3) < np.asarray(LENGTHS)[:, None])


@pytest.mark.parametrize("make", [nn.softmax_cross_entropy, nn.half_squared_error, nn.huber])
def test_value_gradient_and_root_are_means_over_the_real_positions(make, x64):
    inner, loss = make(), nn.sequence_loss(make())
    y = normal(0, (3, 3, 4))
    targets = jnp.array([[0, 1, 2]] * 3) if make is nn.softmax_cross_entropy else normal(1, y.shape)

    @jax.jit
    def run(y):
        target = (targets, LENGTHS)
        by_autodiff = jax.grad(lambda z: jnp.sum(loss.value(z, target)))(y)
        of_first = jnp.mean(inner.value(y[0], targets[0]))
        of_second = inner.value(y[1, :1], targets[1, :1])[0]
        return (loss.value(y, target), loss.gradient(y, target)), (of_first, of_second, by_autodiff)

    (values, delta), (of_first, of_second, by_autodiff) = run(y)
    np.testing.assert_allclose(values, [of_first, of_second, 0], rtol=1e-12)
    assert_agree(delta, by_autodiff, 1e-12)
    assert not np.any(np.where(MASK[..., None], 0, delta))
    if loss.root_known:
        v = normal(2, y.shape)
        root = np.asarray(jax.jit(loss.hessian_root)(y, (targets, MASK), v))
        expected = np.asarray(jax.jit(inner.hessian_root)(y[0], targets[0], v[0]))
        np.testing.assert_allclose(root[0], expected / np.sqrt(3), rtol=1e-12)


def test_a_mask_says_the_same_as_lengths_and_padding_may_hold_anything():
    loss = nn.sequence_loss(nn.softmax_cross_entropy())
    y, labels = normal(0, (3, 3, 4)), jnp.array([[0, 1, 2]] * 3)
    spoilt = (
        np.where(np.asarray(MASK)[..., None], y, np.float32(np.nan)),
        np.where(MASK, labels, np.int32(-7)),
    )

    @jax.jit
    def run(y, labels, real):
        target = (labels, real)
        grad = jax.grad(lambda z: jnp.sum(loss.value(z, target)))(y)
        return loss.value(y, target), loss.gradient(y, target), grad

    expected = run(y, labels, LENGTHS)
    for given in (run(y, labels, MASK), run(*spoilt, LENGTHS)):
        for a, b in zip(given, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_without_padding_it_is_the_loss_itself():
    y, labels = normal(0, (2, 3, 4)), jnp.array([[0, 1, 2]] * 2)
    inner = nn.softmax_cross_entropy()
    target = (labels, jnp.array([3, 3]))
    value = jax.jit(nn.sequence_loss(inner).value)(y, target)
    np.testing.assert_allclose(value, jax.jit(inner.value)(y, labels), rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (jnp.zeros((2, 3), int), TypeError, r"target to be a tuple \(target, lengths or mask\)"),
        ((jnp.zeros((2, 2), int), jnp.array([1, 1])), ValueError, r"shape \[2, 3, …\]"),
        ((jnp.zeros((2, 3), int), jnp.array([4, 1])), ValueError, "lengths to lie in 0 … 3"),
        ((jnp.zeros((2, 3), int), jnp.ones((2, 2), bool)), ValueError, "the mask to have shape"),
    ],
)
def test_wrong_targets_are_named(target, error, message):
    loss = nn.sequence_loss(nn.softmax_cross_entropy())
    with pytest.raises(
        error, match=f"sequence_loss of softmax_cross_entropy: expected .*{message}"
    ):
        loss.value(jnp.zeros((2, 3, 4)), target)


def test_labels_of_padding_are_not_checked():
    loss, y = nn.sequence_loss(nn.softmax_cross_entropy()), normal(0, (3, 3, 4))
    labels = jnp.where(MASK, 1, -7).astype(jnp.int8)
    expected = loss.value(y, (jnp.ones((3, 3), int), LENGTHS))
    np.testing.assert_array_equal(loss.value(y, (labels, LENGTHS)), expected)
    with pytest.raises(ValueError, match=r"0 … 3 .*, got -7 at example 1, position 1$"):
        loss.value(y, (labels, jnp.array([3, 2, 0])))


@pytest.mark.parametrize("make", [nn.softmax_cross_entropy, nn.categorical_cross_entropy])
def test_ignored_labels_count_as_padding(make, x64):
    y = jax.nn.softmax(normal(0, (2, 3, 4)))
    labels, lengths = jnp.array([[0, 200, 2], [200, 1, 3]], jnp.uint8), jnp.array([3, 1])
    found, expected = (
        value_and_gradient(nn.sequence_loss(loss), y, target)
        for loss, target in [
            (make(ignore_index=200), (labels, lengths)),
            (make(), (labels, (labels < 4) & (jnp.arange(3) < lengths[:, None]))),
        ]
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_root_that_is_not_known_is_refused_by_the_name_of_the_loss():
    loss = nn.sequence_loss(nn.hinge())
    assert not loss.root_known
    y = jnp.ones((1, 1, 1))
    with pytest.raises(ValueError, match="hinge: expected a loss whose hessian_root is known"):
        loss.hessian_root(y, (y, jnp.array([1])), y)


def test_it_is_a_value_named_after_its_loss():
    loss = nn.sequence_loss(nn.softmax_cross_entropy(ignore_index=0))
    assert repr(loss) == "sequence_loss(softmax_cross_entropy(ignore_index=0))"
    assert loss == pickle.loads(pickle.dumps(loss)) != nn.sequence_loss(nn.softmax_cross_entropy())
    assert loss.name == "sequence_loss of softmax_cross_entropy"


def test_a_loss_that_compares_examples_is_refused():
    # Positions would be compared with those of other examples, and nobody would be told.
    with pytest.raises(ValueError, match="contrastive compares them with each other"):
        nn.sequence_loss(nn.contrastive())
