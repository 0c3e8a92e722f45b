"""Pipelines over the devices of a mesh: the numbers of one device, and what a device holds."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn.sharding import (
    STAGE,
    balanced_cuts,
    gpipe,
    is_staged,
    make_mesh,
    one_forward_one_backward,
    unstaged,
    zero_bubble,
)
from jaxnn.sharding.kept import buffers_for, form_of
from jaxnn.sharding.lockstep import places_of
from jaxnn.sharding.pipelines import SCHEDULES, allot
from jaxnn.sharding.pipelining import pipelined
from jaxnn.sharding.stages import cut
from jaxnn.training import (
    Crosscheck,
    create_state,
    make_optimizer,
    place_on_stages,
    task_of,
    train,
)
from jaxnn.training.checkpoints import Checkpoints
from jaxnn.training.staging import by_stages

LOSS, M = nn.softmax_cross_entropy(), 4
# Embedding and head on the end stages, a repeat that is cut, a part that is computed again.
NETWORK = nn.serial(
    nn.embedding(9, 4),
    nn.repeat(nn.skip(nn.dense(4), nn.dropout(0.2)), 4),
    nn.recompute(nn.serial(nn.layer_norm(), nn.tanh())),
    nn.flatten(),
    nn.dense(3),
)


def mesh_of(data, stages, model=1):
    devices = jax.devices()[: data * stages * model]
    return make_mesh(data, model, stages=stages, devices=devices)


@cache
def problem():
    ids = jnp.asarray(np.arange(16 * 2).reshape(16, 2) % 9)
    params, state = started(NETWORK, ids)
    weights = jnp.asarray(1.0 + np.arange(16) % 3)
    arguments = state, ids, jnp.arange(16) % 3, jax.random.key(3), weights
    whole = nn.accumulate(nn.backprop(NETWORK, LOSS), M, network=NETWORK)
    return params, arguments, jax.jit(whole)(params, *arguments)


def gradient_on(make, stages):
    ids = jax.ShapeDtypeStruct((1, 2), int)
    return pipelined(NETWORK, LOSS, make(stages, M), balanced_cuts(NETWORK, ids, stages))


def agrees_with_one_device(make, data, stages, model=1):
    params, arguments, expected = problem()
    gradient = gradient_on(make, stages)

    def run(params):
        result, gradients = gradient(gradient.laid_out(params), *arguments)
        return result, gradients

    with jax.set_mesh(mesh_of(data, stages, model)):
        result, gradients = jax.jit(run)(params)
    for row in gradients.rows.values():
        assert row.sharding.shard_shape(row.shape)[0] == row.shape[0] // stages
    assert_agree(jax.tree.map(np.asarray, (result, unstaged(gradients))), expected, 1e-10)


@pytest.mark.parametrize(
    ("name", "data", "stages", "model"),
    [("gpipe", 1, 2, 1), ("1f1b", 1, 4, 1), ("zero_bubble", 2, 2, 1)],
)
def test_gradients_over_stages_are_those_of_one_device(name, data, stages, model, x64):
    agrees_with_one_device(SCHEDULES[name], data, stages, model)


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_a_stage_keeps_is_changed_in_place(name):
    x, width = normal(0, (64, 48)), 48
    network = nn.serial(*(nn.serial(nn.relu(), nn.dense(width)),) * 4)
    params, state = started(network, x)
    gradient = pipelined(network, LOSS, SCHEDULES[name](2, M))
    arguments = gradient.laid_out(params), state, x, jnp.arange(64) % width
    with jax.set_mesh(mesh_of(1, 2)):
        program = jax.jit(gradient).lower(*arguments).compile().as_text()
    assert "while(" in program
    copied = re.findall(rf"f32\[\d,{64 // M},(\d+)\]\S* copy\(", program)
    # What arrives from the stage beside, as wide as an activation, may be.
    assert set(map(int, copied)) <= {width}


EIGHT = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
import test_stages as here
here.agrees_with_one_device(here.one_forward_one_backward, 1, 1)
here.agrees_with_one_device(here.zero_bubble, 1, 8)
here.agrees_with_one_device(here.gpipe, 2, 2, 2)
"""


def test_gradients_over_one_and_eight_devices_are_those_of_one_device():
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    environment = os.environ | {"PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", EIGHT], env=environment, check=True, timeout=300)


