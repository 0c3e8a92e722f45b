"""Rewrites across wrappers, rules, policies and names: the function stays the same."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from helpers import assert_agree, normal, started
from samples import LAYERS, NETWORKS

import jaxnn as nn
from experiments.support.config import load_config, sample_of
from jaxnn.core.combinators import Compound, Many

IMAGES = normal(0, (4, 6, 6, 2), "float32")
LABELS = jnp.asarray([0, 2, 1, 1])
LOSS = nn.softmax_cross_entropy()
CONFIGURATIONS = sorted(p.stem for p in Path(__file__).parents[2].glob("configs/*.toml"))


def cnn(activation=None, wrap=lambda layers: nn.serial(*layers)):
    layers = (nn.conv(4, (3, 3)), activation or nn.relu(), nn.max_pool(2))
    return nn.serial(wrap(layers), nn.flatten(), nn.dense(3))


RULES = {
    "feedback_alignment": nn.feedback_alignment,
    "sign_concordant": nn.sign_concordant,
    "kolen_pollack": nn.kolen_pollack,
}
WRAPPED = {
    "plain": cnn(),
    "straight-through ReLU": cnn(nn.straight_through(nn.relu())),
    "straight-through ReLU with a surrogate": cnn(nn.straight_through(nn.relu(), nn.silu())),
    "named": cnn(
        wrap=lambda layers: nn.serial(**dict(zip(("conv", "act", "pool"), layers, strict=True)))
    ),
    "recomputed": cnn(wrap=lambda layers: nn.recompute(nn.serial(*layers))),
    "recomputed convolution alone": cnn(
        wrap=lambda layers: nn.serial(nn.recompute(layers[0]), *layers[1:])
    ),
    "in a fork": cnn(
        wrap=lambda layers: nn.serial(nn.fork(nn.serial(*layers), nn.serial(*layers)), nn.add())
    ),
    "direct feedback": nn.direct_feedback_alignment(
        nn.serial(nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2)),
        nn.serial(nn.flatten(), nn.dense(3)),
    ),
    **{f"{name} around": rule(cnn()) for name, rule in RULES.items()},
    **{
        f"{name} inside": cnn(wrap=lambda layers, rule=rule: rule(nn.serial(*layers)))
        for name, rule in RULES.items()
    },
    **{
        f"{name} around the convolution": cnn(
            wrap=lambda layers, rule=rule: nn.serial(rule(layers[0]), *layers[1:])
        )
        for name, rule in RULES.items()
    },
    "rule around a straight-through ReLU": nn.feedback_alignment(
        cnn(nn.straight_through(nn.relu()))
    ),
    "policy": nn.with_precision(cnn(), nn.Policy("float32", "float32", "float32")),
    "policy around a rule": nn.with_precision(
        nn.feedback_alignment(cnn()), nn.Policy("float32", "float32", "float32")
    ),
    "rule around a policy": nn.feedback_alignment(
        nn.with_precision(cnn(), nn.Policy("float32", "float32", "float32"))
    ),
}


def gradients(networks, params, state):
    """Of networks with the same parameters, in one program."""
    of = jax.jit(lambda *given: [nn.backprop(network, LOSS)(*given) for network in networks])
    return of(params, state, IMAGES, LABELS, jax.random.key(1))


@pytest.mark.parametrize("name", WRAPPED)
def test_fusing_keeps_params_state_value_and_gradient(name):
    network = WRAPPED[name]
    params, state = started(network, IMAGES)
    fused = nn.fuse(network)
    assert_agree(*gradients((fused, network), params, state), 1e-5)
    by_shape = jax.eval_shape(fused.init, jax.random.key(0), IMAGES)
    assert jax.tree.structure(by_shape) == jax.tree.structure((params, state))


@pytest.mark.parametrize("name", [n for n in WRAPPED if "straight" not in n and "alone" not in n])
def test_a_convolution_is_fused_wherever_its_neighbours_are_its_own(name):
    if "around the convolution" in name:
        pytest.skip("a rule of its own stands between the convolution and what follows")
    kinds = {type(layer) for _, layer in nn.walk(nn.fuse(WRAPPED[name]))}
    assert nn.conv_relu_max_pool in kinds


@pytest.mark.parametrize("name", ["straight-through ReLU", "rule around a straight-through ReLU"])
def test_a_straight_through_estimator_is_left_alone(name):
    assert nn.fuse(WRAPPED[name]) == WRAPPED[name]


def test_a_subclass_of_ones_own_is_not_taken_for_its_base():
    class my_relu(nn.relu):
        def pull_back(self, residuals, dy):
            return dy

    network = cnn(my_relu())
    assert nn.fuse(network) == network


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_rewriting_to_itself_is_the_same_value(name):
    network = (LAYERS | NETWORKS)[name][0]
    assert nn.rewrite(network, lambda path, layer: layer) is network


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_every_view_keeps_the_trees_of_params_and_state(name):
    network, x = (LAYERS | NETWORKS)[name]
    key = jax.random.key(0)

    def trees(layer):
        def both(x):
            params, state = network.init(key, x)
            _, new_state, residuals = layer.forward(params, state, x, key)
            return params, state, new_state, residuals

        return jax.eval_shape(both, x)

    for view in (nn.in_inference_mode, nn.summing, nn.fuse, nn.plain):
        params, state, new_state, _ = trees(view(network))
        assert jax.tree.structure(state) == jax.tree.structure(new_state)
        y = jax.eval_shape(view(network).predict, params, state, x)
        assert y == jax.eval_shape(network.predict, params, state, x)


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_params_and_state_have_one_entry_for_each_part(name):
    network, x = (LAYERS | NETWORKS)[name]
    params, state = jax.eval_shape(network.init, jax.random.key(0), x)
    visited = list(nn.walk(network, params, state))
    leaves = [leaf for _, _, own, _ in visited for leaf in jax.tree.leaves(own)]
    assert leaves == jax.tree.leaves(params)

    def check(layer, params, state):
        if not layer.parts:
            return
        assert len(layer.of_parts(params)) == len(layer.of_parts(state)) == len(layer.parts)
        for part, p, s in zip(
            layer.parts, layer.of_parts(params), layer.of_parts(state), strict=True
        ):
            check(part, p, s)

    check(network, params, state)


def renamed(network):
    """The same network with a name for every part that can have one."""

    def rename(path, layer):
        if not isinstance(layer, Many):
            return layer
        names = (f"part_{len(layer.layers) - i}" for i in range(len(layer.layers)))
        named = dict(zip(names, layer.layers, strict=True))
        return type(layer)(**named, **layer.options)

    return nn.rewrite(network, rename)


def program(network, loss, x, target):
    """The text of a training step's gradient, of leaves in and leaves out."""
    params, state = jax.eval_shape(network.init, jax.random.key(0), x)

    def step(params, state, x, target, key):
        return jax.tree.leaves(nn.backprop(network, loss)(params, state, x, target, key))

    key = jax.eval_shape(lambda: jax.random.key(0))
    text = str(jax.make_jaxpr(step)(params, state, x, target, key))
    # Every runtime check of checkify has a number of its own, and is gone once it is compiled.
    return re.sub(r"select_n False:bool\[\] \d+:i32", "", text)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_network_with_all_parts_renamed_has_the_same_training_step_bit_for_bit(name):
    config = load_config(name)
    x, target = sample_of(config)
    network = config.layers
    other = renamed(network)
    assert other != network
    assert program(other, config.loss_function, x, target) == program(
        network, config.loss_function, x, target
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_renamed_layers_keep_their_precision_and_their_fusing(precision):
    network = nn.serial(
        nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2), nn.batch_norm(), nn.flatten(), nn.dense(3)
    )
    programs = {
        program(nn.with_precision(nn.fuse(n), nn.Policy(compute=precision)), LOSS, IMAGES, LABELS)
        for n in (network, renamed(network))
    }
    assert len(programs) == 1


