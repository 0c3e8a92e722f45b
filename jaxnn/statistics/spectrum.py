"""Eigenvalues and traces of symmetric matrices that are known by their products alone.

A ``product`` is v -> A v, of trees like the parameters, such as

    partial_of = statistics.hessian_vector_product(network, loss)
    product = lambda v: partial_of(v, params, state, x, target)

Products are taken one after the other; every vector that a function keeps takes the memory of the
parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.core.validation import require_integer, require_positive_integer, unknown_name
from jaxnn.kernels.products import sum_dtype


class Eigenpairs(NamedTuple):
    """See `top_eigenpairs`."""

    values: np.ndarray
    """[count], the largest first."""
    vectors: Any
    """Trees like the parameters, [count, *parameter], of norm 1."""
    residuals: np.ndarray
    """[count], ‖A v − λ v‖: an eigenvalue of A lies no further from λ."""


class Estimate(NamedTuple):
    """A number known by chance."""

    value: Array
    error: Array
    """An estimate of its standard deviation."""


def spectral_density(
    product: Callable, params: Any, *, steps: int, key: Array, samples: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(Ritz values, the share of the spectrum of each), both [at most steps · samples].

    The Lanczos iteration with full orthogonalisation from a random vector: its outermost values
    converge to the outermost eigenvalues, and with their shares they are a quadrature of the
    density of all (Golub and Meurant, 1994; Ghorbani et al., 2019).

    Args:
        product: v -> A v, with A symmetric.
        params: A tree of arrays like v; their values do not matter.
        steps: How many products are taken, at most as many as there are parameters.
        key: Draws the first vector.
        samples: From how many first vectors; their shares are averaged.

    Raises:
        ValueError: ``steps`` or ``samples`` is less than 1.
    """
    require_positive_integer("spectral_density", "steps", steps)
    require_positive_integer("spectral_density", "samples", samples)
    iterate, _ = _make_lanczos(product, params, steps, keep=False)
    keys = [key] if samples == 1 else jax.random.split(key, samples)
    found = [_ritz(*iterate(own)[:2])[:2] for own in keys]
    values, shares = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(values, kind="stable")
    return values[order], shares[order] / samples


def top_eigenpairs(
    product: Callable, params: Any, *, count: int, steps: int, key: Array
) -> Eigenpairs:
    """The ``count`` largest eigenvalues and their vectors, from ``steps`` products.

    Ritz pairs of one run of the Lanczos iteration with full orthogonalisation, which finds each
    value once, however often it comes. ``steps`` vectors are kept.

    Args:
        product: v -> A v, with A symmetric.
        params: A tree of arrays like v.
        count: How many pairs; fewer are returned where the iteration ends sooner.
        steps: How many products are taken, at least ``count``.
        key: Draws the first vector.

    Raises:
        ValueError: ``count`` or ``steps`` is out of range.
    """
    require_positive_integer("top_eigenpairs", "count", count)
    require_integer("top_eigenpairs", "steps", steps, minimum=count)
    iterate, to_tree = _make_lanczos(product, params, steps, keep=True)
    alpha, beta, basis = iterate(key)
    values, _, vectors = _ritz(alpha, beta)
    size, chosen = len(values), np.argsort(-values)[:count]
    # Of a Ritz pair the residual is the last component times what the last step left over.
    residuals = np.abs(vectors[-1, chosen]) * np.asarray(beta)[size - 1]
    turned = jnp.asarray(vectors[:, chosen]).T.astype(basis.dtype) @ basis[:size]
    return Eigenpairs(values[chosen], jax.vmap(to_tree)(turned), residuals)


