"""Steps other than those of plain backprop, on 1, 2, 4 and 8 devices."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn import training
from jaxnn.sharding import DATA, LAYOUTS, make_mesh, send_captures, sent_bytes

LOSS = nn.softmax_cross_entropy()
LABELS = np.arange(8, dtype=np.int32) % 3
# Batch norm, dropout, recomputed inputs, stacked parameters; the matrix of the first layer is large
# enough to be sent by its factors.
NETWORK = nn.serial(
    *(nn.dense(32), nn.batch_norm(), nn.tanh(), nn.dropout(0.3), nn.dense(6)),
    nn.repeat(nn.reversible(nn.serial(nn.dense(3), nn.tanh()), nn.dropout(0.2)), 2),
    nn.dense(3),
)
APART = nn.serial(nn.dense(6), nn.tanh(), nn.dense(3))
MOMENTUM = optax.sgd(0.1, momentum=0.9)
STEPS = {
    "on the way back": training.update_in_backward(NETWORK, LOSS, MOMENTUM, clip_norm=0.5),
    # Of no more examples than columns, all of the gradient is sent.
    "low rank": training.low_rank(NETWORK, LOSS, MOMENTUM, rank=8),
    "low rank of factors": training.low_rank(NETWORK, LOSS, MOMENTUM, rank=8, error_feedback=False),
    "averaged in every step": training.local_steps(APART, LOSS, MOMENTUM, every=1),
}


def mesh_of(devices):
    return make_mesh(devices, devices=jax.devices()[:devices])


def on(mesh, *trees):
    """The arrays on a mesh, examples split."""
    split = NamedSharding(mesh, P(DATA))
    return tuple(jax.device_put(jnp.asarray(tree), split) for tree in trees)


def of_step(step, steps, devices=None, x=None, labels=LABELS):
    """Params and state after some steps."""
    x = normal(0, (8, 24)) if x is None else x
    train_state = training.create_state(step.network, step, jax.random.key(1), x)
    if devices is None:
        for _ in range(steps):
            train_state, value = jax.jit(step)(train_state, x, labels)
    else:
        mesh = mesh_of(devices)
        train_state = training.place(train_state, mesh, step.network, step)
        with jax.set_mesh(mesh):
            run = jax.jit(training.placement.keep_layout(step, train_state))
            for _ in range(steps):
                train_state, value = run(train_state, *on(mesh, x, labels))
    return jax.tree.map(np.asarray, (train_state.params, train_state.state, value))


@cache
def expected_of(step):
    """Of plain backprop on one device."""
    x = normal(0, (8, 24))
    optimizer = MOMENTUM
    if step.name == "update_in_backward":
        optimizer = optax.chain(optax.clip_by_global_norm(0.5), MOMENTUM)
    train_state = training.create_state(step.network, optimizer, jax.random.key(1), x)
    run = jax.jit(training.make_step(nn.backprop(step.network, LOSS), optimizer))
    for _ in range(2):
        train_state, value = run(train_state, x, LABELS)
    return jax.tree.map(np.asarray, (train_state.params, train_state.state, value))


def agree(devices):
    """Every step, and captures sent, on so many devices."""
    for step in STEPS.values():
        expected = expected_of(step)
        assert_agree(of_step(step, 2, devices), expected, 1e-10)
    x = normal(0, (8, 24))
    params, state = NETWORK.init(jax.random.key(1), x)
    arguments = params, state, x, LABELS
    key, mesh = jax.random.key(3), mesh_of(devices)
    expected = jax.jit(nn.backprop(NETWORK, LOSS))(*arguments, key)
    with jax.set_mesh(mesh):
        found = jax.jit(send_captures(NETWORK, LOSS), out_shardings=NamedSharding(mesh, P()))(
            params, state, *on(mesh, x, LABELS), key
        )
    assert_agree(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected), 1e-10)


EIGHT = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
import test_rescheduled as here
for devices in (1, 2, 4, 8):
    here.agree(devices)
"""


