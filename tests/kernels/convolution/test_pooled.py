"""What the pooled convolution takes from its algorithms, against the library's convolution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal

from jaxnn.kernels.convolution import direct, pooled
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.convolution.grids import phases
from jaxnn.layers.windows import output_sizes

BATCH, INPUTS, OUTPUTS = 5, 2, 3


def geometry_of(size, padding):
    output = output_sizes("conv", size, (3, 3), (1, 1), padding, (1, 1))
    geometry = Geometry(size, output, (3, 3), (1, 1), padding, (1, 1), 1)
    return pooled.of_whole_windows(geometry)


GEOMETRIES = [geometry_of((7, 6), ((1, 1), (0, 2))), geometry_of((5, 9), ((2, 1), (1, 1)))]
every_way = pytest.mark.parametrize("algorithm", pooled.ALGORITHMS)
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)


def arrays(geometry):
    """x, the weight, the bias, the deltas of the pooled output, and which phase won."""
    rows, columns = (n // 2 for n in geometry.output_size)
    winner = np.random.default_rng(0).integers(0, 5, (BATCH, rows, columns, OUTPUTS))
    return (
        normal(0, (BATCH, *geometry.size, INPUTS)),
        normal(1, (3, 3, INPUTS, OUTPUTS)),
        normal(2, (OUTPUTS,)),
        normal(3, winner.shape),
        jnp.asarray(winner, jnp.uint8),
    )


def whole(dy, winner):
    """dy where the winner stands, written out."""
    batch, rows, columns, channels = dy.shape
    deltas = np.zeros((batch, 2 * rows, 2 * columns, channels))
    for b, r, c, o in np.ndindex(dy.shape):
        if winner[b, r, c, o] < 4:
            i, j = divmod(int(winner[b, r, c, o]), 2)
            deltas[b, 2 * r + i, 2 * c + j, o] = dy[b, r, c, o]
    return jnp.asarray(deltas)


def test_the_pool_is_the_maximum_of_a_window_and_zero_and_where_it_was_first():
    y = np.array([[1.0, 5, -1, -2], [5, 2, -3, -1], [0, 0, 2, 1], [-1, 0, 2, 3]])
    top, winner = pooled.pool(phases(jnp.asarray(y, jnp.float32)[None, :, :, None]), None)
    np.testing.assert_array_equal(top[0, :, :, 0], [[5, 0], [0, 3]])
    np.testing.assert_array_equal(winner[0, :, :, 0], [[1, 4], [4, 3]])


@every_geometry
def test_whole_deltas_stand_where_the_maximum_was(geometry, x64):
    *_, dy, winner = arrays(geometry)
    np.testing.assert_array_equal(pooled.whole_deltas(dy, winner, geometry), whole(dy, winner))


@every_way
@every_geometry
def test_output_phases_are_those_of_the_library(algorithm, geometry, x64):
    x, weight, *_ = arrays(geometry)
    way = pooled.ALGORITHMS[algorithm]
    found = jax.jit(lambda x, w: way.output_phases(x, way.transformed_kernel(w), geometry))
    assert_agree(found(x, weight), phases(direct.forward(x, weight, geometry)), 1e-12)


@every_way
@every_geometry
def test_the_pooled_convolution_is_the_pool_of_the_librarys(algorithm, geometry, x64):
    x, weight, bias, *_ = arrays(geometry)
    y, winner = jax.jit(lambda *a: pooled.forward(*a, geometry, algorithm))(x, weight, bias)
    expected, won = pooled.pool(phases(direct.forward(x, weight, geometry)), bias)
    assert_agree(y, expected, 1e-12)
    np.testing.assert_array_equal(winner, won)


@every_way
@every_geometry
@pytest.mark.parametrize("chunk_bytes", [4096, 2**21])
def test_gradients_are_the_librarys_of_whole_deltas(
    algorithm, geometry, chunk_bytes, monkeypatch, x64
):
    monkeypatch.setattr(pooled, "CHUNK_BYTES", chunk_bytes)
    x, weight, _, dy, winner = arrays(geometry)

    @jax.jit
    def gradients(x, weight, dy, winner):
        of_input = pooled.input_gradient(dy, winner, weight, geometry, algorithm)
        return of_input, *pooled.parameter_gradients(x, winner, dy, geometry, algorithm)

    deltas = whole(dy, winner)
    expected = (
        direct.input_gradient(deltas, weight, geometry),
        direct.weight_gradient(x, deltas, geometry),
        jnp.sum(deltas, (0, 1, 2)),
    )
    assert_agree(gradients(x, weight, dy, winner), expected, 1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"strides": (2, 2)},
        {"dilation": (2, 1)},
        {"groups": 2},
        {"output_size": (1, 6)},
    ],
)
def test_no_phases_are_chosen_where_no_algorithm_gives_them(change):
    facts = vars(GEOMETRIES[0])
    weight = jnp.zeros((3, 3, 1, 8))
    assert pooled.choose_phases(Geometry(**facts), weight) == "elementwise"
    assert pooled.choose_phases(Geometry(**facts | change), weight) is None


@pytest.mark.parametrize(("kernel", "inputs"), [((3, 3), 3), ((7, 7), 1)])
def test_no_phases_are_chosen_where_patches_of_their_window_are_large(kernel, inputs):
    geometry = dataclasses.replace(GEOMETRIES[0], kernel_size=kernel)
    assert pooled.choose_phases(geometry, jnp.zeros((*kernel, inputs, 8))) is None
