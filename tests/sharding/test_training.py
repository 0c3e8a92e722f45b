"""Training on several devices gives the parameters of one, whatever the layout."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal

import jaxnn as nn
from jaxnn.kernels.convolution import pooled, winograd, winograd_rows
from jaxnn.learning.privacy import private
from jaxnn.sharding import LAYOUTS, make_mesh, sent_bytes
from jaxnn.training import (
    Crosscheck,
    create_state,
    make_optimizer,
    make_step,
    place,
    poisson,
    streamed,
    task_of,
    train,
)
from jaxnn.training.checkpoints import Checkpoints
from jaxnn.training.placement import gather_params, keep_layout

CLASSES, EXAMPLES, BATCH = 4, 22, 8  # the last batch of an epoch, 6, cannot be split over 4
LOSS = nn.softmax_cross_entropy()


DENSE = nn.serial(
    *(nn.dense(8, use_bias=False), nn.batch_norm(), nn.relu(), nn.dropout(0.3)),
    *(nn.dense(12), nn.tanh(), nn.dense(CLASSES)),
)
SMALL = nn.serial(nn.dense(6), nn.relu(), nn.dense(CLASSES))


def problem(network, x_shape):
    x = np.asarray(normal(0, (EXAMPLES, *x_shape)))
    target = np.random.default_rng(1).integers(0, CLASSES, EXAMPLES).astype(np.int32)
    optimizer = make_optimizer("momentum", 0.1)
    return x, target, optimizer, create_state(network, optimizer, jax.random.key(0), x[:1])


@cache
def run_on_one(**options):
    """`run` of the dense network in float64 without a mesh, which several tests compare with."""
    return run(DENSE, (8,), **options)


def run(network, x_shape, mesh=None, layout="replicated", validates=False, **options):
    """The last epoch and what it has left."""
    x, target, optimizer, state = problem(network, x_shape)
    if mesh is not None:
        state = place(state, mesh, network, optimizer, LAYOUTS[layout])
    validation = (x[:5], target[:5], task_of(LOSS, CLASSES)) if validates else None
    few = {"epochs": 2, "batch_size": BATCH, "validation": validation, "crosscheck": None}
    options = few | options
    *_, epoch = train(network, LOSS, optimizer, state, x, target, **options)
    return epoch, jax.tree.map(np.asarray, epoch.train_state._replace(key=()))


@pytest.mark.parametrize(
    ("data", "model", "layout"),
    [(4, 1, "replicated"), (4, 1, "fully_sharded"), (2, 2, "tensor_parallel")],
)
def test_a_dense_network_has_the_parameters_of_one_device(data, model, layout, x64):
    expected_epoch, expected = run_on_one(validates=True)
    epoch, found = run(DENSE, (8,), make_mesh(data, model), layout, validates=True)
    assert_agree(found, expected, 1e-10)
    np.testing.assert_allclose(epoch.losses, expected_epoch.losses, rtol=1e-12)
    assert epoch.validation["loss"] == pytest.approx(expected_epoch.validation["loss"], rel=1e-10)


EIGHT = """
import chex
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
import test_training as here
_, expected = here.run(here.DENSE, (8,))
for count in (1, 2, 8):
    mesh = here.make_mesh(count, devices=jax.devices()[:count])
    here.assert_agree(here.run(here.DENSE, (8,), mesh)[1], expected, 1e-10)
