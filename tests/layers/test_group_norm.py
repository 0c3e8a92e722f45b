import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, passes, started

import jaxnn as nn


def test_one_group_without_positions_is_layer_norm(x64):
    x = normal(0, (3, 4))
    params, _ = started(nn.layer_norm(), x)
    layers = (nn.group_norm(1), nn.layer_norm())
    values = [jax.jit(layer.predict)(params, (), x) for layer in layers]
    assert_agree(values[0], values[1], 1e-12)


def test_every_group_of_every_example_has_mean_0_and_variance_1(x64):
    layer, x = nn.group_norm(3, epsilon=0), jnp.asarray(5 + 3 * np.asarray(normal(0, (2, 6, 5, 6))))
    params, _ = layer.init(None, x)
    y = np.reshape(jax.jit(layer.predict)(params, (), x), (2, 30, 3, 2))
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var((1, 3)), 1, rtol=1e-12)


def test_it_is_that_of_pytorch(x64):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    x, dy = np.array(normal(0, (2, 3, 4, 6))), np.array(normal(1, (2, 3, 4, 6)))
    layer = nn.group_norm(2)
    params, _ = started(layer, x)
    by_hand = [
        both(layer, params, (), jnp.asarray(x), jnp.asarray(dy))
        for both in (passes, passes.__wrapped__)
    ]
    given = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    scale = torch.tensor(np.array(params["scale"]), requires_grad=True)
    offset = torch.tensor(np.array(params["offset"]), requires_grad=True)
    expected = torch.nn.functional.group_norm(given, 2, scale, offset)
    expected.backward(torch.tensor(np.moveaxis(dy, -1, 1)))
    reference = {"scale": scale.grad.numpy(), "offset": offset.grad.numpy()}
    for y, dx, gradients in by_hand:  # with jit and without
        assert_agree(np.moveaxis(y, -1, 1), expected.detach().numpy(), 1e-10)
        assert_agree(np.moveaxis(dx, -1, 1), given.grad.numpy(), 1e-10)
        assert_agree(gradients, reference, 1e-10)


def test_groups_that_do_not_divide_the_channels_are_refused():
    x = jax.ShapeDtypeStruct((1, 2, 6), jnp.float32)
    with pytest.raises(ValueError, match=r"group_norm: expected groups to divide the 6 .* got 4"):
        nn.group_norm(4).init(None, x)


def test_groups_below_one_are_refused():
    with pytest.raises(ValueError, match="group_norm: expected groups to be at least 1, got 0"):
        nn.group_norm(0)


def test_an_input_with_other_channels_than_the_parameters_is_refused():
    params, _ = nn.group_norm(2).init(None, jnp.ones((1, 4)))
    with pytest.raises(ValueError, match="expected the last axis of x to be 4, got 6"):
        nn.group_norm(2).predict(params, (), jnp.ones((1, 6)))


def test_integer_inputs_are_refused():
    with pytest.raises(TypeError, match="group_norm: expected x to be floating-point, got int32"):
        nn.group_norm(1).init(None, jnp.ones((1, 4), jnp.int32))
