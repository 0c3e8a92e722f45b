"""K-FAC as a gradient transformation of optax: gradients times an inverse of the curvature.

For each linear map in the network the Gauss-Newton block is approximated by a Kronecker product of
two small factors (see `jaxnn.statistics.kfac_factors`), whose inverse is that of the factors: with
the gradient G of weight and bias as a matrix [in + 1, out], the preconditioned one is A⁻¹ G B⁻¹. Or
the eigenvectors alone are taken of them, with second moments measured along these (EK-FAC).
"""

import fnmatch
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.core.captures import in_params, map_captures
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backward_pass
from jaxnn.core.networks import below, plain, walk
from jaxnn.core.validation import (
    brief,
    known_values,
    require_boolean,
    require_number,
    require_positive_integer,
    unknown_name,
)
from jaxnn.core.value import checked
from jaxnn.kernels.products import sum_dtype
from jaxnn.learning.accumulation import accumulate
from jaxnn.learning.damping import Adapted, adapted, levenberg_marquardt
from jaxnn.statistics import kfac_factors
from jaxnn.statistics.blocks import Eigenbasis, Factors, product
from jaxnn.statistics.kronecker import require_damping
from jaxnn.statistics.trees import shares_of, without


class KfacState(NamedTuple):
    """What K-FAC remembers between steps."""

    count: Array
    """How many steps have been taken, int32."""
    factors: Any
    """Moving averages of A and B, in the tree of captures."""
    inverses: Any
    """The inverses of the damped averages, in the same tree; of EK-FAC their eigenvectors, with the
    second moments along them as "values"."""
    damping: Any = ()
    """`jaxnn.learning.damping.Adapted`, where the damping adapts itself."""