"""


def test_meshes_of_one_two_and_eight_devices_have_the_parameters_of_no_mesh():
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    environment = os.environ | {"PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", EIGHT], env=environment, check=True, timeout=300)


@pytest.mark.parametrize("layout", ["replicated", "fully_sharded"])
def test_a_network_worked_off_in_chunks_has_the_parameters_of_one_device(layout, x64, monkeypatch):
    for module in (winograd, winograd_rows, pooled):
        monkeypatch.setattr(module, "CHUNK_BYTES", 20_000)  # two chunks on each of four devices
    block = (nn.conv(8, (3, 3)), nn.relu(), nn.max_pool(2))
    network, shape = nn.fuse(nn.serial(*block, nn.flatten(), nn.dense(CLASSES))), (8, 8, 16)
    expected = run(network, shape, epochs=1)[1]
    assert_agree(run(network, shape, make_mesh(), layout, epochs=1)[1], expected, 1e-10)


def test_crosscheck_compares_on_several_devices(x64):
    epoch, found = run(DENSE, (8,), make_mesh(), crosscheck=Crosscheck(every=1))
    assert 0 < epoch.disagreement < 1e-10
    assert_agree(found, run_on_one(validates=True)[1], 1e-10)


def test_private_training_has_the_noise_of_one_device(x64):
    noisy = private(SMALL, LOSS, clip_norm=1.0, noise_multiplier=1.0, batch_size=BATCH)
    options = {"gradient": noisy, "draw": poisson}
    expected = run(SMALL, (8,), **options)[1]
    assert_agree(run(SMALL, (8,), make_mesh(), **options)[1], expected, 1e-10)


def test_streamed_batches_have_the_parameters_of_one_device(x64):
    expected = run_on_one(validates=True)[1]
    assert_agree(run(DENSE, (8,), make_mesh(), draw=streamed)[1], expected, 1e-10)


def test_micro_batches_have_the_gradient_of_one_device(x64):
    gradient = nn.accumulate(nn.backprop(SMALL, LOSS), 2, network=SMALL)
    expected = run(SMALL, (8,), gradient=gradient)[1]
    assert_agree(run(SMALL, (8,), make_mesh(), gradient=gradient)[1], expected, 1e-10)


def test_a_batch_that_does_not_divide_is_refused_before_any_step():
    with pytest.raises(ValueError, match=r"batch_size to be a multiple of the 4 devices .* got 6"):
        run(SMALL, (8,), make_mesh(), batch_size=6)


def by_kind(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.partition({"weight": optax.adam(1e-2), "bias": optax.sgd(0.1)}, by_kind),
        optax.masked(optax.adam(1e-2), lambda p: jax.tree.map(lambda a: a.ndim > 1, p)),
        optax.contrib.muon(1e-2),
        optax.sm3(1e-2),
        optax.adafactor(1e-2),
        optax.lbfgs(),
    ],
    ids=["partition", "masked", "muon", "sm3", "adafactor", "lbfgs"],
)
def test_whatever_an_optimiser_keeps_can_be_placed(optimizer):
    params = SMALL.init(jax.random.key(0), jnp.ones((1, 4)))[0]
    state = create_state(SMALL, optimizer, jax.random.key(0), jnp.ones((1, 4)))
    placed = place(state, make_mesh(4), SMALL, optimizer, LAYOUTS["fully_sharded"])
    chex.assert_trees_all_equal(placed.optimizer_state, optimizer.init(params))
    assert not placed.params[2]["weight"].sharding.is_fully_replicated


def test_parameters_and_optimiser_stay_split_as_they_were_placed():
    state = run(DENSE, (8,), make_mesh(2, 2), "tensor_parallel", epochs=1)[0].train_state
    first, second = state.params[0]["weight"], state.params[4]["weight"]
    assert first.sharding.shard_shape(first.shape) == (8, 4)
    assert second.sharding.shard_shape(second.shape) == (4, 12)
    (trace, *_), *_ = (s for s in state.optimizer_state if jax.tree.leaves(s))
    assert trace.trace[0]["weight"].sharding == first.sharding
    assert state.step.sharding.is_fully_replicated


def test_a_fully_sharded_device_holds_its_part_of_parameters_and_optimiser():
    network = nn.serial(nn.dense(16), nn.dense(16))
    _, _, optimizer, state = problem(network, (8,))
    placed = place(state, make_mesh(), network, optimizer, LAYOUTS["fully_sharded"])
    for leaf in jax.tree.leaves((placed.params, placed.optimizer_state)):
        assert 4 * leaf.addressable_data(0).size == leaf.size


def test_diverging_on_several_devices_names_the_layer():
    network = nn.serial(nn.dense(4), nn.dense(CLASSES))
    x, target, optimizer, state = problem(network, (8,))
    state = place(state, make_mesh(), network, optimizer)
    epochs = train(network, LOSS, optimizer, state, 1e38 * x, target, epochs=1, batch_size=BATCH)
    with pytest.raises(RuntimeError, match="diverged at step 0"):
        next(epochs)


def test_a_checkpoint_of_four_devices_resumes_on_two_and_on_one(tmp_path, x64):
    x, target, optimizer, like = problem(DENSE, (8,))
    saved, expected = run(DENSE, (8,), make_mesh(), "fully_sharded")
    with Checkpoints(tmp_path / "saved") as checkpoints:
        checkpoints.save(2, saved.train_state)
    two = make_mesh(2, devices=jax.devices()[:2])
    for mesh in (two, None):
        target_state = like if mesh is None else place(like, mesh, DENSE, optimizer)
        with Checkpoints(tmp_path / "saved", read_only=True) as checkpoints:
            epoch, restored = checkpoints.restore(like=target_state)
        assert epoch == 2
        assert_agree(jax.tree.map(np.asarray, restored._replace(key=())), expected, 0.0)
        assert restored.step.sharding == target_state.step.sharding
        *_, last = train(DENSE, LOSS, optimizer, restored, x, target, epochs=3, batch_size=BATCH)
        resumed = jax.tree.map(np.asarray, last.train_state.params)
        assert_agree(resumed, run_on_one(epochs=3)[1].params, 1e-10)


@pytest.mark.parametrize(
    ("layout", "times"),
    # Gradients are added up by an all-reduce, 2 (n − 1)/n of their bytes, and parameters gathered
    # by (n − 1)/n of them.
    [("replicated", 2), ("fully_sharded", 3)],
)
def test_a_step_sends_what_the_formula_says(layout, times):
    network = nn.serial(nn.dense(64), nn.relu(), nn.dense(64))
    _, _, optimizer, state = problem(network, (64,))
    mesh = make_mesh()
    state = place(state, mesh, network, optimizer, LAYOUTS[layout])
    gradient = gather_params(nn.backprop(network, LOSS), state)
    step = keep_layout(make_step(gradient, optimizer), state)
    with jax.set_mesh(mesh):
        sharded = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        x = jax.device_put(jnp.ones((BATCH, 64), state.params[0]["weight"].dtype), sharded)
        target = jax.device_put(jnp.zeros(BATCH, jnp.int32), sharded)
        program = jax.jit(step).lower(state, x, target).compile()
    bytes_of_params = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert sent_bytes(program) == pytest.approx(times * 3 / 4 * bytes_of_params, rel=0.01)
