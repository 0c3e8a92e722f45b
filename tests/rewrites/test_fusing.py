import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PUBLIC, assert_agree, initialized, normal, passes, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.rewrites.precision import POLICIES, with_precision

LOSS = nn.softmax_cross_entropy()


def network():
    return nn.serial(
        nn.conv(6, (3, 3)),
        nn.relu(),
        nn.max_pool(2),
        nn.skip(nn.conv(6, (3, 3)), nn.relu()),
        nn.serial(nn.conv(40, (3, 3), padding="VALID"), nn.relu(), nn.max_pool(2)),
        nn.conv(33, (3, 3)),
        nn.relu(),
        nn.max_pool((2, 2), strides=2),
        nn.flatten(),
        nn.dense(3),
    )


def names(layer):
    return [part.name for _, part in nn.walk(layer)]


def test_a_fused_network_has_the_values_and_gradients_of_the_network(x64):
    x, target = normal(0, (5, 19, 16, 1)), jnp.asarray(np.arange(5) % 3)
    plain, fused = network(), nn.fuse(network())
    params, state = initialized(plain, x)
    chex.assert_trees_all_equal(params, initialized(fused, x)[0])
    ((value, _), gradient), ((fused_value, _), fused_gradient) = (
        jax.jit(nn.backprop(layer, nn.softmax_cross_entropy()))(params, state, x, target)
        for layer in (plain, fused)
    )
    chex.assert_trees_all_close(value, fused_value, rtol=1e-12)
    chex.assert_trees_all_close(gradient, fused_gradient, rtol=1e-9, atol=1e-13)


def test_fusing_joins_convolutions_with_their_relu_and_pooling_and_nothing_else():
    assert names(nn.fuse(network())) == [
        *("conv_relu_max_pool", "identity", "identity"),
        *names(network())[3:-8],
        *("conv_relu_max_pool", "identity", "identity"),
        *("conv_relu_max_pool", "identity", "identity"),
        *("flatten", "dense"),
    ]


@pytest.mark.parametrize(
    "layers",
    [
        (nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(3)),
        (nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2, strides=1)),
        (nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2, padding="SAME")),
        (nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2, dilation=2)),
        (nn.conv(4, (3, 3), algorithm="direct"), nn.relu(), nn.max_pool(2)),
        (nn.conv(4, (3, 3)), nn.tanh(), nn.max_pool(2)),
        (nn.conv(4, (3, 3)), nn.relu(), nn.avg_pool(2)),
    ],
)
def test_layers_of_another_kind_stay_as_they_are(layers):
    assert names(nn.fuse(nn.serial(*layers))) == [layer.name for layer in layers]


@pytest.mark.parametrize(
    ("channels", "conv"),
    [
        (1, nn.conv(3, (3, 3))),
        (1, nn.conv(3, (5, 4), use_bias=False)),
        (32, nn.conv(32, (3, 3), padding=((0, 2), (1, 0)))),
    ],
)
def test_the_layer_keeps_the_laws(channels, conv):
    nn.check_layer(nn.conv_relu_max_pool(conv), normal(0, (3, 7, 6, channels))).require()


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("channels", [1, 32])
def test_a_batch_of_one_or_no_example_has_the_gradients_of_autodiff(channels, batch, x64):
    conv = nn.conv(32, (3, 3))
    fused, plain = nn.conv_relu_max_pool(conv), nn.serial(conv, nn.relu(), nn.max_pool(2))
    x, dy = normal(0, (batch, 6, 4, channels)), normal(1, (batch, 3, 2, 32))
    params, _ = started(fused, x)

    @jax.jit
    def both(params, x):
        y, vjp = jax.vjp(lambda x, p: plain.predict((p, (), ()), ((), (), ()), x), x, params)
        return passes(fused, params, (), x, dy), (y, *vjp(dy))

    assert_agree(*both(params, x), 1e-10)


@pytest.mark.parametrize(
    ("shape", "conv"),
    [
        ((2, 8, 8, 3), nn.conv(4, (4, 3))),
        ((2, 8, 8, 1), nn.conv(4, (3, 3), padding="CIRCULAR")),
        ((2, 8, 8, 4), nn.conv(4, (3, 3), groups=2)),
        ((2, 9, 1), nn.conv(4, (3,), strides=2)),
        ((2, 8, 8, 1), nn.conv(4, (3, 3), algorithm="direct")),
    ],
)
def test_a_convolution_without_phases_is_computed_layer_by_layer(shape, conv):
    nn.check_layer(nn.conv_relu_max_pool(conv), normal(0, shape)).require()


