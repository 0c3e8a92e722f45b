import inspect

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxnn.training import OPTIMIZERS, make_optimizer

PARAMS = {"weight": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, -0.2])}
GRADIENTS = {"weight": jnp.array([[0.3, -0.1], [2.0, 0.0]]), "bias": jnp.array([-1.0, 0.5])}


def after_steps(optimizer, steps=3):
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(GRADIENTS, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", optax.sgd(0.1)),
        ("momentum", optax.sgd(0.1, momentum=0.9)),
        ("nesterov", optax.sgd(0.1, momentum=0.9, nesterov=True)),
        ("adagrad", optax.adagrad(0.1)),
        ("adadelta", optax.adadelta(0.1)),
        ("rmsprop", optax.rmsprop(0.1)),
        ("adam", optax.adam(0.1)),
        ("adamw", optax.adamw(0.1, weight_decay=0.0)),
        ("adamax", optax.adamax(0.1)),
        ("adabelief", optax.adabelief(0.1)),
        ("nadam", optax.nadam(0.1)),
        ("radam", optax.radam(0.1)),
        ("lamb", optax.lamb(0.1)),
        ("lion", optax.lion(0.1, weight_decay=0.0)),
    ],
)
def test_an_optimizer_steps_as_the_one_of_optax_does(name, reference):
    chex.assert_trees_all_close(
        after_steps(make_optimizer(name, 0.1)), after_steps(reference), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_the_parameters_and_keeps_them_finite(name):
    params = after_steps(make_optimizer(name, 0.1))
    chex.assert_tree_all_finite(params)
    assert (params["weight"] != PARAMS["weight"]).any()


def test_options_reach_optax():
    ours = after_steps(make_optimizer("adam", 0.1, {"b1": 0.5, "eps": 0.1}))
    chex.assert_trees_all_close(ours, after_steps(optax.adam(0.1, b1=0.5, eps=0.1)), rtol=1e-5)


def test_a_schedule_serves_as_learning_rate():
    schedule = optax.linear_schedule(1.0, 0.0, 2)
    params = after_steps(make_optimizer("sgd", schedule))  # rates 1, 1/2, 0
    expected = jax.tree.map(lambda p, g: p - 1.5 * g, PARAMS, GRADIENTS)
    chex.assert_trees_all_close(params, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_shrinks_weights_and_leaves_biases(name):
    with_decay = after_steps(make_optimizer(name, 0.1, weight_decay=0.5), 1)
    without = after_steps(make_optimizer(name, 0.1), 1)
    shrunk = without["weight"] - 0.1 * 0.5 * PARAMS["weight"]
    chex.assert_trees_all_close(with_decay["weight"], shrunk, rtol=1e-5)
    chex.assert_trees_all_equal(with_decay["bias"], without["bias"])


def test_weight_decay_of_adam_is_an_l2_penalty_inside_the_gradient():
    params = after_steps(make_optimizer("adam", 0.1, weight_decay=0.5))
    mask = {"weight": True, "bias": False}
    reference = optax.chain(optax.add_decayed_weights(0.5, mask), optax.adam(0.1))
    chex.assert_trees_all_close(params, after_steps(reference), rtol=1e-5)


def test_clipping_scales_the_whole_gradient_to_the_norm():
    norm = optax.tree.norm(GRADIENTS)
    clipped = after_steps(make_optimizer("sgd", 1.0, clip_norm=0.5), 1)
    expected = jax.tree.map(lambda p, g: p - g * 0.5 / norm, PARAMS, GRADIENTS)
    chex.assert_trees_all_close(clipped, expected, rtol=1e-5)
    chex.assert_trees_all_equal(
        after_steps(make_optimizer("sgd", 1.0, clip_norm=100.0), 1),
        after_steps(make_optimizer("sgd", 1.0), 1),
    )


def test_decay_is_not_clipped_away():
    params = after_steps(make_optimizer("sgd", 1.0, weight_decay=0.5, clip_norm=0.5), 1)
    clipped = after_steps(make_optimizer("sgd", 1.0, clip_norm=0.5), 1)
    shrunk = clipped["weight"] - 0.5 * PARAMS["weight"]
    chex.assert_trees_all_close(params["weight"], shrunk, rtol=1e-5)


def test_every_option_of_every_optimizer_is_checked_and_its_default_passes():
    for name, factory in OPTIMIZERS.items():
        defaults = {
            option: parameter.default
            for option, parameter in inspect.signature(factory).parameters.items()
            if option not in ("learning_rate", "weight_decay", "mask", "weight_decay_mask")
        }
        make_optimizer(name, 0.1, defaults)
        for option in defaults:
            with pytest.raises(ValueError, match=f"optimizer {name}: .*{option}"):
                make_optimizer(name, 0.1, {option: {}})


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("adamm", 0.1), {}, "unknown optimizer 'adamm': did you mean 'adam'"),
        (("sgd", 0.1, {"momentun": 0.5}), {}, "unknown option of optimizer sgd.*'momentum'"),
        (("adam", 0.1, {"weight_decay": 0.5}), {}, "unknown option of optimizer adam"),
        (("adam", 0.1, {"b1": "x"}), {}, "optimizer adam: cannot work with the options"),
        (("adam", 0.1, {"b1": 2}), {}, r"expected b1 to lie in \[0, 1\), got 2"),
        (("adam", 0.1, {"b2": -0.1}), {}, r"expected b2 to lie in \[0, 1\)"),
        (("rmsprop", 0.1, {"decay": 1.0}), {}, r"expected decay to lie in \[0, 1\)"),
        (("nesterov", 0.1, {"momentum": float("nan")}), {}, r"expected momentum to lie in"),
        (("adam", 0.1, {"eps": -1e-8}), {}, r"expected eps to lie in \[0, inf\)"),
        (("adam", 0.1, {"eps": [1]}), {}, "expected eps to be a Python number"),
        (("adam", 0.1, {"nesterov": 1}), {}, "expected nesterov to be True or False, got 1"),
        (("adam", 0.1, {"mu_dtype": "int8"}), {}, "unknown mu_dtype 'int8'"),
        (("adam", 0.1, {"mu_dtype": "f4,'"}), {}, "unknown mu_dtype"),
        (("sgd", 0.0), {}, "learning_rate"),
        (("sgd", -1.0), {}, "learning_rate"),
        (("sgd", float("nan")), {}, "learning_rate"),
        (("sgd", 0.1), {"weight_decay": -1.0}, "weight_decay"),
        (("sgd", 0.1), {"clip_norm": 0.0}, "clip_norm"),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(*arguments, **options)
