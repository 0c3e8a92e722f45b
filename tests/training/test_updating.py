"""Updates on the way back are those of plain backprop, and hold no gradient of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal

import jaxnn as nn
from jaxnn import training

LOSS = nn.softmax_cross_entropy()
BLOCK = nn.skip(nn.dense(5, use_bias=False), nn.batch_norm(), nn.dropout(0.3))
NETWORK = nn.serial(
    body=nn.repeat(nn.repeat(BLOCK, 2), 2),
    again=nn.repeat(nn.recompute(nn.serial(nn.dense(5), nn.tanh())), 2),
    normed=nn.weight_norm(nn.dense(5)),
    side=nn.serial(nn.fork(nn.identity(), nn.dense(5)), nn.share(nn.dense(3)), nn.add()),
)
LABELS = jnp.arange(8) % 3
WEIGHTS = np.asarray([1.0, 2, 0, 1, 1, 3, 1, 1])

# An optimiser, how the gradient is clipped on the way back, and what plain backprop takes for it.
CASES = {
    "adamw": (optax.adamw(1e-2), {}, optax.adamw(1e-2)),
    "clipped by the whole norm": (
        optax.sgd(0.1, momentum=0.9),
        {"clip_norm": 0.3},
        optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.1, momentum=0.9)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_plain_backprop(name, x64):
    optimizer, clipping, plain = CASES[name]
    x, key, weights = normal(0, (8, 5)), jax.random.key(1), jnp.asarray(WEIGHTS)
    step = training.update_in_backward(NETWORK, LOSS, optimizer, **clipping)
    own = jax.jit(lambda: step.create_state(key, x))()
    expected = own._replace(optimizer_state=plain.init(own.params))
    plain_step = training.make_step(nn.backprop(NETWORK, LOSS), plain)
    arguments = x, LABELS, weights
    both = jax.jit(lambda a, b: (step(a, *arguments), plain_step(b, *arguments)))
    for _ in range(3):
        (own, value), (expected, expected_value) = both(own, expected)
        assert_agree(
            (value, own.params, own.state, own.step),
            (expected_value, expected.params, expected.state, expected.step),
            1e-10,
        )


def test_every_layer_and_every_copy_is_clipped_by_its_own_norm(x64):
    network = nn.serial(nn.repeat(nn.dense(4), 2), nn.dense(3))
    x = 3 * normal(0, (8, 4))
    step = training.update_in_backward(network, LOSS, optax.sgd(1.0), clip_layers=0.2)
    before = step.create_state(jax.random.key(1), x)
    after, _ = jax.jit(step)(before, x, LABELS)
    _, gradients = nn.backprop(network, LOSS)(before.params, before.state, x, LABELS)
    moved = jax.tree.map(lambda a, b: a - b, before.params, after.params)

    def clipped(layer):
        norm = optax.tree.norm(layer)
        return jax.tree.map(lambda g: g * jnp.minimum(1, 0.2 / norm), layer)

    expected = (jax.vmap(clipped)(gradients[0][0]),), clipped(gradients[1])
    assert_agree(moved, expected, 1e-10)
    assert optax.tree.norm(gradients[1]) > 0.2


def test_under_a_policy_the_step_is_that_of_backprop_under_it():
    network = nn.with_precision(nn.repeat(nn.dense(5), 2), nn.POLICIES["bfloat16"])
    x, loss = normal(0, (8, 5), np.float32), nn.mean_squared_error()
    step = training.update_in_backward(network, loss, optax.sgd(0.1))
    own = step.create_state(jax.random.key(1), x)
    plain = training.make_step(nn.backprop(network, loss), optax.sgd(0.1))
    expected = plain(training.create_state(network, optax.sgd(0.1), jax.random.key(1), x), x, x)
    assert_agree(jax.jit(step)(own, x, x)[0].params, expected[0].params, 1e-5)
    rows = jnp.zeros((3, 4), int)
    _, values = jax.eval_shape(training.take_batches(step), own, x, x, rows)
    assert values.shape == (3,)
    scaled = nn.serial(nn.with_precision(nn.dense(5), nn.POLICIES["float16"]))
    with pytest.raises(ValueError, match=r"0 with_precision computes in float16.*take bfloat16"):
        training.update_in_backward(scaled, loss, optax.sgd(0.1))


@pytest.mark.parametrize("around", [lambda block: block, nn.recompute], ids=["kept", "recomputed"])
def test_the_compiled_step_of_twelve_blocks_takes_less_than_0_6_of_the_memory(around):
    network = nn.repeat(around(nn.transformer_block(32, 2, hidden=128)), 12)
    loss, optimizer = nn.mean_squared_error(), optax.adam(1e-3)
    x = jax.ShapeDtypeStruct((2, 4, 32), jnp.float32)
    step = training.update_in_backward(network, loss, optimizer)
    plain = training.make_step(nn.backprop(network, loss), optimizer)

    def temporary_bytes(step, start):
        state = jax.eval_shape(start, jax.random.key(0))
        compiled = jax.jit(step, donate_argnums=0).lower(state, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    zeros = jnp.zeros(x.shape, x.dtype)
    own = temporary_bytes(step, lambda key: step.create_state(key, zeros))
    whole = temporary_bytes(
        plain, lambda key: training.create_state(network, optimizer, key, zeros)
    )
    assert own <= 0.6 * whole


REPEATED = nn.serial(nn.dense(4), nn.repeat(nn.dense(4), 2))
REFUSED = {
    "clip_by_global_norm": (
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
        r"clip_by_global_norm needs the whole gradient: the update of 0 dense depends on "
        r"1\.0 dense\. Clip by clip_norm",
    ),
    "apply_if_finite": (
        optax.apply_if_finite(optax.sgd(0.1), 3),
        "apply_if_finite needs",
    ),
    "lbfgs": (optax.lbfgs(), "scale_by_lbfgs needs the whole|cannot take a layer by itself"),
    "noise": (
        optax.add_noise(0.1, 0.5, jax.random.key(0)),
        "add_noise does something else with 0 dense alone than with all layers",
    ),
    "mask of the whole tree": (
        optax.masked(optax.sgd(0.1), ({"weight": True, "bias": False}, (True,))),
        "masked cannot take a layer by itself",
    ),
    "trust ratio of copies in one array": (
        optax.lamb(0.1),
        r"scale_by_trust_ratio does not work element by element \(.*\), and the copies of 1\.0 "
        "dense in a repeat lie in one array: take serial",
    ),
    "mask by the number of axes": (
        optax.adamw(0.1, mask=lambda params: jax.tree.map(lambda a: a.ndim > 1, params)),
        "masked does something else with one copy of 1.0 dense than with all of a repeat|"
        "add_decayed_weights does something else with one copy of 1.0 dense",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimiser_that_does_not_work_leaf_by_leaf_is_refused_by_name(name):
    optimizer, message = REFUSED[name]
    step = training.update_in_backward(REPEATED, LOSS, optimizer)
    params, _ = jax.eval_shape(REPEATED.init, jax.random.key(0), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=message):
        step.init(params)


def test_optimisers_that_see_a_layer_as_a_whole_are_taken_outside_of_a_repeat():
    network = nn.serial(nn.dense(4), nn.dense(4))
    params, _ = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((2, 4)))
    for optimizer in (optax.lamb(0.1), optax.adafactor(0.1), optax.contrib.schedule_free_sgd(0.1)):
        step = training.update_in_backward(network, LOSS, optimizer)
        assert len(jax.eval_shape(step.init, params)) == 2


def only_weights(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "weight", params)


def test_optimisers_that_work_element_by_element_are_taken_in_a_repeat():
    network = nn.repeat(nn.repeat(nn.serial(nn.dense(4), nn.prelu(), nn.layer_norm()), 2), 3)
    params, _ = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((2, 4)))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 8)
    for optimizer in (
        optax.adamw(schedule, mask=only_weights),
        optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9, nesterov=True),
        optax.lion(0.1),
        optax.chain(optax.clip(1.0), optax.rmsprop(0.1, centered=True), optax.ema(0.9)),
        optax.adagrad(0.1),
        optax.nadam(0.1),
    ):
        step = training.update_in_backward(network, LOSS, optimizer)
        assert jax.tree.leaves(jax.eval_shape(step.init, params))


@pytest.mark.parametrize("option", ["clip_norm", "clip_layers"])
def test_a_norm_that_is_not_positive_is_refused(option):
    with pytest.raises(ValueError, match=f"update_in_backward: expected {option} to"):
        training.update_in_backward(REPEATED, LOSS, optax.sgd(0.1), **{option: 0.0})