def trace_estimate(
    product: Callable, params: Any, *, products: int, key: Array, method: str = "xtrace"
) -> Estimate:
    """tr A from so many products with random signs, without bias, and an estimate of its error.

        hutchinson    E[zᵀ A z]  (Hutchinson, 1989)
        hutch++       tr QᵀAQ + E[zᵀ (I − QQᵀ) A (I − QQᵀ) z] with Q = orth(A Z)
                      (Meyer et al., 2021)
        xtrace        the mean of this, for each z in Z, with Q of all others
                      (Epperly et al., 2024)

    The error of the first falls as 1 / √products; where few eigenvalues carry the trace, that of
    the others far faster: the last two find that of a matrix of low rank exactly. They keep about
    ``products`` vectors.

    Args:
        product: v -> A v, with A symmetric.
        params: A tree of arrays like v.
        products: How many products are taken, at most: a third of them, or a half, go into Q. With
            no more parameters than that, unit vectors give the trace itself.
        key: Draws the signs.
        method: "xtrace", "hutch++" or "hutchinson".

    Raises:
        ValueError: ``method`` is unknown, or ``products`` too few for an error: 2 for hutchinson,
            4 for xtrace, 6 for hutch++.
    """
    if method not in _METHODS:
        raise ValueError(f"trace_estimate: {unknown_name('method', method, _METHODS)}")
    estimate, share, least = _METHODS[method]
    require_integer("trace_estimate", "products", products, minimum=share * least)
    times, size, dtype, _ = _of_vectors(product, params)
    of_columns = jax.jit(lambda columns: jax.lax.map(times, columns.T).T)
    if size <= products:
        # Unit vectors find it; random ones, which may depend on each other, may not.
        return Estimate(jnp.trace(of_columns(jnp.eye(size, dtype=dtype))), jnp.zeros((), dtype))
    return estimate(of_columns, (size, products // share), dtype, key)


def _hutchinson(times: Callable, shape: tuple, dtype: Any, key: Array) -> Estimate:
    signs = jax.random.rademacher(key, shape, dtype)
    return _mean(jnp.sum(signs * times(signs), 0))


def _hutch_plus_plus(times: Callable, shape: tuple, dtype: Any, key: Array) -> Estimate:
    first, second = jax.random.split(key)
    basis = jnp.linalg.qr(times(jax.random.rademacher(first, shape, dtype)))[0]
    signs = jax.random.rademacher(second, shape, dtype)
    rest = signs - basis @ (basis.T @ signs)
    found = _mean(jnp.sum(rest * times(rest), 0))
    return Estimate(jnp.sum(basis * times(basis)) + found.value, found.error)


def _xtrace(times: Callable, shape: tuple, dtype: Any, key: Array) -> Estimate:
    signs = jax.random.rademacher(key, shape, dtype)
    images = times(signs)
    basis, upper = jnp.linalg.qr(images)
    inner = basis.T @ times(basis)
    # s_i spans what column i alone has put into the basis: R_jᵀ s_i = 0 for all other columns. Of
    # dependent columns R is singular, and any such s_i will do.
    least = jnp.finfo(dtype).eps * jnp.max(jnp.abs(upper))
    pivots = jnp.diagonal(upper)
    pivots = jnp.where(jnp.abs(pivots) > least, pivots, jnp.where(least > 0, least, 1))
    lower = (upper - jnp.diag(jnp.diagonal(upper)) + jnp.diag(pivots)).T
    own = jax.scipy.linalg.solve_triangular(lower, jnp.eye(shape[1], dtype=dtype), lower=True)
    own = own / jnp.linalg.norm(own, axis=0)
    inside = basis.T @ signs
    inside = inside - own * jnp.sum(own * inside, 0)
    each = (
        jnp.trace(inner)
        - jnp.sum(own * (inner @ own), 0)
        + jnp.sum(signs * images, 0)
        - 2 * jnp.sum(upper * inside, 0)
        + jnp.sum(inside * (inner @ inside), 0)
    )
    return _mean(each)


_METHODS: dict[str, tuple[Callable, int, int]] = {
    "xtrace": (_xtrace, 2, 2),
    "hutch++": (_hutch_plus_plus, 3, 2),
    "hutchinson": (_hutchinson, 1, 2),
}
"""What estimates, how many products it takes for each column, and how many columns at least."""


def _mean(each: Array) -> Estimate:
    count = each.shape[0]
    return Estimate(jnp.mean(each), jnp.std(each, ddof=1) / count**0.5)


def _of_vectors(product: Callable, params: Any) -> tuple[Callable, int, Any, Callable]:
    """(v [parameters] -> A v, how many parameters, the dtype of v, at least float32, v -> tree)."""
    flat, unravel = ravel_pytree(params)
    dtype = sum_dtype(flat.dtype)

    def to_tree(v: Array) -> Any:
        return unravel(v.astype(flat.dtype))

    def times(v: Array) -> Array:
        return ravel_pytree(product(to_tree(v)))[0].astype(dtype)

    return times, flat.size, dtype, to_tree


def _make_lanczos(
    product: Callable, params: Any, steps: int, *, keep: bool
) -> tuple[Callable, Callable]:
    """(key -> (α [steps], β [steps], basis [steps, parameters] where it is kept), v -> tree)."""
    times, size, dtype, to_tree = _of_vectors(product, params)
    if not size:
        raise ValueError("Lanczos iteration: expected params to hold a number, got none")
    steps = min(steps, size)

    def body(carry: Any, index: Any):
        basis, v = carry
        basis = basis.at[index].set(v)
        w = times(v)
        alpha = jnp.vdot(v, w)
        for _ in range(2):  # once loses orthogonality to rounding
            w = w - basis.T @ (basis @ w)
        beta = jnp.linalg.norm(w)
        return (basis, w / jnp.where(beta == 0, 1, beta)), (alpha, beta)

    @jax.jit
    def iterate(key: Array):
        v = jax.random.normal(key, (size,), dtype)
        start = jnp.zeros((steps, size), dtype), v / jnp.linalg.norm(v)
        (basis, _), (alpha, beta) = jax.lax.scan(body, start, jnp.arange(steps))
        return alpha, beta, basis if keep else None

    return iterate, to_tree


def _ritz(alpha: Any, beta: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, shares, vectors) of the tridiagonal matrix."""
    alpha, beta = np.asarray(alpha), np.asarray(beta)
    # Where the iteration has found an invariant subspace, the rest is of rounding errors.
    small = np.flatnonzero(beta < 1e-6 * np.abs(alpha).max())
    steps = int(small[0]) + 1 if small.size else len(alpha)
    off = np.diag(beta[: steps - 1], 1)
    values, vectors = np.linalg.eigh(np.diag(alpha[:steps]) + off + off.T)
    return values, vectors[0] ** 2, vectors