class my_norm(nn.ParameterFree):
    """A normalisation of one's own, which asks for float32."""

    mixes = False

    @property
    def wide(self):
        return True

    def apply(self, x):
        assert x.dtype == jnp.float32
        return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True)), x

    def pull_back(self, residuals, dy):
        return jax.vjp(lambda x: self.apply(x)[0], residuals)[1](dy)[0]


@pytest.mark.parametrize(
    "wrap", [lambda n: n, nn.recompute, nn.feedback_alignment, lambda n: nn.repeat(n, 2)]
)
def test_a_normalisation_of_ones_own_computes_in_float32_under_any_policy(wrap):
    network = nn.with_precision(wrap(nn.serial(nn.dense(6), my_norm())), nn.POLICIES["bfloat16"])
    x = normal(0, (4, 6), "float32")

    def dx(key, x):
        params, state = network.init(key, x)
        y, _, residuals = network.forward(params, state, x, None)
        return network.backward(params, residuals, y)[0]

    assert jax.eval_shape(dx, jax.random.key(0), x).dtype == jnp.float32


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_a_policy_reaches_the_layers_inside_of_every_wrapper(compute):
    block = nn.skip(nn.recompute(nn.serial(nn.dense(6), nn.tanh())))
    network = nn.with_precision(
        nn.feedback_alignment(nn.serial(nn.repeat(block, 2), nn.dense(3))),
        nn.Policy(compute=compute),
    )
    x = normal(0, (4, 6), "float32")
    params, state = jax.eval_shape(network.init, jax.random.key(0), x)
    text = str(jax.make_jaxpr(network.predict)(params, state, x))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all({"bfloat16": "bf16", "float16": "f16"}[compute] in line for line in products)