def test_a_tie_goes_to_the_first_element_and_a_negative_window_to_none():
    layer = nn.conv_relu_max_pool(nn.conv(1, (3, 3), use_bias=False))
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[1, 1] = 1
    x = np.array([[2.0, 2.0, -1.0, -2.0], [1.0, 2.0, 0.0, -3.0]], np.float32)
    y, dx, _ = passes(layer, {"weight": weight}, (), x.reshape(1, 2, 4, 1))
    np.testing.assert_array_equal(np.ravel(y), [2, 0])
    np.testing.assert_array_equal(np.reshape(dx, (2, 4)), [[1, 0, 0, 0], [0, 0, 0, 0]])


def test_statistics_of_a_fused_network_are_those_of_the_network(x64):
    x, target = normal(0, (4, 16, 16, 1)), jnp.asarray(np.arange(4) % 3)
    params, state = started(network(), x)
    norms, fused_norms = (
        jax.jit(statistics.per_example_squared_norms(layer, nn.softmax_cross_entropy()))(
            params, state, x, target
        )
        for layer in (network(), nn.fuse(network()))
    )
    chex.assert_trees_all_close(norms, fused_norms, rtol=1e-9)


def test_a_batch_that_chunks_do_not_divide_has_the_same_gradient(monkeypatch):
    monkeypatch.setattr("jaxnn.kernels.convolution.pooled.CHUNK_BYTES", 4096)
    layer = nn.conv_relu_max_pool(nn.conv(3, (3, 3)))
    nn.check_layer(layer, normal(0, (7, 6, 6, 1))).require()


@pytest.mark.parametrize("given", [nn.conv_transpose(3, (3, 3)), nn.conv, 3])
def test_a_layer_that_is_no_convolution_is_refused(given, untyped):
    with pytest.raises(TypeError, match="conv_relu_max_pool: expected conv to be a conv, got"):
        nn.conv_relu_max_pool(given)


def pooled(*, conv=None, relu=None):
    """conv, relu and max_pool in the way that fuse looks for, but for what is given."""
    return (conv or nn.conv(4, (3, 3)), relu or nn.relu(), nn.max_pool(2))


def classifier(*layers):
    return nn.serial(*layers, nn.flatten(), nn.dense(3))


def is_fused(network):
    return any(isinstance(layer, nn.conv_relu_max_pool) for _, layer in nn.walk(network))


def require_the_gradient_of(network, fused, tolerance=1e-9, dtype=float, make=nn.backprop):
    x, target = normal(0, (3, 8, 8, 1), dtype), jnp.asarray([0, 2, 1])
    params, state = initialized(network, x)
    key = jax.random.key(3)
    gradient, expected = (
        jax.jit(make(one, LOSS))(params, state, x, target, key)[1] for one in (fused, network)
    )
    assert_agree(gradient, expected, tolerance)


class half_relu(nn.relu):  # type: ignore[misc]
    """Another gradient under the name, the fields and the forward pass of a ReLU."""

    def pull_back(self, residuals, dy):
        return super().pull_back(residuals, dy) / 2


half_relu.__name__ = "relu"


class half_conv(nn.conv):  # type: ignore[misc]
    """A convolution that learns half as fast, and hands nothing on."""

    def backward(self, params, residuals, dy):
        x, facts = residuals
        return jnp.zeros_like(x), nn.ConvCapture(x, dy / 2, facts.value[1])


@pytest.mark.parametrize(
    "layers",
    [
        pooled(relu=nn.straight_through(nn.relu())),
        pooled(relu=nn.straight_through(nn.relu(), nn.tanh())),
        pooled(relu=half_relu()),
        pooled(conv=half_conv(4, (3, 3))),
        pooled(conv=nn.recompute(nn.conv(4, (3, 3)))),
        pooled(conv=nn.feedback_alignment(nn.conv(4, (3, 3)))),
    ],
    ids=str,
)
def test_an_estimator_or_a_layer_of_ones_own_keeps_its_gradient(layers, x64):
    network = classifier(*layers)
    assert not is_fused(nn.fuse(network))
    require_the_gradient_of(network, nn.fuse(network))


TWICE = (*pooled(), *pooled(conv=nn.conv(5, (3, 3))))
RULES = [
    lambda *layers: nn.feedback_alignment(classifier(*layers)),
    lambda *layers: nn.sign_concordant(classifier(*layers)),
    lambda *layers: nn.sign_concordant(classifier(*layers), "batch"),
    lambda *layers: nn.kolen_pollack(classifier(*layers), 0.5),
    lambda *layers: nn.direct_feedback_alignment(
        nn.serial(*layers[:3]), nn.serial(*layers[3:], nn.flatten()), nn.dense(3)
    ),
]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_of_feedback_has_its_gradient_over_fused_layers(rule, x64):
    network = rule(*TWICE)
    assert is_fused(nn.fuse(network))
    require_the_gradient_of(network, nn.fuse(network))


