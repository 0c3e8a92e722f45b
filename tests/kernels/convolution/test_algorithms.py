import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close
from helpers import normal
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxnn.kernels.convolution import direct, elementwise, patches, taps, winograd, winograd_rows
from jaxnn.kernels.convolution.filtering import F2, F4
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.layers.windows import output_sizes
from jaxnn.sharding import collectives, make_mesh, place_examples

ONE_TO_THREE = st.integers(1, 3)


@st.composite
def geometries(draw, channels_of_a_group=ONE_TO_THREE):
    """A geometry, the channels of x and of y."""
    dimensions = draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    size, kernel, strides, dilation = each(1, 7), each(1, 4), each(1, 3), each(1, 3)
    padding = tuple(zip(each(0, 5), each(0, 5), strict=True))
    try:
        output = output_sizes("conv", size, kernel, strides, padding, dilation)
    except ValueError:
        assume(False)
    groups = draw(st.integers(1, 3))
    geometry = Geometry(size, output, kernel, strides, padding, dilation, groups)
    return geometry, groups * draw(channels_of_a_group), groups * draw(st.integers(1, 3))


def library(geometry):
    """The convolution as a JAX user would write it."""
    spatial = "DHW"[: geometry.dimensions]
    return lambda x, weight: jax.lax.conv_general_dilated(
        x,
        weight,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        feature_group_count=geometry.groups,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    )


def require_agreement(algorithm, geometry, inputs, outputs, batch, dtype, tolerance):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    x = normal(batch, *geometry.size, inputs)
    weight = normal(*geometry.kernel_size, inputs // geometry.groups, outputs)
    dy = normal(batch, *geometry.output_size, outputs)

    @jax.jit
    def both(x, weight, dy):
        y, vjp = jax.vjp(library(geometry), x, weight)
        by_hand = (
            algorithm.forward(x, weight, geometry),
            algorithm.input_gradient(dy, weight, geometry),
            algorithm.weight_gradient(x, dy, geometry),
        )
        return by_hand, (y, *vjp(dy))

    for value, reference in zip(*jax.tree.map(np.asarray, both(x, weight, dy)), strict=True):
        assert value.shape == reference.shape
        assert value.dtype == reference.dtype
        error = np.linalg.norm((value - reference).ravel())
        assert error <= tolerance * np.linalg.norm(reference.ravel())


@given(drawn=geometries(), batch=st.integers(0, 3))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_direct_agrees_with_autodiff_of_the_library(drawn, batch):
    with jax.enable_x64(True):
        require_agreement(direct, *drawn, batch, jnp.float64, 1e-12)


@given(drawn=geometries(), batch=st.integers(0, 3))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_patches_agree_with_autodiff_of_the_library(drawn, batch):
    with jax.enable_x64(True):
        require_agreement(patches, *drawn, batch, jnp.float64, 1e-12)


@given(drawn=geometries(), batch=st.integers(0, 3))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_elementwise_agrees_with_autodiff_of_the_library(drawn, batch):
    with jax.enable_x64(True):
        require_agreement(elementwise, *drawn, batch, jnp.float64, 1e-12)


STRIDED = Geometry((7, 6), (4, 3), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (4, 8), (8, 4), (4, 40), (40, 4)])
def test_elementwise_agrees_in_blocks_of_rows(inputs, outputs, monkeypatch, x64):
    monkeypatch.setattr(elementwise, "BLOCK", 7)  # of 4 rows of 3 positions: 2 blocks of 2 rows
    require_agreement(elementwise, STRIDED, inputs, outputs, 5, jnp.float64, 1e-12)


DEPTHWISE = Geometry((9,), (9,), (3,), (1,), ((1, 1),), (1,), 4)


def test_elementwise_sums_of_a_million_positions_are_exact_to_single_precision():
    length = 10**6 + 1
    geometry = dataclasses.replace(DEPTHWISE, size=(length,), output_size=(length,))
    x, dy = (normal(seed, (1, length, 4), jnp.float32) for seed in range(2))
    found = elementwise.weight_gradient(x, dy, geometry)[1, 0]
    exact = np.sum(np.asarray(x, np.float64) * np.asarray(dy, np.float64), (0, 1))
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6 * abs(exact).max())


