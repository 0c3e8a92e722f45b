"""Updates of the rows of a table that a batch looked up."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal

import jaxnn as nn
from jaxnn import training

LOSS = nn.mean_squared_error()
IDS = jnp.asarray([[2, 5, 2], [0, 2, 5]])
TABLES = {
    "embedding": (nn.serial(nn.embedding(7, 3), nn.dense(2)), IDS, (2, 3, 2)),
    "bags with padding": (
        nn.serial(nn.embedding_bag(7, 3, padding_id=-1), nn.dense(2)),
        jnp.asarray([[2, -1, 2], [0, 2, 5]]),
        (2, 2),
    ),
}
ADAM = optax.adam(0.1)


def steps(network, optimizer, x, target, *, weights=None, steps=3, **options):
    step = training.update_in_backward(network, LOSS, optimizer, **options)
    found = [step.create_state(jax.random.key(1), x)]
    run = jax.jit(step)
    for _ in range(steps):
        found.append(run(found[-1], x, target, weights)[0])
    return found


@pytest.mark.parametrize("name", ["embedding", "bags with padding"])
@pytest.mark.parametrize("clipping", [{}, {"clip_norm": 0.1, "clip_layers": 0.05}], ids=str)
def test_by_sgd_the_step_is_that_of_the_whole_table(name, clipping, x64):
    network, x, shape = TABLES[name]
    target, weights = normal(0, shape), jnp.asarray([1.0, 3])
    own, whole = (
        steps(network, optax.sgd(0.5), x, target, weights=weights, lazy_rows=lazy, **clipping)[-1]
        for lazy in (True, False)
    )
    assert_agree(own.params, whole.params, 1e-10)


def test_adam_steps_each_row_by_what_it_remembers_when_the_row_is_looked_up(x64):
    """Against Adam by hand, whose means and rows stand still while a row is not looked up, and
    whose correction counts all steps, as SparseAdam of PyTorch has it."""
    network = nn.embedding(5, 2)
    step = training.update_in_backward(network, LOSS, ADAM, lazy_rows=True)
    state = step.create_state(jax.random.key(1), jnp.zeros((1, 2), int))
    table = np.asarray(state.params["weight"])
    mean, square, run = np.zeros_like(table), np.zeros_like(table), jax.jit(step)
    for count, ids in enumerate(([1, 1], [3, 0], [1, 3]), 1):
        target = np.asarray(normal(count, (1, 2, 2)))
        state, _ = run(state, jnp.asarray([ids]), jnp.asarray(target))
        gradient = np.zeros_like(table)
        np.add.at(gradient, ids, (table[ids] - target[0]) / 2)
        rows = sorted(set(ids))
        mean[rows] = 0.9 * mean[rows] + 0.1 * gradient[rows]
        square[rows] = 0.999 * square[rows] + 0.001 * gradient[rows] ** 2
        corrected = mean[rows] / (1 - 0.9**count), square[rows] / (1 - 0.999**count)
        table = table.copy()
        table[rows] -= 0.1 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        assert_agree(state.params["weight"], table, 1e-10)


def test_rows_that_were_not_looked_up_are_the_same_bits():
    network, x, shape = TABLES["embedding"]
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    first, *_, last = steps(network, optimizer, x, normal(0, shape, np.float32), lazy_rows=True)
    before, after = first.params[0]["weight"], last.params[0]["weight"]
    assert (before == after).all(1).tolist() == [v not in (0, 2, 5) for v in range(7)]
    means = last.optimizer_state[0][0].mu["weight"]
    assert ((means == 0).all(1) == (before == after).all(1)).all()


def test_copies_of_a_table_in_a_repeat_take_steps_of_their_own_rows(x64):
    add_own = nn.fork(nn.select(0), nn.serial(nn.on(0, nn.embedding(7, 3)), nn.add()))
    network = nn.serial(nn.repeat(add_own, 2), nn.select(1))
    x, target = (IDS, normal(0, (2, 3, 3))), normal(1, (2, 3, 3))
    own, whole = (
        steps(network, ADAM, x, target, lazy_rows=lazy, steps=1)[-1] for lazy in (True, False)
    )
    assert_agree(own[:3], whole[:3], 1e-10)


def test_a_table_of_several_uses_takes_the_whole_step(x64):
    network = nn.serial(nn.share(nn.embedding(7, 3)), nn.add())
    x, target = (IDS, IDS[::-1]), normal(0, (2, 3, 3))
    own, whole = (steps(network, ADAM, x, target, lazy_rows=lazy)[-1] for lazy in (True, False))
    assert_agree(own.params, whole.params, 1e-10)


def test_no_array_of_the_size_of_the_table_is_made():
    network = nn.embedding(20_000, 8)
    step = training.update_in_backward(network, LOSS, ADAM, lazy_rows=True)
    x, target = jnp.zeros((4, 2), int), jnp.zeros((4, 2, 8))
    state = jax.eval_shape(step.create_state, jax.random.key(0), x)
    compiled = jax.jit(step, donate_argnums=0).lower(state, x, target).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20_000 * 8 * 4 / 3


@pytest.mark.parametrize("optimizer", [optax.adafactor(0.1), optax.contrib.muon(0.1)])
def test_an_optimiser_that_mixes_rows_is_refused(optimizer):
    network, x, shape = TABLES["embedding"]
    with pytest.raises(ValueError, match=r"element by element.*lazy_rows=False"):
        steps(network, optimizer, x, jnp.zeros(shape), lazy_rows=True)


@pytest.mark.parametrize(
    "optimizer", [optax.MultiSteps(ADAM, 2).gradient_transformation(), optax.apply_every(2)]
)
def test_an_optimiser_that_adds_gradients_up_is_refused(optimizer):
    network, x, shape = TABLES["embedding"]
    with pytest.raises(ValueError, match=r"takes every step.*adds gradients up"):
        steps(network, optimizer, x, jnp.zeros(shape), lazy_rows=True)