def test_other_weights_on_the_way_back_serve_to_propagate_alone(x64):
    layer, x = nn.conv_relu_max_pool(nn.conv(3, (3, 3))), normal(0, (2, 6, 6, 1))
    params, _ = started(layer, x)
    others = {"weight": normal(5, params["weight"].shape)}  # and no bias
    _, _, residuals = layer.forward(params, (), x, None)
    dy = normal(1, (2, 3, 3, 3))
    dx, captures = layer.backward(params, residuals, dy)
    other_dx, other_captures = layer.backward(others, residuals, dy)
    chex.assert_trees_all_equal(nn.contract(captures), nn.contract(other_captures))
    assert np.abs(np.asarray(dx - other_dx)).max() > 0.1


@pytest.mark.parametrize(
    "network",
    [
        nn.serial(stem=pooled()[0], act=pooled()[1], pool=pooled()[2], flat=nn.flatten()),
        nn.serial(stem=nn.serial(*pooled()), flat=nn.flatten()),
        nn.serial(nn.recompute(nn.serial(nn.serial(*pooled()))), nn.flatten()),
        nn.serial(nn.repeat(nn.serial(*pooled(conv=nn.conv(1, (3, 3))), nn.upsample(2)), 2)),
        nn.serial(nn.fork(nn.serial(*pooled()), nn.serial(*pooled())), nn.add(), nn.flatten()),
    ],
    ids=str,
)
def test_names_and_nesting_do_not_keep_layers_from_being_fused(network, x64):
    network = nn.serial(network, nn.flatten(), nn.dense(3))
    fused = nn.fuse(network)
    assert is_fused(fused)
    assert nn.fuse(fused) == fused
    require_the_gradient_of(network, fused)


def test_names_of_parts_stay_with_their_places():
    network = nn.serial(stem=nn.conv(4, (3, 3)), act=nn.relu(), pool=nn.max_pool(2))
    assert nn.fuse(network) == nn.serial(
        stem=nn.conv_relu_max_pool(nn.conv(4, (3, 3))), act=nn.identity(), pool=nn.identity()
    )


@pytest.mark.parametrize("half", POLICIES)
@pytest.mark.parametrize("rule", [lambda network: network, nn.feedback_alignment])
def test_fused_layers_compute_under_a_policy(half, rule):
    network = rule(classifier(*TWICE))
    under, fused = (with_precision(n, POLICIES[half]) for n in (network, nn.fuse(network)))
    assert is_fused(nn.fuse(network))
    require_the_gradient_of(under, fused, 0.02, np.float32)


def test_a_network_under_a_policy_has_the_same_gradient_when_it_is_fused_afterwards():
    under = with_precision(classifier(*TWICE), POLICIES["bfloat16"])
    require_the_gradient_of(under, nn.fuse(under), 0.02, np.float32)


def test_a_fused_network_at_rest_is_the_network_at_rest(x64):
    network = classifier(*pooled(), nn.dropout(0.5), nn.batch_norm())
    rest = nn.in_inference_mode(nn.fuse(network))
    assert rest == nn.fuse(nn.in_inference_mode(network))
    require_the_gradient_of(nn.in_inference_mode(network), rest)


def test_accumulated_gradients_of_a_fused_network_are_those_of_the_network(x64):
    network = classifier(*TWICE)

    def in_parts(layer, loss):
        return nn.accumulate(nn.backprop(layer, loss), 3, network=layer)

    require_the_gradient_of(network, nn.fuse(network), make=in_parts)


def test_uses_of_one_fused_kernel_on_images_of_different_sizes_are_joined(x64):
    layer = nn.serial(*pooled(), nn.global_avg_pool())
    network = nn.serial(nn.share(layer), nn.concatenate(), nn.dense(3))
    x, target = (normal(0, (2, 8, 8, 1)), normal(1, (2, 5, 4, 1))), jnp.asarray([0, 2])
    params, state = started(network, x)
    gradient, expected = (
        jax.jit(nn.backprop(one, LOSS))(params, state, x, target)[1]
        for one in (nn.fuse(network), network)
    )
    assert_agree(gradient, expected, 1e-9)


def test_a_fused_network_is_a_value():
    fused = nn.fuse(classifier(*pooled()))
    assert eval(repr(fused), dict(PUBLIC)) == pickle.loads(pickle.dumps(fused)) == fused
    assert hash(fused) == hash(nn.fuse(classifier(*pooled())))