def test_on_one_two_four_and_eight_devices_they_are_plain_backprop():
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    environment = os.environ | {"PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", EIGHT], env=environment, check=True, timeout=600)


def test_factors_that_are_not_formed_are_those_of_the_gradient(x64):
    step = training.low_rank(NETWORK, LOSS, MOMENTUM, rank=8, error_feedback=False)
    for devices in (None, 4):
        assert_agree(of_step(step, 2, devices), expected_of(step), 1e-10)


@pytest.mark.parametrize("devices", [None, 4])
def test_what_low_rank_leaves_out_comes_back(devices, x64):
    """Σ of what is applied is Σ of the gradients, less the mean of the last errors."""
    network = nn.serial(nn.repeat(nn.dense(6), 2), nn.dense(5), nn.dense(3))
    x, labels = normal(0, (8, 6)), LABELS
    step = training.low_rank(network, LOSS, optax.sgd(1.0), rank=1)
    state = first = step.create_state(jax.random.key(1), x)
    gradient, run, total = jax.jit(nn.backprop(network, LOSS)), jax.jit(step), None
    if devices:
        mesh = mesh_of(devices)
        state = training.place(state, mesh, network, step)
        run = jax.jit(training.placement.keep_layout(step, state))
    for _ in range(3):
        plain = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, state.params))
        own = gradient(plain, state.state, x, labels)[1]
        total = own if total is None else jax.tree.map(jnp.add, total, own)
        if devices:
            with jax.set_mesh(mesh):
                state, _ = run(state, *on(mesh, x, labels))
        else:
            state, _ = run(state, x, labels)
    errors = [np.mean(np.asarray(e), 0) for e in state.optimizer_state.errors]
    assert len(errors) == 3
    assert all(np.linalg.norm(e) > 1e-3 for e in errors)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), first.params, state.params)
    kept = [layer["weight"] for layer in (moved[0][0], *moved[1:])]
    whole = [layer["weight"] for layer in (total[0][0], *total[1:])]
    for own, error, gradients in zip(kept, errors, whole, strict=True):
        np.testing.assert_allclose(own + error, gradients, atol=1e-10)


def test_low_rank_sends_the_bytes_that_it_says():
    network = nn.serial(nn.conv(16, 3), nn.relu(), nn.flatten(), nn.dense(32), nn.dense(3))
    x, mesh = jnp.zeros((8, 6, 4)), mesh_of(4)
    step = training.low_rank(network, LOSS, optax.sgd(0.1), rank=2)
    state = step.create_state(jax.random.key(1), x)
    rows = step.plan(state.params, state.state, x)
    assert [row.sent for row in rows] == [4 * n for n in (2 * 28 + 16, 2 * 128 + 32, 2 * 35 + 3)]
    assert all(row.sent < row.gradient for row in rows)
    state = training.place(state, mesh, network, step)
    with jax.set_mesh(mesh):
        run = jax.jit(training.placement.keep_layout(step, state))
        compiled = run.lower(state, *on(mesh, x, LABELS)).compile()
    value = 2 * 3 / 4 * 4
    assert sent_bytes(compiled) == sum(row.sent_bytes(4) for row in rows) + value


def test_a_network_is_trained_by_it_as_its_layers_are_updated_by_captures():
    """Of convolutions, whose captures are patches, embeddings and positions."""
    network = nn.serial(nn.embedding(40, 12), nn.conv(12, 2), nn.flatten(), nn.dense(3))
    ids = np.arange(24).reshape(8, 3) % 40
    for error_feedback in (True, False):
        step = training.low_rank(
            network, LOSS, optax.sgd(0.5), rank=3, error_feedback=error_feedback
        )
        values = []
        state = step.create_state(jax.random.key(0), ids)
        run = jax.jit(step)
        for _ in range(30):
            state, value = run(state, ids, LABELS)
            values.append(float(value))
        assert values[-1] < 0.2 * values[0]


