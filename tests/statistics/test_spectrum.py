"""Spectra, traces and kernels without their matrices, against the matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics

EIGENVALUES = np.repeat([-3.0, 0.0, 0.5, 2.0, 10.0], [1, 200, 50, 40, 9])
PARAMS = {"a": jnp.zeros(100), "b": jnp.zeros((20, 10))}


def product_with(eigenvalues):
    """v -> A v of trees like PARAMS, for a matrix of these eigenvalues; and the matrix."""
    size = len(eigenvalues)
    rotation = np.linalg.qr(np.asarray(normal(0, (size, size))))[0]
    matrix = jnp.asarray(rotation @ np.diag(eigenvalues) @ rotation.T)

    def product(v):
        flat = matrix @ jnp.concatenate([v["a"], v["b"].ravel()])
        return {"a": flat[:100], "b": flat[100:].reshape(20, 10)}

    return product, matrix


def params():
    return jax.tree.map(lambda a: a.astype(float), PARAMS)


def test_the_density_has_the_eigenvalues_and_their_shares(x64):
    """Five steps find all of a matrix with five different eigenvalues, however often each comes."""
    product, _ = product_with(EIGENVALUES)
    key = jax.random.key(0)
    values, shares = statistics.spectral_density(product, params(), steps=12, key=key)
    np.testing.assert_allclose(values, [-3, 0, 0.5, 2, 10], atol=1e-6)
    np.testing.assert_allclose(shares.sum(), 1)
    # Of a random vector, whose squared components scatter: a beta distribution.
    expected = np.array([1, 200, 50, 40, 9]) / 300
    deviations = np.sqrt(2 * expected * (1 - expected) / 302)
    assert (np.abs(shares - expected) < 4 * deviations).all()
    several = statistics.spectral_density(product, params(), steps=12, key=key, samples=20)
    grouped = np.abs(several[0][:, None] - values) < 1e-3
    averaged = several[1] @ grouped
    assert (np.abs(averaged - expected) < deviations).all()


def test_top_eigenpairs_are_those_of_the_matrix(x64):
    eigenvalues = np.concatenate([np.linspace(0, 1, 296), [5, 7, 11, 13]])
    product, matrix = product_with(eigenvalues)
    found = statistics.top_eigenpairs(product, params(), count=3, steps=40, key=jax.random.key(0))
    np.testing.assert_allclose(found.values, [13, 11, 7], rtol=1e-10)
    vectors = np.concatenate([found.vectors["a"], np.reshape(found.vectors["b"], (3, -1))], 1)
    assert_agree(vectors @ vectors.T, np.eye(3), 1e-9)
    assert_agree(vectors @ matrix, found.values[:, None] * vectors, 1e-7)
    # Before they have converged, the residuals are those of the pairs.
    early = statistics.top_eigenpairs(product, params(), count=3, steps=6, key=jax.random.key(0))
    vectors = np.concatenate([early.vectors["a"], np.reshape(early.vectors["b"], (3, -1))], 1)
    residuals = np.linalg.norm(vectors @ matrix - early.values[:, None] * vectors, axis=1)
    assert residuals.min() > 1e-4
    assert_agree(early.residuals, residuals, 1e-8)


def test_traces_are_found_and_their_errors_are_the_scatter(x64):
    eigenvalues = np.concatenate([1.5 ** -np.arange(60.0), np.full(240, 1e-4)])
    product, _ = product_with(eigenvalues)
    keys = jax.random.split(jax.random.key(0), 30)
    scatter = {}
    for method in ("hutchinson", "hutch++", "xtrace"):
        one = lambda key, method=method: statistics.trace_estimate(  # noqa: E731
            product, params(), products=24, key=key, method=method
        )
        values, errors = jax.jit(lambda one=one: jax.lax.map(one, keys))()
        off = np.asarray(values) - eigenvalues.sum()
        scatter[method] = np.sqrt(np.mean(off**2))
        assert abs(off.mean()) < 4 * scatter[method] / np.sqrt(len(keys))  # without bias
        assert 0.3 < np.sqrt(np.mean(np.asarray(errors) ** 2)) / scatter[method] < 3
    assert scatter["xtrace"] < scatter["hutch++"] < scatter["hutchinson"] / 2


def test_the_trace_of_a_matrix_of_low_rank_is_exact(x64):
    eigenvalues = np.concatenate([[4.0, 2.0, -1.0], np.zeros(297)])
    product, _ = product_with(eigenvalues)
    for method in ("hutch++", "xtrace"):
        value, error = statistics.trace_estimate(
            product, params(), products=18, key=jax.random.key(0), method=method
        )
        assert abs(value - 5) < 1e-9
        assert error < 1e-9


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_with_a_product_for_every_parameter_the_trace_is_exact(size, method):
    matrix = jnp.asarray(np.arange(1.0, 10).reshape(3, 3)[:size, :size] + np.eye(size))
    for seed in range(3):
        value, error = statistics.trace_estimate(
            lambda v: matrix @ v,
            jnp.ones(size),
            products=6,
            key=jax.random.key(seed),
            method=method,
        )
        assert (value, error) == (jnp.trace(matrix), 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_of_half_precision_spectra_are_taken_in_single(dtype):
    values, key = jnp.array([4.0, 2, 1, 0.5] + 8 * [0.25]), jax.random.key(0)

    def product(v):
        return (values * v).astype(v.dtype)

    like = jnp.zeros(12, dtype)
    top = statistics.top_eigenpairs(product, like, count=2, steps=5, key=key)
    np.testing.assert_allclose(top.values, [4, 2], rtol=0.05)
    assert top.vectors.dtype == dtype
    for method in ("hutchinson", "hutch++", "xtrace"):
        ask = lambda like, method=method: statistics.trace_estimate(  # noqa: E731
            product, like, products=10, key=key, method=method
        )
        found, exact = ask(like), ask(jnp.zeros(12, jnp.float32))
        assert found.value.dtype == jnp.float32
        np.testing.assert_allclose(found.value, exact.value, rtol=0.05)


def test_diagonal_and_pseudo_kernel_are_parts_of_the_kernel(x64):
    network = nn.serial(
        nn.conv(4, (2, 2), groups=2),
        nn.repeat(nn.serial(nn.conv(4, (1, 1)), nn.tanh()), 2),
        nn.flatten(),
        nn.layer_norm(),
        nn.dense(3),
    )
    x, others = normal(0, (4, 2, 2, 2)), normal(1, (2, 2, 2, 2))
    params, state = started(network, x)

    @jax.jit
    def everything(params, x, others):
        return (
            statistics.empirical_ntk(network)(params, state, x, others),
            statistics.empirical_ntk(network)(params, state, x),
            statistics.ntk_diagonal(network)(params, state, x),
            statistics.pseudo_ntk(network)(params, state, x, others),
        )

    between, own, diagonal, pseudo = everything(params, x, others)
    assert_agree(diagonal, np.einsum("bkbk->bk", own), 1e-9)
    assert_agree(pseudo, np.einsum("bkcl->bc", between) / 3, 1e-9)


def test_options_out_of_range_are_refused(untyped):
    product, key = (lambda v: v), jax.random.key(0)
    with pytest.raises(ValueError, match="unknown method 'xtrac': did you mean 'xtrace'"):
        statistics.trace_estimate(product, PARAMS, products=9, key=key, method="xtrac")
    with pytest.raises(ValueError, match="products to be at least 6, got 5"):
        statistics.trace_estimate(product, PARAMS, products=5, key=key, method="hutch++")
    with pytest.raises(ValueError, match="steps to be at least 3, got 2"):
        statistics.top_eigenpairs(product, PARAMS, count=3, steps=2, key=key)
    with pytest.raises(ValueError, match="params to hold a number, got none"):
        statistics.spectral_density(product, (), steps=1, key=key)
    with pytest.raises(ValueError, match="steps"):
        statistics.spectral_density(product, PARAMS, steps=0, key=key)
    network, x = nn.serial(nn.dense(2), nn.batch_norm()), normal(0, (3, 2))
    with pytest.raises(ValueError, match="mixes the examples"):
        statistics.ntk_diagonal(network)(*started(network, x), x)