def kfac(
    network: Layer,
    loss: Loss,
    x: Any,
    target: Any,
    *,
    damping: Any,
    decay: Any = 0.95,
    factors_every: int = 1,
    inverse_every: int = 10,
    norm_constraint: Any = None,
    samples: int | None = 1,
    positions: str = "expand",
    ekfac: bool = False,
    micro_batches: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Gradients G of linear maps become A⁻¹ G B⁻¹ (Martens and Grosse, 2015); others stay.

        optimizer = optax.chain(kfac(network, loss, x[:1], y[:1], damping=1e-2), optax.sgd(0.1))

    ``update`` takes, as the extra argument ``arguments``, what a gradient function takes after the
    parameters, (state, x, target, key, weights); `jaxnn.training.make_step` hands it to every
    optimiser. It computes the factors from the captures of that batch by itself.

    The damping λ is shared out between the factors, A + π √λ I and B + √λ / π I with
    π² = (tr A / dim A) / (tr B / dim B), which keeps the product's damping smallest. The average
    takes the k-th factors with the weight max(1 / k, 1 − decay).

    EK-FAC (George et al., 2018) turns G into the basis of eigenvectors U of the averages, and there
    divides by Λ + λ, U_A ((U_Aᵀ G U_B) / (Λ + λ)) U_Bᵀ. Λ are the second moments of the examples'
    own gradients, with the weights of the average since the eigenvectors were last computed; before
    there are some, the products of eigenvalues. They take a second backward pass.

    Inside `optax.masked` and `optax.partition`, ``update`` needs the parameters that are masked
    too, as the extra argument ``whole_params``, which `make_step` gives. A layer is preconditioned
    as a whole or not at all; `kfac_labels` are labels for `partition`. Inside `optax.MultiSteps`
    factors are those of the last of its batches; with ``micro_batches`` all examples of a large
    batch count. A `MultiSteps` that is itself part of a chain is to be given to it as
    ``optax.GradientTransformationExtraArgs(steps.init, steps.update)``, which says that it hands on
    what it is told. For `optax.inject_hyperparams`, options that are whole numbers are
    ``static_args``.

    Args:
        network: The network; of one with batch norm only the inference mode has factors.
        loss: A loss with ``hessian_root``.
        x: Inputs with the shapes and dtypes of a batch; their values do not matter.
        target: Likewise.
        damping: λ, more than 0: a number, which may be traced; a schedule, of the number of the
            step; or `levenberg_marquardt`. Of K-FAC it is what it was when inverses were computed.
        decay: Of the moving averages of the factors, in [0, 1).
        factors_every: After how many steps the averages take new factors.
        inverse_every: After how many steps the inverses, or eigenvectors, are computed anew.
        norm_constraint: κ: the preconditioned gradient p is multiplied by min(1, √(κ / gᵀ p)), so
            that its squared length in terms of the curvature F, pᵀ F p = gᵀ p before, is at most κ.
        samples: As for `jaxnn.statistics.kfac_factors`; None needs no key.
        positions: Likewise.
        ekfac: Whether second moments take the place of products of eigenvalues.
        micro_batches: Into how many parts a batch is cut, as by `jaxnn.accumulate`, so that the
            captures of one at a time are held; the factors are their mean.

    Raises:
        ValueError: an option is out of range, no layer has factors, or as `kfac_factors`; when
            called, what it needs is not there, a mask divides a layer, or the gradients are not in
            the tree of the parameters, as inside `optax.flatten`.
        TypeError: an option that must be known when compiling is traced.
    """
    adapts = isinstance(damping, levenberg_marquardt)
    if not (adapts or callable(damping)):
        require_damping("kfac", damping)
    _require_number("decay", decay, minimum=0, maximum=1, open_maximum=True)
    _require_static(
        factors_every=factors_every, inverse_every=inverse_every, micro_batches=micro_batches
    )
    if norm_constraint is not None:
        _require_number("norm_constraint", norm_constraint, minimum=0, open_minimum=True)
    if samples is not None:
        _require_static(samples=samples)
    require_boolean("kfac", "ekfac", ekfac)
    options = {"samples": samples, "positions": positions}
    factors_of = kfac_factors(network, loss, **options)
    captures_of = kfac_factors.with_options(**options).make_pass("kfac", network, loss)
    network = plain(network)
    layers = _layers(network, loss, factors_of, x, target)
    captures = layers.captures

    def mean_over(compute: Callable) -> Callable:
        return _mean_over(compute, network, loss, micro_batches)

    def squares_of(bases: Any) -> Callable:
        def compute(params, state, x, target, key=None, weights=None):
            found = captures_of(params, state, x, target, key, weights)
            if weights is not None:
                found = without(found, weights == 0)
            roots = jnp.sqrt(shares_of(found, weights))
            return map_captures(lambda c, basis: _second_moments(c, basis, roots), found, bases)

        return mean_over(compute)

    adapt = adapted(damping, network, loss, mean_over) if adapts else None

    def init(params: Any):
        held = layers.held("init", params)
        like = layers.those_of(held, layers.factors)

        def zeros(tree: Any):  # each of its own: memory that is given away may be given once
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree)

        inverses = map_captures(_with_values, captures, like) if ekfac else like
        own = ()
        if adapts:
            wide = jnp.asarray(damping.initial, sum_dtype(jnp.result_type(float)))
            own = Adapted(wide, zeros(layers.params))
        return KfacState(jnp.zeros((), jnp.int32), zeros(like), zeros(inverses), own)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        count, factors, inverses, own = state
        arguments = extra.get("arguments")
        if not (isinstance(arguments, tuple | list) and 3 <= len(arguments) <= 5):
            raise ValueError(
                "kfac: expected update to be given arguments=(state, x, target, key, weights), "
                f"those of a gradient function after the parameters, got {brief(arguments)}; "
                "inside optax.chain, optax.MultiSteps hands nothing on unless it is given as "
                "optax.GradientTransformationExtraArgs(steps.init, steps.update)"
            )
        held = layers.held("update", updates)
        if not all(jax.tree.leaves(held)):
            params = extra.get("whole_params")
        if params is None:
            raise ValueError(
                "kfac: expected update to be given params, or where some are masked, as by "
                "optax.masked or optax.partition, whole_params=params with all of them"
            )
        if adapt is not None:
            own = adapt(count, own, params, arguments)
            strength = own.damping
        else:
            strength = damping(count) if callable(damping) else damping
            require_damping("kfac", strength)

        def averaged():
            share = jnp.maximum(1 / (count // factors_every + 1), 1 - decay)
            new = layers.those_of(held, mean_over(factors_of)(params, *arguments))
            return _towards(factors, new, share)

        def inverted():
            if ekfac:
                return jax.tree.map(_eigenbasis, factors, is_leaf=_is_pair)
            return jax.tree.map(lambda pair: _inverses(pair, strength), factors, is_leaf=_is_pair)

        def measured():
            # How many second moments there are since the eigenvectors were computed.
            renewed = count - count % inverse_every
            since = -(-count // factors_every) + (-renewed // factors_every)
            share = jnp.maximum(1 / (since + 1), 1 - decay)
            return _towards(inverses, squares_of(inverses)(params, *arguments), share)

        is_due = count % factors_every == 0
        factors = jax.lax.cond(is_due, averaged, lambda: factors)
        inverses = jax.lax.cond(count % inverse_every == 0, inverted, lambda: inverses)
        if ekfac:
            inverses = jax.lax.cond(is_due, measured, lambda: inverses)
        gradients = layers.filled(updates)
        preconditioned = partial(_precondition, damping=strength)
        result = in_params(map_captures(preconditioned, captures, inverses, gradients), leading=0)
        if norm_constraint is not None:
            model = optax.tree.vdot(*(_wide(tree) for tree in (gradients, result)))
            scale = jnp.minimum(1, jnp.sqrt(norm_constraint / model))
            result = jax.tree.map(lambda p: (p * scale).astype(p.dtype), result)
        result = jax.tree.map(
            lambda u, r: u if _is_masked(u) else r, updates, result, is_leaf=_is_masked
        )
        return result, KfacState(count + 1, factors, inverses, own)

    return optax.GradientTransformationExtraArgs(init, update)


def kfac_labels(
    network: Layer, loss: Loss, x: Any, target: Any, *, others: Sequence[str] = ()
) -> Any:
    """The tree of params with "kfac" for the parameters that `kfac` preconditions, else "other".

        labels = kfac_labels(network, loss, x[:1], y[:1], others=["head", "embedding.*"])
        parts = {"kfac": optax.chain(kfac(…), optax.sgd(0.1)), "other": optax.adam(1e-3)}
        optimizer = optax.partition(parts, labels)

    Args:
        network, loss, x, target: As of `kfac`.
        others: Paths of layers or parameters, such as "2" or "encoder.0.weight", that shall be
            "other" as well; * stands for anything.

    Raises:
        ValueError: a path matches nothing, or some parameters of a layer and not the others, which
            are preconditioned together.
    """
    others = checked("kfac_labels", "others", others, tuple[str, ...])
    factors_of = kfac_factors(network, loss, samples=None)
    layers = _layers(plain(network), loss, factors_of, x, target)

    covered = in_params(
        map_captures(
            lambda c, f: {name: _Owners({f is not None}) for name in _names(c)},
            layers.captures,
            layers.factors,
        ),
        leading=None,
    )
    flags, tree = jax.tree.flatten(covered)
    paths = layers.paths
    for pattern in others:
        if not any(_matches(path, pattern) for path in paths):
            known = {*paths, *(path.rpartition(".")[0] for path in paths)} - {""}
            raise ValueError(f"kfac_labels: {unknown_name('path', pattern, known)}")
    chosen = [any(_matches(path, pattern) for pattern in others) for path in paths]
    _require_whole_layers(layers, flags, chosen, others)
    return tree.unflatten(
        "kfac" if True in flag and not out else "other"
        for flag, out in zip(flags, chosen, strict=True)
    )


def _require_whole_layers(
    layers: "_Layers", covered: list, chosen: list[bool], others: Sequence[str]
) -> None:
    together: dict[int, dict[str, bool]] = {}
    owners = jax.tree.leaves(layers.owners)
    for path, numbers, flag, out in zip(layers.paths, owners, covered, chosen, strict=True):
        for number in numbers if True in flag else ():
            together.setdefault(number, {})[path] = out
    for flags in together.values():
        if len({*flags.values()}) > 1:
            whole = sorted({path.rpartition(".")[0] or path for path in flags})
            raise ValueError(
                "kfac_labels: expected others to name all parameters of a layer or none, since "
                f"they are preconditioned together, got {list(others)}, which divide "
                f"{', '.join(flags)}: name {' and '.join(map(repr, whole))}"
            )


def _matches(path: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(path, p) for p in (pattern, f"{pattern}.*"))


class _Owners(frozenset):
    """What is said of a parameter, by each capture that it is of: a leaf for JAX."""

    def __add__(self, other: Any) -> "_Owners":
        return _Owners(self | other)


class _Layers(NamedTuple):
    """What is known of a network before there are numbers."""

    captures: Any
    """As shapes."""
    factors: Any
    """Likewise; None where there are none."""
    params: Any
    """Likewise."""
    owners: Any
    """In the tree of params, the numbers of the captures that each parameter is of."""
    numbers: Any
    """In the tree of captures, their numbers."""
    paths: list[str]
    """Of the parameters, such as "head.weight"."""

    def held(self, where: str, tree: Any) -> Any:
        """The tree of params, with whether each is there and not masked."""
        leaves = jax.tree.leaves(tree)
        if len(leaves) == 1 and isinstance(tree, jax.Array):
            raise ValueError(
                f"kfac: expected {where} to be given the tree of the parameters, got one array of "
                f"shape {jnp.shape(tree)}: inside optax.flatten nothing tells layers apart; put "
                "kfac before it, optax.chain(kfac(…), optax.flatten(…))"
            )
        try:
            return self._for_each(tree, lambda node, shape: not _is_masked(node))
        except ValueError as error:
            raise ValueError(
                f"kfac: expected {where} to be given the tree of the parameters of the network, "
                f"got {brief(jax.tree.structure(tree))}"
            ) from error

    def filled(self, tree: Any) -> Any:
        """The tree of params, with zeros in place of what is masked."""
        return self._for_each(
            tree, lambda a, s: jnp.zeros(s.shape, s.dtype) if _is_masked(a) else a
        )

    def _for_each(self, tree: Any, function: Callable) -> Any:
        # Where a mask is of a whole layer, one node stands for all its parameters.
        def of_node(node: Any, own: Any) -> Any:
            return jax.tree.map(lambda shape: function(node, shape), own)

        return jax.tree.map(of_node, tree, self.params, is_leaf=_is_masked)

    def those_of(self, held: Any, factors: Any) -> Any:
        """The factors of the captures whose parameters are there.

        Raises:
            ValueError: of one capture some are and some are not.
        """
        places: dict[int, dict[str, bool]] = {}
        leaves = zip(self.paths, *map(jax.tree.leaves, (self.owners, held)), strict=True)
        for path, owners, flag in leaves:
            for number in owners:
                places.setdefault(number, {})[path] = flag

        def kept(capture: Any, pair: Any, number: int) -> Any:
            flags = places[number]
            if pair is not None and len({*flags.values()}) > 1:
                raise ValueError(
                    "kfac: expected a mask that has all parameters of a layer or none, since they "
                    f"are preconditioned together, got one that divides {', '.join(flags)}"
                )
            return pair if all(flags.values()) else None

        return map_captures(kept, self.captures, factors, self.numbers)


def _layers(network: Layer, loss: Loss, factors_of: Callable, x: Any, target: Any) -> _Layers:
    run = backward_pass(network, loss)

    def all_of(key: Array, x: Any, target: Any):
        params, state = network.init(key, x)
        arguments = (params, state, x, target, key)
        return run(*arguments).captures, factors_of(*arguments), params

    captures, factors, params = jax.eval_shape(all_of, jax.random.key(0), x, target)
    if not jax.tree.leaves(factors):
        raise ValueError(f"kfac: expected a network with a linear map, {network.name} has none")
    counter = itertools.count()
    numbers = map_captures(lambda capture: next(counter), captures)
    owners = map_captures(
        lambda c, number: {name: _Owners({number}) for name in _names(c)}, captures, numbers
    )
    paths = [
        below(path, jax.tree_util.keystr(own, simple=True, separator="."))
        for path, _, subtree in walk(network, params)
        for own, _ in jax.tree_util.tree_leaves_with_path(subtree)
    ]
    return _Layers(captures, factors, params, in_params(owners, leading=None), numbers, paths)


def _names(capture: Any) -> list[str]:
    """What the parameters of a capture are called."""
    return list(jax.eval_shape(lambda c: c.gradient(), capture))


def _mean_over(compute: Callable, network: Layer, loss: Loss, parts: int) -> Callable:
    """(params, state, x, target, key, weights) -> what is a mean over the batch, in parts."""
    if parts == 1:
        return compute
    run = backward_pass(network, loss)

    def as_gradient(params, state, x, target, key=None, weights=None):
        values = jax.eval_shape(run, params, state, x, target, key).values
        value = jnp.zeros((), values.dtype)
        return (value, state), compute(params, state, x, target, key, weights)

    in_parts = accumulate(as_gradient, parts, network=network)
    return lambda params, *arguments: in_parts(params, *arguments)[1]


def _require_number(name: str, value: Any, **bounds: Any) -> None:
    """Raises unless it is a number within the bounds, as far as it is known."""
    if isinstance(value, jax.Array):
        if value.ndim:
            raise ValueError(f"kfac: expected {name} to be one number, got shape {value.shape}")
        known = known_values(value)
        value = None if known is None else float(known)
    if value is not None:
        require_number("kfac", name, value, **bounds)


def _require_static(**options: Any) -> None:
    for name, value in options.items():
        if isinstance(value, jax.Array):
            raise TypeError(
                f"kfac: expected {name} to be an integer that is known when compiling, got "
                f"{brief(value)}: name it among the static_args of optax.inject_hyperparams"
            )
        require_positive_integer("kfac", name, value)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _towards(old: Any, new: Any, share: Any) -> Any:
    return jax.tree.map(lambda a, b: (a + share * (b - a)).astype(a.dtype), old, new)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(sum_dtype(a.dtype)), tree)


def _is_pair(node: Any) -> bool:
    return isinstance(node, dict) and node.keys() == {"inputs", "deltas"}


def _inverses(pair: dict[str, Array], damping: Any) -> dict[str, Array]:
    """(A + π √λ I)⁻¹ and (B + √λ / π I)⁻¹, of each matrix of the leading axes."""
    inverse = Factors(pair["inputs"], pair["deltas"]).inverse(damping)
    return {"inputs": inverse.inputs, "deltas": inverse.deltas}


def _eigenbasis(pair: dict[str, Array]) -> dict[str, Array]:
    basis = Factors(pair["inputs"], pair["deltas"]).eigh()
    return {"inputs": basis.inputs, "deltas": basis.deltas, "values": basis.values}


def _with_values(capture: Any, pair: Any) -> Any:
    return None if pair is None else jax.eval_shape(_eigenbasis, pair)


def _second_moments(capture: Any, basis: Any, roots: Array) -> Any:
    """The basis with the second moments along it."""
    if basis is None:
        return None
    return basis | {"values": Eigenbasis(**basis).corrected(capture, roots).values}


def _precondition(capture: Any, inverses: Any, gradient: Any, damping: Any) -> Any:
    """A⁻¹ G B⁻¹ in the shapes of the parameters; the gradient itself where there are no factors."""
    if inverses is None:
        return gradient
    left, right, use_bias = inverses["inputs"], inverses["deltas"], bool("bias" in gradient)
    block = Factors(left, right, use_bias=use_bias)
    if "values" in inverses:
        block = Eigenbasis(left, right, 1 / (inverses["values"] + damping), use_bias=use_bias)
    result = product(capture, block, gradient)
    return jax.tree.map(lambda p, g: p.astype(g.dtype), result, gradient)