def test_views_are_taken_of_what_a_policy_or_a_rule_surrounds():
    inner = nn.serial(nn.dense(3), nn.dropout(0.5))
    quiet = nn.serial(nn.dense(3), nn.in_inference_mode(nn.dropout(0.5)))
    policy = nn.POLICIES["bfloat16"]
    assert nn.in_inference_mode(nn.with_precision(inner, policy)) == nn.with_precision(
        quiet, policy
    )
    rule = nn.kolen_pollack(inner, 0.1)
    assert nn.in_inference_mode(rule) == dataclasses.replace(rule, layer=quiet)


class seen(nn.ParameterFree):
    """Asks for float32, and fails where it is given something else."""

    mixes = False

    @property
    def wide(self):
        return True

    def apply(self, x):
        assert x.dtype == jnp.float32
        return x, ()

    def pull_back(self, residuals, dy):
        return dy


@pytest.mark.parametrize("rule", [nn.feedback_alignment, nn.kolen_pollack])
@pytest.mark.parametrize("outside", ["rule", "policy"])
def test_a_rule_and_a_policy_are_the_same_in_either_order(rule, outside):
    inner, policy = nn.serial(nn.dense(3), seen(), nn.dense(2)), nn.POLICIES["bfloat16"]
    network = (
        rule(nn.with_precision(inner, policy))
        if outside == "rule"
        else nn.with_precision(rule(inner), policy)
    )
    x = normal(0, (4, 6), "float32")

    def state_after(key, x):
        params, state = network.init(key, x)
        return network.forward(params, state, x, None)[1]

    state = jax.eval_shape(state_after, jax.random.key(0), x)
    memory = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert memory == {jnp.dtype("float32")}


@pytest.mark.parametrize("layer", [nn.serial(nn.heaviside()), nn.heaviside()])
@pytest.mark.parametrize("surrogate", [None, nn.serial(nn.tanh())])
def test_the_true_gradient_of_a_straight_through_estimator_keeps_its_trees(layer, surrogate):
    network = nn.serial(nn.dense(3), nn.straight_through(layer, surrogate), nn.dense(3))
    x = normal(0, (4, 6), "float32")
    params, state = started(network, x)
    ways = nn.backprop(nn.plain(network), LOSS), nn.autodiff(network, LOSS)
    assert_agree(
        *jax.jit(lambda *given: [way(*given) for way in ways])(params, state, x, LABELS), 1e-5
    )


def test_a_compound_that_is_one_layer_is_rewritten_once():
    class only_dense(Compound):
        @functools.cached_property
        def made(self):
            return nn.dense(3)

    seen_paths = []

    def look(path, layer):
        seen_paths.append(path)
        return nn.dense(4) if isinstance(layer, nn.dense) else layer

    assert nn.rewrite(nn.serial(only_dense()), look) == nn.serial(nn.dense(4))
    assert seen_paths == ["0", ""]
