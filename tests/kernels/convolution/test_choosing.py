import re

import jax
import jax.numpy as jnp
import pytest
from helpers import assert_agree

import jaxnn as nn
from jaxnn.kernels.convolution.choosing import ALGORITHMS, choose
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.layers.windows import output_sizes, resolve_padding

PASSES = ("forward", "input_gradient", "weight_gradient")


def geometry(kernel, strides=1, groups=1):
    size, kernel, strides, ones = (8, 8), (kernel,) * 2, (strides,) * 2, (1, 1)
    padding = resolve_padding("SAME", size, kernel, strides, ones)
    output = output_sizes("conv", size, kernel, strides, padding, ones)
    return Geometry(size, output, kernel, strides, padding, ones, groups)


def chosen(geometry, inputs, outputs, dtype=jnp.float32):
    choices = [choose(name, geometry, inputs, outputs, jnp.dtype(dtype)) for name in PASSES]
    assert all(choice.algorithm in ALGORITHMS and choice.reason for choice in choices)
    return [choice.algorithm for choice in choices]


def test_wide_three_by_three_kernels_take_winograd_unless_precision_is_half():
    assert chosen(geometry(3), 64, 64) == ["winograd"] * 3
    assert "winograd" not in chosen(geometry(3), 64, 64, jnp.bfloat16)
    assert "winograd" not in chosen(geometry(3, strides=2), 64, 64)
    assert chosen(geometry(3), 12, 12) == ["direct", "direct", "winograd"]


def test_few_channels_are_added_up_by_elements():
    assert chosen(geometry(3), 6, 16) == ["elementwise", "patches", "patches"]
    assert chosen(geometry(3), 11, 6) == ["direct", "elementwise", "patches"]
    assert chosen(geometry(3), 7, 16)[:2] == ["direct"] * 2
    assert chosen(geometry(5), 3, 16)[:2] == ["elementwise", "direct"]
    assert chosen(geometry(7), 3, 16)[:2] == ["direct"] * 2


def test_depthwise_convolutions_are_elementwise():
    assert chosen(geometry(3, groups=64), 64, 64) == ["elementwise"] * 3
    assert chosen(geometry(5, groups=64), 64, 128) == ["elementwise"] * 3


def test_depthwise_convolutions_of_large_kernels_take_one_tap_after_the_other():
    assert chosen(geometry(11, groups=64), 64, 64) == ["taps"] * 3


def test_groups_of_few_channels_are_elementwise_where_they_are_added_up():
    assert chosen(geometry(3, groups=32), 64, 64) == ["elementwise"] * 3
    assert chosen(geometry(3, groups=32), 128, 64)[:2] == ["elementwise"] * 2
    assert chosen(geometry(3, groups=32), 160, 512) == ["elementwise", "patches", "patches"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(4, 4, 4), (4, 8, 4), (1, 2, 1), (3, 2, 1), (36, 36, 18)]
)
def test_no_program_grows_with_the_kernel(inputs, outputs, groups):
    layer = nn.conv(outputs, 40, groups=groups, padding="VALID")
    x = jnp.ones((1, 41, 41, inputs))
    params, _ = layer.init(jax.random.key(0), x)

    def both(params, x):
        y, _, residuals = layer.forward(params, (), x, None)
        dx, captures = layer.backward(params, residuals, y)
        return dx, nn.contract(captures)

    program = jax.jit(both).lower(params, x).as_text()
    assert program.count("\n") < 2000  # of 1,600 taps


def test_a_large_kernel_agrees_with_autodiff_of_the_library():
    layer, x = nn.conv(4, 7, groups=2, padding="VALID"), jnp.ones((2, 9, 8, 2)).at[0, 3, 4].set(5)
    params, _ = layer.init(jax.random.key(0), x)

    @jax.jit
    def both(params, x):
        y, _, residuals = layer.forward(params, (), x, None)
        dx, captures = layer.backward(params, residuals, y)
        by_library = nn.conv(4, 7, groups=2, padding="VALID", algorithm="direct").predict
        expected, vjp = jax.vjp(lambda p, x: by_library(p, (), x), params, x)
        by_autodiff = jax.vjp(lambda p, x: layer.predict(p, (), x), params, x)[1](y)
        return (y, nn.contract(captures), dx), (expected, *vjp(y)), (y, *by_autodiff)

    found, expected, by_autodiff = both(params, x)
    assert_agree(found, expected, 1e-5)
    assert_agree(by_autodiff, expected, 1e-5)


def test_a_few_groups_are_computed_as_convolutions_of_their_own():
    choice = choose("forward", geometry(3, groups=4), 32, 32, jnp.dtype(jnp.float32))
    alone = choose("forward", geometry(3), 8, 8, jnp.dtype(jnp.float32))
    assert choice == alone._replace(group_by_group=True)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_the_library_weight_gradient_is_never_chosen_on_cpu(kernel, strides, groups):
    for inputs in (4, 64):
        assert chosen(geometry(kernel, strides, groups), inputs, 64)[2] != "direct"


def test_gpu_and_tpu_take_the_library_convolution():
    layer = nn.conv(32, (3, 3))
    x = jnp.ones((2, 8, 8, 32))
    params, state = layer.init(jax.random.key(0), x)

    def step(params, x):
        y, _, residuals = layer.forward(params, state, x, None)
        dx, captures = layer.backward(params, residuals, y)
        return dx, nn.contract(captures)

    exported = jax.export.export(jax.jit(step), platforms=["cuda"])(params, x)
    program = exported.mlir_module()
    assert len(re.findall(r"stablehlo\.convolution", program)) == 3
    assert "stablehlo.dot_general" not in program
