"""Cross-validation: networks of several folds trained side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree

import jaxnn as nn
from jaxnn.training import create_state, train, train_folds

NETWORK, LOSS = nn.serial(nn.dense(4), nn.relu(), nn.dense(2)), nn.softmax_cross_entropy()
RANDOM = np.random.default_rng(0)


def examples(count):
    x = RANDOM.normal(size=(count, 3)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32)


def by_itself(x, target, epochs, optimizer):
    start = create_state(NETWORK, optimizer, jax.random.key(1), x[:1])
    options = {"epochs": epochs, "batch_size": 8, "crosscheck": None}
    return [*train(NETWORK, LOSS, optimizer, start, x, target, **options)]


@pytest.mark.parametrize("counts", [(20, 20, 20), (20, 15, 17)], ids=str)
def test_a_fold_is_what_it_is_by_itself(counts):
    data, optimizer = [examples(count) for count in counts], optax.adam(0.05)
    found = train_folds(NETWORK, LOSS, optimizer, data, epochs=3, batch_size=8, seed=1)
    assert found.losses.shape == (3, 3)
    np.testing.assert_array_equal(found.epochs, 3)
    # The first fold, which is the longest, is exact.
    epochs = by_itself(*data[0], 3, optimizer)
    own = jax.tree.map(lambda a: a[0], found.params)
    assert_agree(own, epochs[-1].train_state.params, 1e-4)
    means = [np.mean(epoch.losses) for epoch in epochs]
    np.testing.assert_allclose(found.losses[0], means, rtol=1e-4)
    assert np.isfinite(found.losses).all()


def test_of_a_whole_batch_the_order_does_not_matter_so_shorter_folds_are_exact_too():
    data, optimizer = [examples(9), examples(8)], optax.sgd(0.1)
    found = train_folds(NETWORK, LOSS, optimizer, data, epochs=2, batch_size=8, seed=1)
    last = by_itself(*data[1], 2, optimizer)[-1].train_state
    # Its second step has no example, and changes nothing.
    assert_agree(jax.tree.map(lambda a: a[1], found.params), last.params, 1e-5)


def test_folds_of_several_lengths_are_exact_where_a_batch_is_normalised():
    network, optimizer = nn.serial(nn.dense(3), nn.batch_norm(), nn.dense(2)), optax.sgd(0.1)
    data = [examples(count) for count in (11, 13, 11)]
    options = {"epochs": 2, "batch_size": 8}

    def score(params, state, shift):
        return shift - sum(jnp.sum(a) for a in jax.tree.leaves(state))

    found = train_folds(
        network,
        LOSS,
        optimizer,
        data,
        seed=1,
        score=score,
        held_out=np.float32([0, 1, 2]),
        **options,
    )
    for fold, (x, target) in enumerate(data):
        start = create_state(network, optimizer, jax.random.key(1), x[:1])
        alone = [*train(network, LOSS, optimizer, start, x, target, crosscheck=None, **options)]
        scores = [score(e.train_state.params, e.train_state.state, fold) for e in alone]
        np.testing.assert_allclose(found.scores[fold], scores, rtol=1e-4)
        best = alone[int(np.argmin(scores))].train_state
        own = jax.tree.map(lambda a, fold=fold: a[fold], (found.params, found.state))
        assert_agree(own, (best.params, best.state), 1e-4)


def test_the_best_epoch_is_kept():
    data = [examples(16), examples(16)]

    def score(params, state, target):  # the sum of squares nearest to the target
        total = sum(jnp.sum(a**2) for a in jax.tree.leaves(params))
        return jnp.abs(total - target)

    options = {"epochs": 6, "batch_size": 8, "score": score, "held_out": np.float32([2, 1e6])}
    found = train_folds(NETWORK, LOSS, optax.adam(0.1), data, **options)
    np.testing.assert_array_equal(found.epochs, 1 + np.argmin(found.scores, 1))
    for fold, target in enumerate(options["held_out"]):
        own = jax.tree.map(lambda a, fold=fold: a[fold], found.params)
        assert score(own, (), target) == pytest.approx(float(np.min(found.scores[fold])), rel=1e-5)


def test_a_batch_larger_than_a_fold_is_refused():
    with pytest.raises(ValueError, match="at most the number of training examples, 7"):
        train_folds(
            NETWORK, LOSS, optax.sgd(0.1), [examples(9), examples(7)], epochs=1, batch_size=8
        )
