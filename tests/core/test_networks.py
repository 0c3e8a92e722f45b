import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn


def test_walk_visits_layers_without_parts_depth_first():
    network = nn.serial(nn.dense(2), nn.serial(nn.tanh(), nn.fork(nn.relu(), nn.identity())))
    visited = [(path, layer.name) for path, layer in nn.walk(network)]
    assert visited == [("0", "dense"), ("1.0", "tanh"), ("1.1.0", "relu"), ("1.1.1", "identity")]


def test_walk_follows_trees_beside_the_layers():
    network = nn.serial(nn.tanh(), nn.serial(nn.dense(2)))
    params, state = network.init(jax.random.key(0), jnp.ones((1, 3)))
    (_, _, none, _), (path, layer, own, _) = nn.walk(network, params, state)
    assert none == ()
    assert nn.label(path, layer) == "1.0 dense"
    assert own is params[1][0]


def test_label_of_a_network_that_is_one_layer_is_its_name():
    ((path, layer),) = nn.walk(nn.relu())
    assert nn.label(path, layer) == "relu"


def test_rewrite_replaces_layers_by_type_and_keeps_the_rest():
    network = nn.serial(nn.dense(2), nn.skip(nn.repeat(nn.tanh(), 2)))
    rewritten = nn.rewrite(
        network, lambda path, layer: nn.sigmoid() if isinstance(layer, nn.tanh) else layer
    )
    assert [layer.name for _, layer in nn.walk(rewritten)] == [
        "dense",
        "identity",
        "sigmoid",
        "add",
    ]
    assert rewritten == nn.serial(nn.dense(2), nn.skip(nn.repeat(nn.sigmoid(), 2)))


def test_init_of_a_parameter_free_layer_refuses_what_forward_refuses():
    with pytest.raises(TypeError, match="tanh: expected x to be floating-point, got int32"):
        nn.tanh().init(None, jax.ShapeDtypeStruct((2,), jnp.int32))


@pytest.mark.parametrize("slopes", [{}, {"slope_from_output": abs, "slope_from_input": abs}])
def test_pointwise_needs_one_slope(slopes):
    with pytest.raises(ValueError, match="one of slope_from_output and slope_from_input"):
        nn.pointwise("f", jnp.tanh, **slopes)


def test_slopes_from_input_and_from_output_are_two_forms_of_one_derivative(x64):
    by_output = nn.pointwise("exp", jnp.exp, slope_from_output=lambda y: y)
    by_input = nn.pointwise("exp", jnp.exp, slope_from_input=jnp.exp)
    assert isinstance(by_output, nn.Pointwise)
    x, dy = normal(0, (3, 2)), normal(1, (3, 2))
    dx = [f.backward((), f.forward((), (), x, None)[2], dy)[0] for f in (by_output, by_input)]
    assert_agree(dx[0], dx[1], 1e-15)


def test_a_static_fact_is_no_leaf_and_passes_through_jit():
    assert jax.tree.leaves(nn.Static((2, 3))) == []
    assert jax.jit(lambda s: s)(nn.Static((2, 3))) == nn.Static((2, 3))


def test_residuals_pass_from_one_jitted_function_to_another(x64):
    network = nn.serial(nn.flatten(), nn.dense(3), nn.skip(nn.tanh()), nn.softmax())
    x = normal(0, (2, 2, 2))
    params, state = started(network, x)
    y, _, residuals = jax.jit(network.forward)(params, state, x, None)
    dx, captures = jax.jit(network.backward)(params, residuals, jnp.ones_like(y) * y)
    eager = network.backward(params, network.forward(params, state, x, None)[2], y)
    assert_agree((dx, nn.contract(captures)), (eager[0], nn.contract(eager[1])), 1e-10)


def test_a_layer_can_be_a_key_or_a_static_argument(untyped):
    layers = {nn.conv(2, [3, 3]): "conv", nn.max_pool([2, 2]): "pool", nn.relu(): "relu"}
    assert sorted(layers.values()) == ["conv", "pool", "relu"]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("other", [3, None, [nn.relu()], nn.relu, np.ones(3)], ids=type)
def test_what_is_no_layer_is_named(other):
    loss = nn.softmax_cross_entropy()
    for function in (
        *(nn.fuse, nn.plain, nn.summing, nn.in_inference_mode),
        lambda network: list(nn.walk(network)),
        lambda network: nn.rewrite(network, lambda path, layer: layer),
        lambda network: nn.summarize(network, jnp.ones((1, 2))),
        lambda network: nn.check_layer(network, jnp.ones((1, 2))),
        *(lambda network, g=g: g(network, loss) for g in (nn.backprop, nn.autodiff, nn.numerical)),
        *(lambda other, g=g: g(nn.relu(), other) for g in (nn.backprop, nn.autodiff, nn.numerical)),
    ):
        with pytest.raises(TypeError, match=r"expected (network|layer|loss) to be a (Layer|Loss)"):
            function(other)
