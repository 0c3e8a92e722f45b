"""Schedules of pipelines: what they leave idle and hold, and the gradient in their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn.sharding.pipelines import SCHEDULES, Costs, Task, gpipe, schedule, zero_bubble
from jaxnn.sharding.pipelining import pipelined

COSTS = [Costs(), Costs(1, 2, 1), Costs(3, 2, 1.5)]


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("extra", [0, 3])
def test_stages_are_idle_as_long_as_the_formula_says(stages, extra):
    for f, d, w, _ in COSTS:
        costs, m = Costs(f, d, w), stages + extra
        idle = {name: make(stages, m).simulate(costs).idle for name, make in SCHEDULES.items()}
        assert idle["gpipe"] == pytest.approx((stages - 1) * (f + d + w), abs=1e-9)
        assert idle["1f1b"] == pytest.approx((stages - 1) * (f + d + w), abs=1e-9)
        assert idle["zero_bubble"] == pytest.approx((stages - 1) * (f + d - w), abs=1e-9)


def test_gpipe_holds_every_micro_batch_and_the_others_as_many_as_stages():
    held = {name: make(4, 9).simulate().held for name, make in SCHEDULES.items()}
    assert held == {"gpipe": (9,) * 4, "1f1b": (4, 3, 2, 1), "zero_bubble": (4,) * 4}


@pytest.mark.parametrize("name", SCHEDULES)
def test_fewer_micro_batches_than_stages_run_too(name):
    for m in (1, 2, 3):
        simulation = SCHEDULES[name](5, m).simulate()
        assert len({(s.stage, s.task) for s in simulation.steps}) == len(simulation.steps)
        assert 0 < simulation.idle_share < 1


def test_a_schedule_is_drawn_with_a_line_for_each_stage():
    assert str(zero_bubble(2, 2).simulate()).splitlines() == [
        "F0 F1    D0 W0 D1 W1",
        "   F0 D0 F1 D1 W0 W1",
    ]


def test_sending_takes_its_time():
    slow = gpipe(3, 2).simulate(Costs(1, 1, 1, send=0.5))
    assert slow.length == gpipe(3, 2).simulate().length + 4 * 0.5


F, D, W, B = (lambda i, kind=kind: Task(kind, i) for kind in "FDWB")


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        (((F(0), D(0)),), "stage 0 to do W0, which it leaves out"),
        (((B(0), F(0)),), "stage 0 to do F0 before B0"),
        (((F(0), W(0), D(0)),), "stage 0 to do D0 before W0"),
        (((F(0), B(0), W(0)),), "stage 0 to do each task once, got W0 again"),
        (((F(0), B(0), B(1)),), "micro-batches below 1, got B1"),
        (((F(0), B(0)), ()), r"same micro-batches forward, got \[0, 1\]"),
        (
            ((F(0), B(0), F(1), B(1)), (F(0), F(1), B(0), B(1))),
            "stages that do not wait for ever, got stage 0 at B0, stage 1 at F1",
        ),
    ],
)
def test_a_schedule_that_cannot_be_run_is_refused(orders, message):
    with pytest.raises(ValueError, match=f"schedule: expected .*{message}"):
        schedule(orders)


STAGES = nn.serial(
    nn.serial(nn.dense(6), nn.tanh()),
    nn.serial(nn.dropout(0.3), nn.repeat(nn.skip(nn.dense(6), nn.relu()), 2)),
    nn.serial(nn.layer_norm(), nn.dense(3)),
)
LOSS, LABELS = nn.softmax_cross_entropy(), jnp.arange(8) % 3


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_gradient_in_the_order_of_a_schedule_is_that_of_accumulation(name, x64):
    x, key, weights = normal(0, (8, 5)), jax.random.key(2), jnp.asarray(1.0 + np.arange(8))
    params, state = started(STAGES, x)
    own = pipelined(STAGES, LOSS, SCHEDULES[name](3, 4))
    whole = nn.accumulate(nn.backprop(STAGES, LOSS), 4, network=STAGES)
    run = jax.jit(lambda p: [f(p, state, x, LABELS, key, weights) for f in (own, whole)])
    assert_agree(*run(params), 1e-10)


def test_what_a_pipeline_cannot_do_is_refused():
    with pytest.raises(
        ValueError, match=r"pipelined: expected stages to divide the 3 layers.* got 2"
    ):
        pipelined(STAGES, LOSS, gpipe(2, 2))
    gradient = pipelined(nn.serial(nn.dense(4), nn.batch_norm()), LOSS, gpipe(2, 2))
    x = jnp.ones((4, 5))
    params, state = started(gradient.network, x)
    with pytest.raises(ValueError, match=r"layers without state.* but 1 batch_norm has some"):
        gradient(params, state, x, LABELS[:4])
    params, state = started(STAGES, x)
    with pytest.raises(ValueError, match="a batch that 3 micro-batches divide, got 4"):
        pipelined(STAGES, LOSS, gpipe(3, 3))(params, state, x, LABELS[:4])
    with pytest.raises(ValueError, match="gpipe: expected stages to be"):
        gpipe(0, 2)