def test_local_steps_are_those_of_every_device_by_itself_until_they_are_averaged(x64):
    x, labels = normal(0, (8, 24)), LABELS
    step = training.local_steps(APART, LOSS, optax.adam(0.05), every=2)
    plain = training.make_step(nn.backprop(APART, LOSS), optax.adam(0.05))
    start = training.create_state(APART, optax.adam(0.05), jax.random.key(1), x)
    alone = []
    for i in range(4):
        own, run = start, jax.jit(plain)
        for _ in range(2):
            own, _ = run(own, x[2 * i : 2 * i + 2], labels[2 * i : 2 * i + 2])
        alone.append(own.params)
    expected = jax.tree.map(lambda *a: np.mean(a, 0), *alone)
    assert_agree(of_step(step, 2, 4)[0], expected, 1e-10)
    assert_agree(of_step(step, 1, 4)[0], jax.tree.map(np.asarray, start.params), 0.0)
    assert step.sent_bytes(start.params, 4) == 2 * 3 / 4 * 8 * (25 * 6 + 7 * 3) / 2


def test_a_device_whose_examples_do_not_count_takes_no_local_step(x64):
    x, weights, optimizer = normal(0, (8, 24)), jnp.asarray([1.0, 2, 0, 0, 1, 1, 0, 3]), MOMENTUM
    step, mesh = training.local_steps(APART, LOSS, optimizer, every=1), mesh_of(4)
    start = step.create_state(jax.random.key(1), x)
    with jax.set_mesh(mesh):
        own = training.place(start, mesh, APART, step)
        own, value = jax.jit(step)(own, *on(mesh, x, LABELS, weights))
    plain = start._replace(optimizer_state=optimizer.init(start.params))
    run = jax.jit(training.make_step(nn.backprop(APART, LOSS), optimizer))
    cuts = [slice(i, i + 2) for i in (0, 4, 6)]
    found = [run(plain, x[cut], LABELS[cut], weights[cut]) for cut in cuts]
    params = [start.params, *(state.params for state, _ in found)]
    expected = jax.tree.map(lambda *a: np.mean(a, 0), *params), np.mean([v for _, v in found])
    assert_agree(jax.tree.map(np.asarray, (own.params, value)), expected, 1e-10)


def test_averages_send_the_bytes_that_the_formula_says():
    step, mesh = training.local_steps(APART, LOSS, optax.sgd(0.1), every=1), mesh_of(4)
    x = jnp.zeros((8, 24), jnp.float32)
    state = training.place(step.create_state(jax.random.key(0), x), mesh, APART, step)
    with jax.set_mesh(mesh):
        compiled = jax.jit(step).lower(state, *on(mesh, x, LABELS)).compile()
    value = 2 * 3 / 4 * 4
    assert sent_bytes(compiled) == step.sent_bytes(state.params, 4) + value


def test_train_takes_a_step_and_goes_on_with_it_on_other_devices(x64):
    network = nn.serial(nn.dense(6), nn.batch_norm(), nn.dropout(0.3), nn.dense(3))
    x, labels = np.asarray(normal(0, (22, 5))), np.arange(22, dtype=np.int32) % 3
    clipped = optax.chain(optax.clip_by_global_norm(0.5), MOMENTUM)
    step = training.update_in_backward(network, LOSS, MOMENTUM, clip_norm=0.5)
    found = []
    for optimizer, meshes in ((clipped, (None,)), (step, (mesh_of(4), mesh_of(2)))):
        state = training.create_state(network, optimizer, jax.random.key(1), x[:1])
        for epochs, mesh in enumerate(meshes, 3 - len(meshes)):
            if mesh is not None:
                state = training.place(state, mesh, network, optimizer)
            options = {"epochs": epochs, "batch_size": 8, "crosscheck": None}
            *_, last = training.train(network, LOSS, optimizer, state, x, labels, **options)
            state = last.train_state
        found.append(jax.tree.map(np.asarray, (state.params, state.state)))
    assert_agree(found[1], found[0], 1e-10)


