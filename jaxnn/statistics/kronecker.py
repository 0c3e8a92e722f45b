"""The curvature of all parameters as one operator: a Kronecker product for each linear map.

K-FAC's factors (see `kfac_factors`) approximate the block of each dict of parameters of the
Gauss-Newton matrix, or of the empirical Fisher E[g gᵀ]; blocks of different layers are taken for
independent. `ekfac` keeps the eigenvectors and puts the exact second moments along them in the
place of the products of eigenvalues (George et al., 2018).
"""

import dataclasses
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.core.captures import contract, in_params, map_captures
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.networks import plain
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.validation import (
    known_values,
    require_floating,
    require_positive,
    unknown_name,
)
from jaxnn.statistics.blocks import Eigenbasis, Factors, diagonal_of, from_matrix, product
from jaxnn.statistics.columns import as_batch, hessian_root_captures, without_columns
from jaxnn.statistics.kfac import kfac_factors
from jaxnn.statistics.quantities import own_captures, quantity
from jaxnn.statistics.trees import require_examples_apart, shares_of, without


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Kronecker:
    """A symmetric positive semi-definite matrix C over all parameters, block by block.

    ``C @ v`` is its product with a vector in the tree of the parameters. Made by `kronecker` or
    `ekfac`; a pytree, which may go into and out of `jax.jit`. Sums over batches of what makes it,
    not of functions of it, are those of a larger batch: see `over_batches`.
    """

    blocks: Any
    """In the tree of captures: `Factors`, `Eigenbasis` or `Diagonal` for each."""
    layout: Any = dataclasses.field(metadata={"static": True})
    """The structure of that tree, by which parameters are brought into the shapes of blocks."""

    def matvec(self, vector: Any) -> Any:
        """C v, in the dtypes of ``vector``.

        Raises:
            TypeError: ``vector`` holds something else than floating-point numbers.
            ValueError: it has not the structure and shapes of these parameters.
        """
        self._require_like(vector)
        result = in_params(map_captures(product, self._captures(), self.blocks, vector), leading=0)
        return jax.tree.map(lambda r, v: r.astype(v.dtype), result, vector)

    __matmul__ = matvec

    def eigh(self) -> "Kronecker":
        """The same matrix with every block in its eigenbasis, whose ``values`` are the eigenvalues;
        what is a function of them needs no further decomposition."""
        return self._each(lambda block: block.eigh())

    def inverse(self, damping: Any, method: str = "exact") -> "Kronecker":
        """(C + λ I)⁻¹.

        Args:
            damping: λ, above 0.
            method: "exact", in the eigenbasis, or "heuristic", which damps the factors apart,
                (A + π √λ I)⁻¹ ⊗ (B + √λ / π I)⁻¹ with π² = (tr A / dim A) / (tr B / dim B)
                (Martens and Grosse, 2015), a product again, for which C must be made of factors.

        Raises:
            ValueError: ``damping`` is not above 0, ``method`` is unknown, or "heuristic" is asked
                of eigenvalues that are no products.
        """
        require_damping("Kronecker.inverse", damping)
        if method not in ("exact", "heuristic"):
            names = ("exact", "heuristic")
            raise ValueError(f"Kronecker.inverse: {unknown_name('method', method, names)}")
        if method == "exact":
            return self.map(lambda values: 1 / (values + damping))
        nodes = jax.tree.leaves(self.blocks, is_leaf=lambda node: isinstance(node, Eigenbasis))
        if any(isinstance(node, Eigenbasis) for node in nodes):
            raise ValueError(
                "Kronecker.inverse: expected factors for the heuristic, got eigenvalues, which are "
                'no products of two; take method="exact"'
            )
        return self._each(lambda block: block.inverse(damping))

    def sqrt(self) -> "Kronecker":
        """The symmetric positive semi-definite root."""
        return self.map(jnp.sqrt)

    def map(self, function: Callable) -> "Kronecker":
        """f(C), for a function of the array of eigenvalues, element by element."""
        return self._each(lambda block: block.eigh().map(function))

    def scaled(self, factor: Any) -> "Kronecker":
        """C times a number."""
        return self._each(lambda block: block.scaled(factor))

    def logdet(self, damping: Any = None, *, per_layer: bool = False) -> Any:
        """log det(C + λ I), with λ = 0 unless ``damping`` is given.

        Args:
            damping: λ, above 0.
            per_layer: Give the tree of captures, with a number for each, in place of their sum.

        Raises:
            ValueError: ``damping`` is not above 0.
        """
        if damping is not None:
            require_damping("Kronecker.logdet", damping)
        added = 0 if damping is None else damping
        logs = self.map(lambda values: jnp.log(values + added))
        return logs.trace(per_layer=per_layer)

    def trace(self, *, per_layer: bool = False) -> Any:
        """tr C; ``per_layer`` as of `logdet`."""
        traces = self._map_blocks(lambda block: block.trace())
        return traces if per_layer else reduce(jnp.add, jax.tree.leaves(traces))

    def diagonal(self) -> Any:
        """diag C, in the tree of the parameters."""

        def of_one(capture: Any, block: Any) -> Any:
            return from_matrix(capture, block, block.diagonal())

        return in_params(map_captures(of_one, self._captures(), self.blocks), leading=0)

    def quadratic(self, columns: Any) -> Array:
        """[batch, columns, columns], J_b C J_bᵀ for the captures of the columns of a matrix that is
        pulled back, whose gradients are the rows of J_b: of unit vectors, the Jacobian."""
        products = map_captures(lambda c, block: block.quadratic(c), columns, self.blocks)
        return reduce(jnp.add, jax.tree.leaves(products))

    def eigenvalues(self) -> Array:
        """[parameters], all of them, in no order."""

        def values(block: Any) -> Array:
            leaves = jax.tree.leaves(block.eigh().values)
            return jnp.concatenate([leaf.ravel() for leaf in leaves])

        found = jax.tree.leaves(self._map_blocks(values))
        return jnp.concatenate(found)

    def dense(self) -> Array:
        """[parameters, parameters], C, its rows and columns as `ravel_pytree` of params has them.
        For small networks."""
        shapes = self.parameters()
        flat, unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))

        def column(unit: Array) -> Array:
            return ravel_pytree(self.matvec(unravel(unit)))[0]

        return jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype))

    def corrected(self, captures: Any, weights: Array | None = None) -> "Kronecker":
        """With the eigenvalues Λ = E[(U_Aᵀ G U_B)²] of captures, for the same eigenvectors.

        They are the diagonal of E[G Gᵀ] in that basis, which makes C the nearest to it that has
        these eigenvectors. Inputs and deltas are turned inside the captures: no gradient of an
        example is turned, nor formed where a layer has one position.

        Args:
            captures: As `kronecker` took them: of Hessian roots, or of each example's own loss.
            weights: What each example counts in the mean.

        Raises:
            ValueError: the captures are of another network.
        """
        require_examples_apart("Kronecker.corrected", captures)
        self.require_of("Kronecker.corrected", captures)
        if weights is not None:
            captures = without(captures, weights == 0)
        roots = jnp.sqrt(shares_of(captures, weights))
        blocks = map_captures(lambda c, block: block.corrected(c, roots), captures, self.blocks)
        return dataclasses.replace(self, blocks=blocks)

    def require_of(self, where: str, captures: Any) -> None:
        """Raises unless the captures are of the network of this operator.

        Raises:
            ValueError: they have another structure, or are of parameters of other shapes.
        """
        if _layout(captures) != self.layout:
            raise ValueError(
                f"{where}: expected captures of the network of the operator, got those of another: "
                f"{_layout(captures)} in place of {self.layout}"
            )
        gradients = jax.eval_shape(lambda c: contract(map_captures(as_batch, c)), captures)
        given, expected = (
            [leaf.shape for leaf in jax.tree.leaves(tree)]
            for tree in (gradients, self.parameters())
        )
        if given != expected:
            raise ValueError(
                f"{where}: expected captures of the network of the operator, whose parameters have "
                f"the shapes {expected}, got {given}"
            )

    def parameters(self) -> Any:
        """The shapes and dtypes of the parameters."""
        return jax.eval_shape(self.diagonal)

    def _captures(self) -> Any:
        return self.layout.unflatten([None] * self.layout.num_leaves)

    def _map_blocks(self, function: Callable) -> Any:
        return map_captures(lambda _, block: function(block), self._captures(), self.blocks)

    def _each(self, function: Callable) -> "Kronecker":
        return dataclasses.replace(self, blocks=self._map_blocks(function))

    def _require_like(self, vector: Any) -> None:
        expected, given = (
            {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
            for leaves in map(jax.tree_util.tree_leaves_with_path, (self.parameters(), vector))
        )
        for leaf in jax.tree.leaves(vector):
            require_floating("Kronecker", "every array of the vector", leaf)
        for path in (*expected, *given):
            if expected.get(path) != given.get(path):
                raise ValueError(
                    "Kronecker: expected a vector in the tree of the parameters, with shape "
                    f"{expected.get(path, 'nothing')} at {path or 'its root'}, "
                    f"got {given.get(path, 'nothing')}"
                )


def _captures_of(
    where: str,
    network: Layer,
    loss: Loss,
    *,
    samples: int | None = None,
    empirical: bool = False,
) -> Callable:
    if empirical and samples is not None:
        raise ValueError(
            f"{where}: expected samples=None with empirical=True, whose captures are those of the "
            f"labels at hand, got samples={samples}"
        )
    if empirical:
        return own_captures(where, plain(network), loss)
    return hessian_root_captures(where, network, loss, samples=samples)


@quantity(captures_of=_captures_of)
def kronecker(
    captures: Any, weights: Array | None = None, *, positions: str = "expand"
) -> Kronecker:
    """The `Kronecker` operator of one batch: E[A] ⊗ E[B] of `kfac_factors` for each linear map, the
    diagonal for parameters that are not those of one (normalisation, embedding).

    By the options ``samples`` and ``empirical`` it approximates the Gauss-Newton matrix of the mean
    loss, with the columns of every example's Hessian root (the default) or so many random
    combinations of them, which need a key; or the empirical Fisher E[g gᵀ] of the labels at hand.
    For many batches see `over_batches`.

    Args:
        captures: Of the columns of a root of each example's loss Hessian, or of its own loss.
        weights: What each example counts in the means.
        positions: "expand" or "reduce"; see `kfac_factors`.

    Raises:
        ValueError: as `kfac_factors`; both ``samples`` and ``empirical`` are given; the network
            has no parameters.
    """
    factors = kfac_factors.of(captures, weights, positions=positions)
    roots = jnp.sqrt(shares_of(captures, weights))

    def block(capture: Any, pair: dict[str, Array] | None) -> Any:
        if pair is None:
            return diagonal_of(capture, roots)
        return Factors(**pair, use_bias=_has_bias(capture))

    return _operator("kronecker", map_captures(block, captures, factors), captures)


@quantity(captures_of=_captures_of)
def diagonal_curvature(captures: Any, weights: Array | None = None) -> Kronecker:
    """The diagonal of what `kronecker` approximates as an operator of the same kind, exact: that of
    the Gauss-Newton matrix, or with ``empirical`` of the empirical Fisher.

    Raises:
        ValueError: as `kronecker`.
    """
    roots = jnp.sqrt(shares_of(captures, weights))
    blocks = map_captures(lambda capture: diagonal_of(capture, roots), captures)
    return _operator("diagonal_curvature", blocks, captures)


def ekfac(network: Layer, loss: Loss, **options: Any) -> Callable[..., Kronecker]:
    """(params, state, x, target, key=None, weights=None, *, operator) -> `Kronecker`.

    The eigenvectors of ``operator``, made by `kronecker`, with the second moments along them of
    the same kind of captures: `Kronecker.corrected`. Over data, both are means over batches:

        mean = over_batches(kronecker(network, loss))(params, state, batches)
        mean = over_batches(ekfac(network, loss))(params, state, batches, operator=mean.eigh())

    Args:
        network: The network.
        loss: The loss.
        options: ``samples`` and ``empirical``, as of `kronecker`.

    Raises:
        ValueError: as `kronecker`.
    """
    run = _captures_of("ekfac", network, loss, **options)

    def compute(params, state, x, target, key=None, weights=None, *, operator: Kronecker):
        return operator.corrected(run(params, state, x, target, key, weights), weights)

    return compute


def require_damping(where: str, damping: Any) -> None:
    """Raises unless it is one number above 0; of one that is traced, nothing else is known."""
    if not isinstance(damping, jax.Array):
        require_positive(where, "damping", damping)
    elif damping.ndim:
        raise ValueError(f"{where}: expected damping to be one number, got shape {damping.shape}")
    elif (known := known_values(damping)) is not None and not known > 0:
        raise ValueError(f"{where}: expected damping to lie above 0, got {known}")


def _operator(where: str, blocks: Any, captures: Any) -> Kronecker:
    if not jax.tree.leaves(blocks):
        raise ValueError(f"{where}: expected a network with parameters, got one without")
    return Kronecker(blocks, _layout(captures))


def _layout(captures: Any) -> Any:
    return jax.tree.structure(map_captures(without_columns, captures))


def _has_bias(capture: Any) -> bool:
    """Whether the parameters of a linear map have one."""
    return "bias" in jax.eval_shape(lambda c: c.gradient(), capture)
