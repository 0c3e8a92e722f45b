"""What training measures on the way, of the captures that its steps compute anyway."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_problems as problems

import jaxnn as nn
from jaxnn.sharding import make_mesh
from jaxnn.statistics import (
    gradient_variance,
    measure,
    per_example_squared_norms,
    quantity,
)
from jaxnn.training import (
    Crosscheck,
    Diverged,
    epoch_order,
    make_optimizer,
    place,
    poisson,
    streamed,
    train,
)

NETWORK = nn.serial(nn.dense(6), nn.tanh(), nn.dense(problems.CLASSES))
LOSS = nn.softmax_cross_entropy()
VARIANCE = {"variance": gradient_variance}
NORMS = {"norms": per_example_squared_norms}


@quantity
def largest_norm(captures, weights=None):
    norms = per_example_squared_norms.of(captures, weights)
    return jnp.max(norms if weights is None else jnp.where(weights == 0, 0, norms))


LARGEST = {"largest": largest_norm}


def epochs(network=NETWORK, **options):
    start = problems.start(network, make_optimizer("sgd", 0.1))
    return list(train(*start, **{"epochs": 2, "batch_size": problems.BATCH_SIZE} | options))


@pytest.fixture(scope="module")
def plain():
    return epochs()


@pytest.fixture(scope="module")
def measured():
    return epochs(measure=VARIANCE | LARGEST)


def test_measuring_changes_nothing_of_the_training(plain, measured):
    for one, other in zip(measured, plain, strict=True):
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)
    ours, theirs = (e[-1].train_state.params for e in (measured, plain))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_without_measure_there_is_none(plain):
    assert [epoch.measures for epoch in plain] == [{}, {}]


def test_every_step_has_the_quantities_of_its_batch(measured):
    *_, state, x, target = problems.start(NETWORK, make_optimizer("sgd", 0.1))
    batch = np.asarray(epoch_order(state, len(x), problems.BATCH_SIZE))[: problems.BATCH_SIZE]
    run = measure(NETWORK, LOSS, **VARIANCE, **LARGEST)
    first = run(state.params, state.state, x[batch], target[batch])
    of_first_step = jax.tree.map(lambda a: a[0], measured[0].measures)
    chex.assert_trees_all_close(of_first_step, first, rtol=1e-4, atol=1e-7)


def test_measures_are_arrays_with_the_steps_first(measured):
    for epoch in measured:
        assert epoch.measures["largest"].shape == (3,)
        assert epoch.measures["variance"][0]["weight"].shape == (3, problems.FEATURES, 6)


def test_measures_of_single_examples_stand_side_by_side_where_batches_are_equal():
    *start, x, target = problems.start(NETWORK, make_optimizer("sgd", 0.1))
    (epoch,) = train(*start, x[:16], target[:16], epochs=1, batch_size=8, measure=NORMS)
    assert epoch.measures["norms"].shape == (2, 8)


@pytest.mark.usefixtures("untyped")
def test_measures_of_single_examples_of_a_smaller_last_batch_are_refused_at_once():
    message = r"norms to have one shape in every step, got \[\(8,\), \(7,\)\] in steps of \[8, 7\]"
    with pytest.raises(ValueError, match=message):
        train(*problems.start(NETWORK), epochs=1, batch_size=8, measure=NORMS)


@pytest.mark.parametrize("draw", [poisson, streamed], ids=["poisson", "streamed"])
def test_every_draw_is_measured(draw):
    (epoch,) = epochs(epochs=1, draw=draw, measure=LARGEST)
    assert epoch.measures["largest"].shape == (3,)
    assert (epoch.measures["largest"] > 0).all()


def test_measures_of_a_mesh_are_those_of_one_device():
    network, loss, optimizer, state, x, target = problems.start(NETWORK, make_optimizer("sgd", 0.1))
    placed = place(state, make_mesh(), network, optimizer)
    options = {"epochs": 1, "batch_size": problems.BATCH_SIZE, "measure": VARIANCE | LARGEST}
    found, expected = (
        next(train(network, loss, optimizer, s, np.asarray(x), np.asarray(target), **options))
        for s in (placed, state)
    )
    chex.assert_trees_all_close(found.measures, expected.measures, rtol=1e-4, atol=1e-7)


def test_crosschecked_training_is_measured_too():
    (epoch,) = epochs(epochs=1, measure=LARGEST, crosscheck=Crosscheck(every=1))
    assert epoch.disagreement < 1e-5
    assert epoch.measures["largest"].shape == (3,)


def test_divergence_of_a_measured_training_names_the_layer():
    network = nn.serial(nn.dense(6), nn.relu(), nn.dense(6), nn.relu(), nn.dense(3))
    start = problems.start(network, make_optimizer("sgd", 1e30))
    with pytest.raises(Diverged, match="first gradient not finite is that of 4 dense"):
        list(train(*start, epochs=2, batch_size=8, measure=LARGEST))


def test_a_network_that_mixes_examples_is_refused_before_the_first_epoch():
    with pytest.raises(ValueError, match="1 batch_norm mixes the examples"):
        train(*problems.start(problems.network()), epochs=1, batch_size=8, measure=LARGEST)


def test_what_is_measured_is_of_backprop_alone():
    gradient = nn.autodiff(NETWORK, LOSS)
    with pytest.raises(ValueError, match="gradient to be None where something is measured"):
        train(*problems.start(NETWORK), epochs=1, batch_size=8, gradient=gradient, measure=LARGEST)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"norms": lambda captures: 0}, "expected norms to be a Quantity"),
        (["norms"], "expected measure to be quantities of jaxnn.statistics by name"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_what_is_no_quantity_is_refused_by_its_name(measure, message):
    with pytest.raises(TypeError, match=message):
        train(*problems.start(NETWORK), epochs=1, batch_size=8, measure=measure)
