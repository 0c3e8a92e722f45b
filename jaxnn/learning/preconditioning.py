"""K-FAC as a gradient transformation of optax: gradients times an inverse of the curvature.

For each linear map in the network the Gauss-Newton block is approximated by a Kronecker product of
two small factors (see `jaxnn.statistics.kfac_factors`), whose inverse is that of the factors: with
the gradient G of weight and bias as a matrix [in + 1, out], the preconditioned one is A⁻¹ G B⁻¹.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.core.captures import in_params, map_captures
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backward_pass
from jaxnn.core.networks import plain
from jaxnn.core.validation import require_number, require_positive_integer
from jaxnn.kernels.products import sum_dtype
from jaxnn.statistics import kfac_factors
from jaxnn.statistics.blocks import Factors, product


class KfacState(NamedTuple):
    """What K-FAC remembers between steps."""

    count: Array
    """How many steps have been taken, int32."""
    factors: Any
    """Moving averages of A and B, in the tree of captures."""
    inverses: Any
    """The inverses of the damped averages, in the same tree."""


def kfac(
    network: Layer,
    loss: Loss,
    x: Any,
    target: Any,
    *,
    damping: float,
    decay: float = 0.95,
    factors_every: int = 1,
    inverse_every: int = 10,
    norm_constraint: float | None = None,
    samples: int | None = 1,
    positions: str = "expand",
) -> optax.GradientTransformationExtraArgs:
    """Gradients G of linear maps become A⁻¹ G B⁻¹ (Martens and Grosse, 2015); others stay.

        optimizer = optax.chain(kfac(network, loss, x[:1], y[:1], damping=1e-2), optax.sgd(0.1))

    ``update`` takes, as the extra argument ``arguments``, what a gradient function takes after the
    parameters, (state, x, target, key, weights); `jaxnn.training.make_step` hands it to every
    optimiser. It computes the factors from the captures of that batch by itself.

    The damping λ is shared out between the factors, A + π √λ I and B + √λ / π I with
    π² = (tr A / dim A) / (tr B / dim B), which keeps the product's damping smallest. The average
    takes the k-th factors with the weight max(1 / k, 1 − decay).

    Args:
        network: The network; of one with batch norm only the inference mode has factors.
        loss: A loss with ``hessian_root``.
        x: Inputs with the shapes and dtypes of a batch; their values do not matter.
        target: Likewise.
        damping: λ, more than 0.
        decay: Of the moving averages of the factors, in [0, 1).
        factors_every: After how many steps the averages take new factors.
        inverse_every: After how many steps the inverses are computed anew.
        norm_constraint: κ: the preconditioned gradient p is multiplied by min(1, √(κ / gᵀ p)), so
            that its squared length in terms of the curvature F, pᵀ F p = gᵀ p before, is at most κ.
        samples: As for `jaxnn.statistics.kfac_factors`; None needs no key.
        positions: Likewise.

    Raises:
        ValueError: an option is out of range, no layer has factors, or as `kfac_factors`.
    """
    require_number("kfac", "damping", damping, minimum=0, open_minimum=True)
    require_number("kfac", "decay", decay, minimum=0, maximum=1, open_maximum=True)
    require_positive_integer("kfac", "factors_every", factors_every)
    require_positive_integer("kfac", "inverse_every", inverse_every)
    if norm_constraint is not None:
        require_number("kfac", "norm_constraint", norm_constraint, minimum=0, open_minimum=True)
    factors_of = kfac_factors(network, loss, samples=samples, positions=positions)
    captures, like = _shapes(plain(network), loss, factors_of, x, target)
    if not jax.tree.leaves(like):
        raise ValueError(f"kfac: expected a network with a linear map, {network.name} has none")

    def init(params: Any):
        def zeros():  # each of its own: memory that is given away may be given once
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)

        return KfacState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        count, factors, inverses = state
        if "arguments" not in extra:
            raise ValueError(
                "kfac: expected update to be given arguments=(state, x, target, key, weights), "
                "those of a gradient function after the parameters"
            )
        arguments = extra["arguments"]

        def averaged():
            share = jnp.maximum(1 / (count // factors_every + 1), 1 - decay)
            new = factors_of(params, *arguments)
            return jax.tree.map(lambda a, b: (a + share * (b - a)).astype(a.dtype), factors, new)

        def inverted():
            return jax.tree.map(lambda pair: _inverses(pair, damping), factors, is_leaf=_is_pair)

        factors = jax.lax.cond(count % factors_every == 0, averaged, lambda: factors)
        inverses = jax.lax.cond(count % inverse_every == 0, inverted, lambda: inverses)
        result = in_params(map_captures(_precondition, captures, inverses, updates), leading=0)
        if norm_constraint is not None:
            model = optax.tree.vdot(*(_wide(tree) for tree in (updates, result)))
            scale = jnp.minimum(1, jnp.sqrt(norm_constraint / model))
            result = jax.tree.map(lambda p: (p * scale).astype(p.dtype), result)
        return result, KfacState(count + 1, factors, inverses)

    return optax.GradientTransformationExtraArgs(init, update)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(sum_dtype(a.dtype)), tree)


def _shapes(network: Layer, loss: Loss, factors_of: Callable, x: Any, target: Any) -> tuple:
    """The captures and the factors of a batch, as shapes."""
    run = backward_pass(network, loss)

    def both(key: Array, x: Any, target: Any):
        params, state = network.init(key, x)
        arguments = (params, state, x, target, key)
        return run(*arguments).captures, factors_of(*arguments)

    return jax.eval_shape(both, jax.random.key(0), x, target)


def _is_pair(node: Any) -> bool:
    return isinstance(node, dict) and node.keys() == {"inputs", "deltas"}


def _inverses(pair: dict[str, Array], damping: float) -> dict[str, Array]:
    """(A + π √λ I)⁻¹ and (B + √λ / π I)⁻¹, of each matrix of the leading axes."""
    inverse = Factors(pair["inputs"], pair["deltas"]).inverse(damping)
    return {"inputs": inverse.inputs, "deltas": inverse.deltas}


def _precondition(capture: Any, inverses: Any, gradient: Any) -> Any:
    """A⁻¹ G B⁻¹ in the shapes of the parameters; the gradient itself where there are no factors."""
    if inverses is None:
        return gradient
    result = product(capture, Factors(**inverses, use_bias="bias" in gradient), gradient)
    return jax.tree.map(lambda p, g: p.astype(g.dtype), result, gradient)