SMALL = nn.serial(nn.dense(6), nn.repeat(nn.skip(nn.dense(6), nn.dropout(0.2)), 2), nn.dense(3))
X, LABELS = np.asarray(normal(0, (22, 5))), (np.arange(22) % 3).astype(np.int32)


X64 = X.astype(np.float64)


def trained(train_state, optimizer, gradient, epochs, **options):
    # One batch, which the micro-batches do not divide: one program to compile.
    options |= {"epochs": epochs, "batch_size": len(X64), "gradient": gradient}
    return list(train(SMALL, LOSS, optimizer, train_state, X64, LABELS, **options))


def plain(train_state):
    return jax.tree.map(np.asarray, unstaged(train_state)._replace(key=()))


def saved_and_restored(train_state, folder, like):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, unstaged(train_state))
    with Checkpoints(folder, read_only=True) as checkpoints:
        _, restored = checkpoints.restore(like=like)
    assert_agree(plain(restored), plain(train_state), 0.0)
    return restored


def test_training_in_four_two_and_one_stages_has_the_parameters_of_one_device(tmp_path, x64):
    optimizer = make_optimizer("adamw", 0.01, weight_decay=0.1)
    start = create_state(SMALL, optimizer, jax.random.key(0), X64[:1])
    whole = nn.accumulate(nn.backprop(SMALL, LOSS), M, network=SMALL)
    validation = {"validation": (X64[:5], LABELS[:5], task_of(LOSS, 3))}
    expected = trained(start, optimizer, whole, epochs=3, **validation)

    def in_stages(stages, data, train_state, epochs, **options):
        gradient = pipelined(SMALL, LOSS, zero_bubble(stages, M), fills=True)
        placed = place_on_stages(train_state, mesh_of(data, stages), gradient, optimizer)
        assert is_staged(placed.params)
        assert is_staged(placed.optimizer_state)
        return trained(placed, optimizer, gradient, epochs, **options)[-1]

    found = in_stages(4, 1, start, 1, crosscheck=Crosscheck(every=1), **validation)
    assert found.disagreement < 1e-10  # not None: it was compared
    assert found.validation == pytest.approx(expected[0].validation)
    assert_agree(plain(found.train_state), plain(expected[0].train_state), 1e-10)
    restored = saved_and_restored(found.train_state, tmp_path / "4", start)
    found = in_stages(2, 2, restored, 2)
    assert_agree(plain(found.train_state), plain(expected[1].train_state), 1e-10)
    restored = saved_and_restored(found.train_state, tmp_path / "2", start)
    (last,) = trained(restored, optimizer, whole, epochs=3)
    assert_agree(plain(last.train_state), plain(expected[2].train_state), 1e-10)


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
def test_the_table_is_idle_and_holds_as_simulated_and_zero_bubble_is_idle_the_least(stages):
    m, shares = stages + 3, {}
    for name, make in SCHEDULES.items():
        order = make(stages, m)
        table, simulation = order.in_ticks(), order.simulate()
        assert table.idle_share == pytest.approx(simulation.idle_share, abs=1e-12)
        assert table.held() == simulation.held
        _, places = places_of(table, [1] * stages)
        assert places.held == max(simulation.held)
        shares[name] = table.idle_share
    worked, idle = 3 * m, stages - 1  # F, D and W of 1: (S − 1) (f + d − w), and thrice of 1F1B
    assert shares["zero_bubble"] == pytest.approx(idle / (worked + idle))
    assert shares["1f1b"] == pytest.approx(3 * idle / (worked + 3 * idle))
    assert stages == 1 or shares["zero_bubble"] < shares["1f1b"]


def test_a_table_is_drawn_with_a_line_for_each_stage():
    assert str(one_forward_one_backward(2, 2).in_ticks()).splitlines() == [
        "F0 F1       D0 W0    D1 W1",
        "   F0 D0 W0 F1 D1 W1",
    ]


def test_spans_that_overlap_have_places_of_their_own():
    assert allot([(0, 3), (1, 2), (3, 4), (4, 5)]) == [0, 1, 1, 0]


