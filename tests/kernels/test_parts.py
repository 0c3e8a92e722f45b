import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn.kernels.chunks import map_chunks, sum_chunks
from jaxnn.sharding import collectives, make_mesh, place_examples, sent_bytes
from jaxnn.statistics.contractions import sum_of_squares


def compiled(function, *trees, mesh=None):
    mesh = make_mesh() if mesh is None else mesh
    placed = place_examples(trees, mesh)
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*placed).compile(), placed


def kinds(program):
    return [collective.kind for collective in collectives(program)]


@pytest.mark.parametrize("batch", [16, 24])
def test_chunks_of_a_split_batch_stay_on_their_devices(batch):
    x = np.asarray(normal(0, (batch, 5), jnp.float32))
    weight = normal(1, (5, 3), jnp.float32)
    mapped, placed = compiled(lambda x: map_chunks(lambda c: c @ weight, 8, x), x)
    np.testing.assert_allclose(mapped(*placed), x @ weight, rtol=1e-5)
    assert kinds(mapped) == []
    summed, placed = compiled(lambda x: sum_chunks(lambda c: c.T @ c, 8, x), x)
    np.testing.assert_allclose(summed(*placed), x.T @ x, rtol=1e-5, atol=1e-5)
    assert kinds(summed) == ["all-reduce"]


def test_chunks_of_a_batch_that_cannot_be_split_are_right_too():
    x = np.asarray(normal(0, (6, 5), jnp.float32))

    def run(x):
        x = x[:6]
        return map_chunks(jnp.cos, 2, x), sum_chunks(lambda c: c.sum(0), 4, x)

    program, placed = compiled(run, x)
    mapped, summed = program(*placed)
    np.testing.assert_allclose(mapped, np.cos(x), rtol=1e-6)
    np.testing.assert_allclose(summed, x.sum(0), rtol=1e-5)


def test_autodiff_goes_through_chunks_on_several_devices(x64):
    x, weight = np.asarray(normal(0, (16, 5))), normal(1, (5, 3))

    def loss(weight, x):
        return jnp.sum(map_chunks(lambda c: jnp.sin(c @ weight), 8, x) ** 2)

    expected = jax.grad(loss)(weight, jnp.asarray(x))
    program, placed = compiled(lambda x: jax.grad(loss)(weight, x), x)
    assert_agree(program(*placed), expected, 1e-12)


def test_squares_of_single_examples_are_summed_where_the_examples_are(x64):
    network = nn.conv(3, (2, 2))
    x, dy = np.asarray(normal(0, (8, 4, 4, 2))), np.asarray(normal(1, (8, 4, 4, 3)))
    params, state = network.init(jax.random.key(0), jnp.asarray(x))

    def run(x, dy):
        residuals = network.forward(params, state, x, None)[2]
        return sum_of_squares(network.backward(params, residuals, dy)[1])

    program, placed = compiled(run, x, dy)
    assert_agree(program(*placed), jax.jit(run)(x, dy), 1e-12)


def test_blocks_of_a_projection_are_taken_where_the_examples_are(x64):
    network = nn.serial(nn.dense(4), nn.projection(7))
    loss = nn.projected_cross_entropy(block=6)
    x = np.asarray(normal(0, (8, 5, 3)))
    labels = np.random.default_rng(0).integers(0, 7, (8, 5))
    params, state = network.init(jax.random.key(0), jnp.asarray(x))
    gradient = nn.backprop(network, loss)
    program, placed = compiled(lambda x, t: gradient(params, state, x, t)[1], x, labels)
    expected = jax.jit(gradient)(params, state, x, labels)[1]
    assert_agree(program(*placed), expected, 1e-12)
    assert set(kinds(program)) == {"all-reduce"}


def test_a_collective_in_a_loop_is_refused_since_nobody_can_count_it():
    def run(x):
        def body(total, _):
            return jax.lax.with_sharding_constraint(jnp.sin(x + total).sum(), P()), None

        return jax.lax.scan(body, 0.0, None, length=3)[0]

    program, _ = compiled(run, np.ones((8, 2), np.float32))
    with pytest.raises(ValueError, match="outside of its loops"):
        collectives(program)


@pytest.mark.parametrize(("data", "model"), [(4, 1), (2, 2)])
def test_a_sum_over_the_batch_sends_what_a_ring_sends(data, model):
    program, _ = compiled(
        lambda x: jnp.sum(x, 0), np.ones((8, 6), np.float32), mesh=make_mesh(data, model)
    )
    (reduction,) = collectives(program)
    assert reduction == ("all-reduce", data, 24)
    assert sent_bytes(program) == 2 * (data - 1) / data * 24