@pytest.mark.parametrize("mesh_around", [True, False])
def test_elementwise_sums_of_a_split_batch_stay_on_their_devices(mesh_around):
    mesh = make_mesh()
    x, dy = (np.asarray(normal(seed, (16, 9, 4), jnp.float32)) for seed in range(2))
    run = jax.jit(functools.partial(elementwise.weight_gradient, geometry=DEPTHWISE))
    placed = place_examples((x, dy), mesh)
    with jax.set_mesh(mesh) if mesh_around else contextlib.nullcontext():
        program = run.lower(*placed).compile()
    assert [collective.kind for collective in collectives(program)] == ["all-reduce"]
    np.testing.assert_allclose(program(*placed), run(x, dy), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pass_name", ["forward", "input_gradient", "weight_gradient"])
def test_elementwise_passes_have_derivatives_of_every_kind(pass_name, x64):
    run = functools.partial(getattr(elementwise, pass_name), geometry=STRIDED)
    reference = functools.partial(getattr(direct, pass_name), geometry=STRIDED)
    x, dy, weight = (
        jnp.asarray(np.random.default_rng(seed).normal(size=shape))
        for seed, shape in enumerate([(2, 7, 6, 8), (2, 4, 3, 4), (3, 3, 2, 4)])
    )
    a, b = {"forward": (x, weight), "input_gradient": (dy, weight)}.get(pass_name, (x, dy))

    def derivatives(run):
        def loss(a, b):
            return jnp.sum(jnp.sin(run(a, b)))

        gradient = jax.grad(loss, (0, 1))
        mapped = jax.vmap(gradient, (0, None))(jnp.stack([a, 2 * a]), b)
        return gradient(a, b), jax.jvp(gradient, (a, b), (b.sum() * a, b))[1], mapped

    found, expected = jax.jit(lambda: (derivatives(run), derivatives(reference)))()
    assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-10)


@given(drawn=geometries(), batch=st.integers(0, 3))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_taps_agree_with_autodiff_of_the_library(drawn, batch):
    with jax.enable_x64(True):
        require_agreement(taps, *drawn, batch, jnp.float64, 1e-12)


def three_by_three(size, padding):
    output = output_sizes("conv", size, (3, 3), (1, 1), padding, (1, 1))
    return Geometry(size, output, (3, 3), (1, 1), padding, (1, 1), 1)


pairs = st.tuples(st.integers(0, 4), st.integers(0, 4))


@given(
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    padding=st.tuples(pairs, pairs),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    batch=st.integers(0, 5),
)
@settings(max_examples=4, deadline=None, derandomize=True)
def test_winograd_agrees_with_autodiff_of_the_library(size, padding, inputs, outputs, batch):
    with jax.enable_x64(True):
        geometry = three_by_three(size, padding)
        require_agreement(winograd, geometry, inputs, outputs, batch, jnp.float64, 1e-12)


def test_winograd_agrees_in_chunks_that_do_not_divide_the_batch(monkeypatch):
    for module in (winograd, winograd_rows):
        monkeypatch.setattr(module, "CHUNK_BYTES", 16 * 9 * 5 * 8 * 2)  # about two examples
    geometry = three_by_three((6, 5), ((1, 1), (1, 1)))
    with jax.enable_x64(True):
        require_agreement(winograd, geometry, 2, 3, 7, jnp.float64, 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 2e-5)])
@pytest.mark.parametrize(("size", "padding"), [((8, 7), 1), ((16, 12), 1), ((10, 6), 2)])
def test_winograd_agrees_where_the_weight_gradient_takes_large_tiles(
    size, padding, dtype, tolerance, x64
):
    geometry = three_by_three(size, ((padding, padding),) * 2)
    large, small = (len(f.B) * f.tiles(geometry)[0] for f in (F4, F2))
    assert large < small
    require_agreement(winograd, geometry, 2, 3, 4, dtype, tolerance)


@pytest.mark.parametrize("algorithm", [direct, patches, elementwise, winograd, taps])
def test_float32_agrees(algorithm):
    geometry = three_by_three((9, 8), ((1, 1), (0, 2)))
    require_agreement(algorithm, geometry, 1, 4, 3, jnp.float32, 3e-6)


@pytest.mark.parametrize("algorithm", [direct, patches, elementwise, winograd, taps])
def test_weight_gradients_of_half_precision_are_summed_in_float32(algorithm):
    # One by one in bfloat16 the sum would stop at 256, where adding 1 no longer changes it.
    geometry = three_by_three((32, 32), ((1, 1), (1, 1)))
    x, dy = (jnp.ones((2, 32, 32, 1), jnp.bfloat16) for _ in range(2))
    gradient = jax.jit(lambda x, dy: algorithm.weight_gradient(x, dy, geometry))(x, dy)
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[1, 1, 0, 0]) == 2048


@pytest.mark.parametrize("algorithm", [direct, patches, elementwise, taps])
def test_the_taps_of_half_precision_are_added_in_float32(algorithm):
    # The first tap is 256; of the following ones each is too small to change it in bfloat16.
    geometry = three_by_three((6, 6), ((1, 1), (1, 1)))
    weight = jnp.ones((3, 3, 1, 1), jnp.bfloat16).at[0, 0].set(256)
    one = jnp.ones((1, 6, 6, 1), jnp.bfloat16)
    for sums in (algorithm.forward, algorithm.input_gradient):
        y = jax.jit(lambda a, w, sums=sums: sums(a, w, geometry))(one, weight)
        assert y.dtype == jnp.bfloat16
        assert float(y[0, 2, 2, 0]) == 264