def test_an_array_kept_twice_or_known_anyway_is_written_once():
    weight, x, key = jnp.ones((3, 2)), jnp.arange(8.0).reshape(4, 2), jax.random.key(1)
    tree = (x, {"again": x, "weight": weight}, x > 3, jnp.stack([x, x + 1]), key)
    form = form_of(tree, 4, [weight])
    buffers = form.put(tree, buffers_for([form], 2, 4), 1, [weight])
    assert {name: a.shape for name, a in buffers.items()} == {
        ("float32", "rows"): (2, 4, 6),
        ("bool", "rows"): (2, 4, 2),
        ("uint32", "flat"): (2, 2),
    }
    taken = form.take(buffers, 1, [weight])
    assert taken[0] is taken[1]["again"]
    assert taken[1]["weight"] is weight
    data = [jax.random.key_data(t[-1]) for t in (tree, taken)]
    assert_agree((*taken[:-1], data[1]), (*tree[:-1], data[0]), 0.0)


def test_what_a_stage_keeps_recomputed_is_its_input():
    sizes = []
    for wrap in (nn.serial, lambda *layers: nn.recompute(nn.serial(*layers))):
        stage = wrap(nn.dense(6), nn.tanh(), nn.dense(6), nn.tanh())
        x = jnp.ones((4, 6))
        params, state = started(stage, x)
        kept = stage.forward(params, state, x, None)[2]
        sizes.append(form_of(kept, 4, jax.tree.leaves(params)).sizes[str(x.dtype), "rows"])
    assert sizes == [18, 6]


def test_stages_are_cut_so_that_the_largest_has_the_fewest_operations():
    network = nn.serial(nn.dense(64), nn.repeat(nn.dense(64), 6), nn.dense(2))
    x = jnp.ones((1, 64))
    assert balanced_cuts(network, x, 1) == (8,)
    assert balanced_cuts(network, x, 3) in {(2, 2, 4), (2, 3, 3), (3, 2, 3)}
    assert cut("test", network, 2, (3, 5)).label(1) == "stage 1, layers 1 to 2 of serial"


def test_what_is_laid_out_by_stages_is_itself_again():
    network = nn.serial(nn.dense(40), nn.repeat(nn.dense(40), 3), nn.layer_norm(), nn.dense(3))
    params, _ = started(network, X)
    staged = pipelined(network, LOSS, gpipe(2, 2)).laid_out(params)
    assert_agree(staged.whole(), params, 0.0)
    for stage, own in enumerate(pipelined(network, LOSS, gpipe(2, 2)).cut.pieces):
        rows = {name: row[stage] for name, row in staged.rows.items()}
        expected = tuple(piece.of(params) for piece in own)
        assert_agree(staged.arrangement.own(stage, rows), expected, 0.0)


@pytest.mark.parametrize(
    ("stages", "cuts", "message"),
    [
        (4, None, r"stages to divide the 7 layers .*got 4 stages: say by cuts"),
        (2, (3, 3), r"cuts to be 2 numbers above 0, .* add up to the 7 layers .*got \(3, 3\)"),
        (2, (7, 0), r"cuts to be 2 numbers above 0"),
        (8, None, "stages to divide the 7 layers"),
    ],
)
def test_stages_that_do_not_divide_the_network_are_refused(stages, cuts, message):
    network = nn.serial(nn.dense(4), nn.repeat(nn.dense(4), 5), nn.dense(3))
    with pytest.raises(ValueError, match=f"pipelined: expected {message}"):
        pipelined(network, LOSS, gpipe(stages, 2), cuts)


def test_more_stages_than_layers_cannot_be_balanced():
    with pytest.raises(ValueError, match="balanced_cuts: expected stages to divide the 2 layers"):
        balanced_cuts(nn.serial(nn.dense(4), nn.dense(3)), jnp.ones((1, 4)), 3)


def test_a_mesh_without_the_axis_is_refused():
    gradient = pipelined(SMALL, LOSS, gpipe(2, 2))
    params, state = started(SMALL, X)
    for mesh in (make_mesh(), mesh_of(1, 4)):
        with (
            jax.set_mesh(mesh),
            pytest.raises(ValueError, match=r"a mesh with an axis 'stage' of 2 devices.*got the"),
        ):
            gradient(params, state, jnp.asarray(X), jnp.asarray(LABELS), jax.random.key(0))


