"""Ways to draw batches, those of one's own too."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_problems as problems

import jaxnn as nn
from jaxnn.sharding import make_mesh
from jaxnn.training import (
    Batches,
    Crosscheck,
    Disagreement,
    Diverged,
    Draw,
    Streamed,
    create_state,
    in_batches,
    make_optimizer,
    make_step,
    place,
    poisson,
    shuffled,
    streamed,
    train,
)

NETWORK = nn.serial(nn.dense(6), nn.tanh(), nn.dense(problems.CLASSES))
SGD = make_optimizer("sgd", 0.1)
LOSS = nn.softmax_cross_entropy()


class in_order(Draw):
    """Example after example, as a user would write it."""

    def batches(self, key, examples, batch_size):
        return in_batches(jnp.arange(examples), batch_size)


class with_replacement(Draw):
    """So many steps of random examples, the first half of a batch counting twice."""

    steps: int = 5

    def batches(self, key, examples, batch_size):
        indices = jax.random.randint(key, (self.steps, batch_size), 0, examples)
        weights = jnp.where(jnp.arange(batch_size) < batch_size // 2, 2.0, 1.0)
        return [Batches(indices, jnp.broadcast_to(weights, indices.shape))]


class returning(Draw):
    """Whatever it is given."""

    made: tuple

    def batches(self, key, examples, batch_size):
        return [make() for make in self.made]


def last_of(draw, mesh=None, epochs=2, **options):
    network, loss, optimizer, state, x, target = problems.start(NETWORK, SGD)
    if mesh is not None:
        state = place(state, mesh, network, optimizer)
        x, target = np.asarray(x), np.asarray(target)
    few = {"epochs": epochs, "batch_size": problems.BATCH_SIZE, "draw": draw, "crosscheck": None}
    options = few | options
    *_, last = train(network, loss, optimizer, state, x, target, **options)
    return last


last_of_plain = functools.cache(last_of)


def test_a_draw_of_ones_own_takes_the_batches_that_it_says():
    network, loss, optimizer, state, x, target = problems.start(NETWORK, SGD)
    step, losses = jax.jit(make_step(nn.backprop(network, loss), optimizer)), []
    for start in range(0, len(x), problems.BATCH_SIZE):
        rows = slice(start, start + problems.BATCH_SIZE)
        state, value = step(state, x[rows], target[rows])
        losses.append(value)
    last = last_of(in_order(), epochs=1)
    np.testing.assert_allclose(last.losses, losses, rtol=1e-5)
    chex.assert_trees_all_close(last.train_state.params, state.params, rtol=1e-4, atol=1e-6)


def test_a_draw_of_ones_own_has_as_many_steps_and_weights_as_it_says():
    network, loss, optimizer, state, x, target = problems.start(NETWORK, SGD)
    draw = with_replacement(4)
    last = last_of(draw, epochs=1)
    ((indices, weights),) = draw.of_epoch(state, len(x), problems.BATCH_SIZE)
    step, losses = jax.jit(make_step(nn.backprop(network, loss), optimizer)), []
    for rows, counted in zip(indices, weights, strict=True):
        state, value = step(state, x[rows], target[rows], counted)
        losses.append(value)
    np.testing.assert_allclose(last.losses, losses, rtol=1e-5)
    assert int(last.train_state.step) == 4


def test_every_epoch_of_a_draw_has_a_key_of_its_own():
    *_, state, x, _ = problems.start(NETWORK, SGD)
    first, second, third = (
        with_replacement(5).of_epoch(state._replace(step=jnp.int32(step)), len(x), 8)[0].indices
        for step in (0, 4, 5)
    )
    chex.assert_trees_all_equal(first, second)
    assert (first != third).any()


@pytest.mark.parametrize("draw", [in_order(), with_replacement(), poisson])
@pytest.mark.parametrize("form", ["streamed", "on a mesh", "streamed on a mesh", "crosschecked"])
def test_every_draw_can_be(draw, form):
    expected = last_of_plain(draw)
    mesh = make_mesh() if "mesh" in form else None
    found = last_of(
        Streamed(draw, steps_at_once=2) if "streamed" in form else draw,
        mesh,
        crosscheck=Crosscheck(2) if form == "crosschecked" else None,
    )
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-4)
    assert (found.disagreement is not None) == (form == "crosschecked")


def test_a_stopped_run_goes_on_with_the_numbers_of_one_never_stopped():
    network, loss, optimizer, state, x, target = problems.start(NETWORK, SGD)
    options = {"batch_size": problems.BATCH_SIZE, "draw": with_replacement()}
    *_, whole = train(network, loss, optimizer, state, x, target, epochs=3, **options)
    (first,) = train(network, loss, optimizer, state, x, target, epochs=1, **options)
    *_, resumed = train(network, loss, optimizer, first.train_state, x, target, epochs=3, **options)
    assert resumed.number == 3
    chex.assert_trees_all_equal(resumed.train_state.params, whole.train_state.params)


@pytest.mark.parametrize("draw", [with_replacement(), Streamed(with_replacement()), poisson])
def test_divergence_names_step_and_layer_of_any_draw(draw):
    start = problems.start(problems.network(), make_optimizer("sgd", 1e30))
    message = r"diverged at step \d: .* the first gradient not finite is that of 4 dense"
    with pytest.raises(Diverged, match=message):
        list(train(*start, epochs=3, batch_size=8, draw=draw))


def test_crosscheck_of_a_draw_with_weights_stops_at_a_wrong_gradient():
    right = nn.backprop(NETWORK, LOSS)

    def unweighted(params, state, x, target, key=None, weights=None):
        return right(params, state, x, target, key)

    with pytest.raises(Disagreement, match="at step 0"):
        last_of(with_replacement(), gradient=unweighted, crosscheck=Crosscheck())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ((lambda: jnp.zeros((2, 3), int),), "got ShapeDtypeStruct"),
        ((lambda: Batches(jnp.zeros(3, int)),), r"got Batches\(indices=.*shape=\(3,\)"),
        ((lambda: Batches(jnp.zeros((2, 3))),), r"got Batches\(indices=.*float32"),
        ((lambda: Batches(jnp.zeros((2, 3), int), jnp.ones(3)),), r"weights=.*shape=\(3,\)"),
        ((), "expected batches to return at least one, got none"),
        (
            (lambda: Batches(jnp.array([[0, 1], [22, 23]])),),
            "expected indices of batches to lie in 0 … 22, got 0 … 23",
        ),
        ((lambda: Batches(jnp.array([[-1]])),), "to lie in 0 … 22, got -1 … -1"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_batches_that_cannot_be_are_refused_before_the_first_epoch(made, message):
    with pytest.raises((TypeError, ValueError), match=f"returning: .*{message}"):
        train(*problems.start(NETWORK, SGD), epochs=1, batch_size=8, draw=returning(made))


def test_draws_are_values():
    assert Streamed() == streamed
    assert hash(Streamed(poisson)) == hash(Streamed(poisson))
    assert pickle.loads(pickle.dumps(Streamed(poisson, read_ahead=3))).read_ahead == 3
    assert repr(Streamed(shuffled, steps_at_once=4)) == "Streamed(steps_at_once=4)"


@pytest.mark.parametrize("field", ["steps_at_once", "read_ahead"])
def test_a_streamed_draw_that_cannot_be_is_refused(field):
    with pytest.raises(ValueError, match=f"Streamed: expected {field} to be at least 1, got 0"):
        Streamed(**{field: 0})


def test_what_is_drawn_is_what_earlier_versions_drew():
    state = create_state(nn.identity(), SGD, jax.random.key(0), jnp.ones((1, 1)))
    state = state._replace(step=jnp.int32(7))
    full, rest = shuffled.of_epoch(state, 11, 4)
    order = np.concatenate([full.indices.ravel(), rest.indices.ravel()])
    assert order.tolist() == [7, 4, 2, 0, 8, 5, 9, 1, 10, 3, 6]
    ((indices, weights),) = poisson.of_epoch(state, 11, 4)
    samples = [row[counted == 1].tolist() for row, counted in zip(indices, weights, strict=True)]
    assert samples == [[0, 1, 6], [1, 6, 7], [2, 3, 5, 6, 7, 10]]