def test_what_devices_have_by_themselves_is_averaged_for_others():
    step = STEPS["low rank"]
    state = step.create_state(jax.random.key(0), jnp.zeros((8, 24))).optimizer_state
    (error,) = step.for_devices(state, 4).errors
    assert error.shape == (4, 24, 32)
    own = state._replace(errors=(error + jnp.arange(4.0)[:, None, None],))
    np.testing.assert_array_equal(step.for_devices(own, 2).errors[0], jnp.full((2, 24, 32), 1.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.low_rank(APART, LOSS, MOMENTUM, rank=0), "low_rank: expected rank"),
        (lambda: training.local_steps(APART, LOSS, MOMENTUM, every=0), "expected every to be"),
        (
            lambda: of_step(training.local_steps(NETWORK, LOSS, MOMENTUM), 1),
            r"local_steps: expected layers without state, .* but 1 batch_norm has some",
        ),
        (
            lambda: training.local_steps(APART, nn.contrastive(), MOMENTUM),
            "contrastive compares the examples",
        ),
        (
            lambda: training.low_rank(
                nn.with_precision(APART, nn.POLICIES["float16"]), LOSS, MOMENTUM
            ),
            "low_rank: expected deltas that are not scaled, but with_precision computes in float16",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def make_rows_mesh():
    return jax.make_mesh((2,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:2])


def test_meshes_and_layouts_that_do_not_fit_are_refused():
    x = jnp.zeros((8, 24))
    step = STEPS["low rank"]
    state = step.create_state(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"place: expected a mesh with the axis 'data'.*'rows'"):
        training.place(state, make_rows_mesh(), NETWORK, step)
    params, states = NETWORK.init(jax.random.key(0), x)
    for name, run, arguments in (
        ("send_captures", send_captures(NETWORK, LOSS), (params, states)),
        ("low_rank", step, (state,)),
    ):
        with (
            jax.set_mesh(make_rows_mesh()),
            pytest.raises(ValueError, match=f"{name}: expected a mesh with the axis 'data'"),
        ):
            jax.eval_shape(run, *arguments, x, jnp.asarray(LABELS))
    with pytest.raises(ValueError, match=r"layout replicated with low_rank.*got fully_sharded"):
        training.place(state, mesh_of(2), NETWORK, step, LAYOUTS["fully_sharded"])
    for own in (training.local_steps(APART, LOSS, MOMENTUM), step):
        state = own.create_state(jax.random.key(0), x)
        with (
            jax.set_mesh(mesh_of(2)),
            pytest.raises(ValueError, match="state of 2 devices, got that of 1: training"),
        ):
            jax.eval_shape(own, state, x, jnp.asarray(LABELS))
        of_two = own.for_devices(state.optimizer_state, 2)
        with pytest.raises(ValueError, match=f"{own.name}: .* state of 1 devices, got that of 2"):
            jax.eval_shape(own, state._replace(optimizer_state=of_two), x, jnp.asarray(LABELS))


@pytest.mark.parametrize("name", ["gradient", "measure"])
def test_train_refuses_what_is_asked_of_a_gradient_that_a_step_has_itself(name):
    from jaxnn import statistics

    given = {
        "gradient": nn.backprop(APART, LOSS),
        "measure": {"noise": statistics.gradient_noise},
    }[name]
    step, x = training.update_in_backward(APART, LOSS, MOMENTUM), np.zeros((8, 24), np.float32)
    state = step.create_state(jax.random.key(0), x)
    options = {"epochs": 1, "batch_size": 8, name: given}
    with pytest.raises(ValueError, match=f"expected {name} to be None with update_in_backward"):
        training.train(APART, LOSS, step, state, x, LABELS, **options)


def test_train_refuses_a_step_whose_optimiser_is_evaluated_elsewhere():
    free = training.update_in_backward(APART, LOSS, optax.contrib.schedule_free_sgd(0.1))
    x = np.zeros((8, 24), np.float32)
    state = free.create_state(jax.random.key(0), x)
    with pytest.raises(ValueError, match="evaluated at the parameters it trains"):
        training.train(APART, LOSS, free, state, x, LABELS, epochs=1, batch_size=8)