def test_parameters_laid_out_for_other_stages_are_refused():
    params, state = started(SMALL, X)
    laid_out = pipelined(SMALL, LOSS, gpipe(2, 2), (1, 3)).laid_out(params)
    for other in (gpipe(2, 2), None), (gpipe(2, 2), (3, 1)), (gpipe(4, 2), None):
        gradient = pipelined(SMALL, LOSS, *other)
        with pytest.raises(ValueError, match=r"that this gradient has laid out, got .* of 2"):
            gradient(laid_out, state, jnp.asarray(X), jnp.asarray(LABELS), jax.random.key(0))


def test_a_mesh_with_stages_has_their_axis_between_the_others():
    assert dict(mesh_of(1, 2, 2).shape) == {"data": 1, STAGE: 2, "model": 2}
    with pytest.raises(ValueError, match=r"data · stages · model to be .* got 1 · 3 · 1 = 3"):
        make_mesh(stages=3)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (make_optimizer("sgd", 0.1, clip_norm=1.0), "needs the whole gradient: the update of 0"),
        (make_optimizer("lamb", 0.1), r"does not work element by element .* 1 repeat"),
    ],
)
def test_an_optimiser_that_needs_the_whole_gradient_is_refused(optimizer, message):
    gradient = pipelined(SMALL, LOSS, gpipe(4, 2))
    start = create_state(SMALL, optimizer, jax.random.key(0), X[:1])
    with pytest.raises(ValueError, match=f"pipelined: expected an optimiser .*{message}"):
        place_on_stages(start, mesh_of(1, 4), gradient, optimizer)


@pytest.mark.parametrize("name", ["adafactor", "sm3", "muon"])
def test_what_an_optimiser_keeps_otherwise_than_parameters_is_laid_out_and_itself_again(name):
    # Of a row, of several arrays a parameter, of some parameters alone.
    optimizer = make_optimizer(name, 0.1)
    params, _ = started(SMALL, X)
    gradient = pipelined(SMALL, LOSS, gpipe(2, 2), (1, 3))
    state = by_stages(gradient, optimizer).init(gradient.laid_out(params))
    assert_agree(unstaged(state), optimizer.init(params), 0.0)


@pytest.mark.parametrize(
    ("optimizer", "dtype", "message"),
    [
        (
            optax.adafactor(0.1, multiply_by_parameter_scale=False, clipping_threshold=None),
            jnp.float32,
            r"keeps of some copies of a repeat a part .* scale_by_factored_rms, .* keeps \(1,\)",
        ),
        (
            optax.adam(0.1, mu_dtype=jnp.float32),
            jnp.bfloat16,
            r"the dtype of the parameters, but scale_by_adam, .* has float32 for params\[0\]",
        ),
    ],
    ids=["shapes", "dtypes"],
)
def test_an_optimiser_whose_arrays_do_not_fit_the_rows_is_refused(optimizer, dtype, message):
    start = create_state(SMALL, optimizer, jax.random.key(0), X[:1])
    params = jax.tree.map(lambda a: a.astype(dtype), start.params)
    start = start._replace(params=params, optimizer_state=optimizer.init(params))
    gradient = pipelined(SMALL, LOSS, gpipe(4, 2))
    with pytest.raises(ValueError, match=f"pipelined: expected an optimiser .*{message}"):
        place_on_stages(start, mesh_of(1, 4), gradient, optimizer)


def test_a_train_state_in_stages_is_trained_with_their_gradient():
    optimizer = make_optimizer("sgd", 0.1)
    start = create_state(SMALL, optimizer, jax.random.key(0), X[:1])
    placed = place_on_stages(start, mesh_of(1, 2), pipelined(SMALL, LOSS, gpipe(2, 2)), optimizer)
    with pytest.raises(ValueError, match=r"train: expected gradient to be the .*pipelined"):
        train(SMALL, LOSS, optimizer, placed, X, LABELS, epochs=1, batch_size=8)


def test_an_error_names_the_stage():
    gradient = pipelined(SMALL, LOSS, gpipe(2, 2))
    with pytest.raises(ValueError, match="no") as caught, gradient._place(1):
        raise ValueError("no")
    assert caught.value.__notes__ == ["in stage 1, layers 1 to 2 of serial"]
