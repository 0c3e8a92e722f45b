"""Checks of hand-derived gradients, with reports that name the layer and the parameter.

The error of a quantity a against its reference b is norm-wise, ‖a − b‖ / max(‖b‖, floor): element
by element it would divide rounding errors by accidental zeros. The floor, a hundredth
of the largest norm among the quantities compared, does the same for arrays that are zero but for
rounding, such as the gradient of a bias before a normalisation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.captures import contract
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import autodiff, backprop, numerical
from jaxnn.core.mixing import TOLERANCE, largest_influence
from jaxnn.core.networks import label, walk
from jaxnn.core.value import checked


class Comparison(NamedTuple):
    """One quantity computed in two ways."""

    quantity: str
    """What was compared, such as "0 dense weight"."""
    methods: str
    """The two ways, such as "backprop against autodiff"."""
    error: float
    """The norm-wise relative error."""
    tolerance: float
    """The largest error that passes."""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The comparisons of one check; `str` draws them as a table."""

    comparisons: Sequence[Comparison]

    @property
    def passed(self) -> bool:
        """Whether every comparison passed."""
        return all(comparison.passed for comparison in self.comparisons)

    def require(self) -> "Report":
        """Raise AssertionError with the table unless all passed; returns the report itself."""
        if not self.passed:
            raise AssertionError(f"gradients disagree\n{self}")
        return self

    def __str__(self) -> str:
        """One line for each comparison."""
        rows = [("quantity", "compared", "error", "tolerance", "")]
        for c in self.comparisons:
            verdict = "ok" if c.passed else "FAILED"
            rows.append((c.quantity, c.methods, f"{c.error:.1e}", f"{c.tolerance:.0e}", verdict))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)


def check_gradients(
    network: Layer,
    loss: Loss,
    params: Any,
    state: Any,
    x: Any,
    target: Any,
    key: Array | None = None,
    weights: Array | None = None,
    *,
    against: dict[str, Callable] | None = None,
    tolerance: float | None = None,
) -> Report:
    """Run several gradient functions on one batch and compare each parameter's gradient.

    Args:
        network: The network.
        loss: The loss.
        params: The network's parameters.
        state: The network's state.
        x: The inputs of the batch.
        target: The targets of the batch.
        key: For layers that draw random numbers.
        weights: A weight for each example, or None.
        against: Gradient functions by name that `backprop` is compared with; `autodiff` and
            `numerical` unless given.
        tolerance: The largest relative error that passes. Unless given, it follows the dtype:
            1e-10 (float64), 1e-4 (float32), and for `numerical` 1e-6 and 5e-2.

    Returns:
        A `Report` that names layer and parameter: ``print`` it, or ``report.require()``.
    """
    if against is None:
        against = {name: make(network, loss) for name, make in _REFERENCES.items()}
    arguments = (params, state, x, target, key, weights)
    (value, _), gradients = jax.jit(backprop(network, loss))(*arguments)
    comparisons = []
    for name, gradient_function in against.items():
        (reference_value, _), reference = jax.jit(gradient_function)(*arguments)
        limit = _tolerance(value.dtype, name) if tolerance is None else tolerance
        methods = f"backprop against {name}"
        error = float(relative_errors([value], [reference_value])[0])
        comparisons.append(Comparison("loss", methods, error, limit))
        comparisons += compare(network, gradients, reference, methods, limit)
    return Report(comparisons)


_REFERENCES = {"autodiff": autodiff, "numerical": numerical}


def compare(
    network: Layer, gradients: Any, reference: Any, methods: str, tolerance: float
) -> list[Comparison]:
    """One comparison for every parameter of the network."""
    names = parameter_names(network, gradients)
    errors = relative_errors(jax.tree.leaves(gradients), jax.tree.leaves(reference))
    return [
        Comparison(name, methods, float(error), tolerance)
        for name, error in zip(names, errors, strict=True)
    ]


def parameter_names(network: Layer, params: Any) -> list[str]:
    """A name such as "2 dense weight" for every leaf of ``params``, in the order of the leaves."""
    return [
        f"{label(path, layer)} {jax.tree_util.keystr(leaf_path, simple=True, separator='.')}"
        for path, layer, subtree in walk(network, params)
        for leaf_path, _ in jax.tree_util.tree_leaves_with_path(subtree)
    ]


@jax.jit
def relative_errors(values: Sequence[Array], references: Sequence[Array]) -> list[Array]:
    """‖a − b‖ / max(‖b‖, floor) for each pair; see the head of this file for the floor."""
    return _relative_errors(jnp, values, references)


def _relative_errors(xp: Any, values: Sequence, references: Sequence) -> list:
    norms = [xp.linalg.norm(b.ravel()) for b in references]
    if not norms:
        return []
    floor = 1e-2 * xp.max(xp.stack(norms))
    return [
        _ratio(xp, xp.linalg.norm((a - b).ravel()), xp.maximum(norm, floor))
        for a, b, norm in zip(values, references, norms, strict=True)
    ]


def _ratio(xp: Any, difference: Any, scale: Any) -> Any:
    # 0 / 0 is agreement; NaN and infinity stay.
    return xp.where(difference == 0, 0, difference / scale)


def _errors_on_host(values: Any, references: Any) -> list[float]:
    """`relative_errors` of two trees in float64, without a program to compile."""
    leaves = ([np.asarray(a, float) for a in jax.tree.leaves(t)] for t in (values, references))
    with np.errstate(all="ignore"):
        return list(map(float, _relative_errors(np, *leaves)))


def check_layer(layer: Layer, x: Any, key: Array | None = None) -> Report:
    """Check the laws of one layer on an input: the first thing to run on a layer of one's own.

    In float64 and in float32, with parameters moved away from their initial zeros and ones:

    - the gradients of input and parameters against `jax.vjp` of the layer's own forward pass;
    - contracted captures have the tree, shapes and dtypes of the parameters; dx has those of the
      floating-point arrays of x, and None for other arrays;
    - backward is linear in dy;
    - no example has a part in y, dx or captures of another, unless the layer says ``mixes``;
    - predict equals forward, where the layer has no state and draws no random numbers.

    Args:
        layer: The layer.
        x: An array or a tuple of arrays, batch first. Floating-point arrays are cast.
        key: For layers that draw random numbers; `jax.random.key(0)` unless given.
    """
    checked("check_layer", "layer", layer, Layer)
    init_key, own_key = jax.random.split(jax.random.key(0) if key is None else key)
    with jax.enable_x64(True):
        drawn = jax.jit(layer.init)(init_key, _cast(x, np.float64))
    comparisons = []
    for dtype in (np.float64, np.float32):
        with jax.enable_x64(dtype == np.float64):
            cast_x = _cast(x, dtype)
            params, state = _like(drawn, jax.eval_shape(layer.init, init_key, cast_x))
            comparisons += _check_layer_in(layer, params, state, cast_x, own_key, np.dtype(dtype))
    if all(c.passed for c in comparisons) and not _says_that_it_mixes(layer):
        comparisons += _check_examples_apart(layer, params, state, cast_x, own_key)
    return Report(comparisons)


def _like(drawn: Any, shapes: Any) -> Any:
    """Arrays that were drawn in float64, with the dtypes that another precision has."""
    return jax.tree.map(
        lambda a, s: a if a.dtype == s.dtype else jnp.asarray(np.asarray(a, s.dtype)),
        drawn,
        shapes,
    )


def _says_that_it_mixes(layer: Layer) -> bool:
    return layer.mixes is True or any(map(_says_that_it_mixes, layer.parts))


def _check_examples_apart(
    layer: Layer, params: Any, state: Any, x: Any, key: Array
) -> list[Comparison]:
    if 0 in (leaf.shape[0] for leaf in jax.tree.leaves(x)):
        return []
    others = jax.tree.map(lambda a: np.roll(np.asarray(a), 1, 0), x)
    influence = largest_influence(layer, params, state, x, others, key)
    return [Comparison("float32 examples", "each by itself, or mixes = True", influence, TOLERANCE)]


def _check_layer_in(
    layer: Layer, params: Any, state: Any, x: Any, key: Array, dtype: np.dtype
) -> list[Comparison]:
    tolerance = _tolerance(dtype)
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda p, n: np.asarray(p) + n / 10, params, _noise_like(noise, params))

    def pull_back(params, residuals, dy):
        dx, captures = layer.backward(params, residuals, dy)
        return _only_floating(x, dx), contract(captures)

    def both(params, state, x):
        y, _, residuals = layer.forward(params, state, x, key)
        dy = jax.tree.map(lambda a: jnp.zeros_like(a) if _is_floating(a) else None, y)
        return y, *pull_back(params, residuals, dy)

    y, dx, gradients = jax.eval_shape(both, params, state, x)
    dy, other_dy = _noise_like(noise, y), _noise_like(noise, y)
    comparisons = [
        _same_structure(f"{dtype} dx", dx, _only_floating(x, x)),
        _same_structure(f"{dtype} gradients", gradients, params),
    ]
    if not all(c.passed for c in comparisons):
        return comparisons

    def differentiable(params, leaves):
        y = layer.forward(params, state, _put_floating(x, leaves), key)[0]
        return _only_floating(y, y)

    is_predict = not jax.tree.leaves(state) and not _draws_random_numbers(layer, params, state, x)

    def computed(params, state, x, key, dy, other_dy):
        y, _, residuals = layer.forward(params, state, x, key)
        _, vjp = jax.vjp(differentiable, params, _only_floating(x, x))
        reference_gradients, reference_dx = vjp(jax.tree.leaves(dy))
        combined_dy = jax.tree.map(lambda a, b: 2 * a - b, dy, other_dy)
        cotangents = jax.tree.map(lambda *a: jnp.stack(a), dy, other_dy, combined_dy)
        pulled_back = jax.lax.map(lambda dy: pull_back(params, residuals, dy), cotangents)
        predicted = layer.predict(params, state, x) if is_predict else None
        return pulled_back, (reference_dx, reference_gradients), y, predicted

    # All in one program: most of the time of a check is that of the compiler.
    pulled_back, reference, y, predicted = jax.device_get(
        jax.jit(computed)(params, state, x, key, dy, other_dy)
    )
    of_dy, of_other, of_combined = ([a[i] for a in jax.tree.leaves(pulled_back)] for i in range(3))
    names = [f"{dtype} dx[{i}]" for i in range(len(dx))]
    names += [f"{dtype} {name}" for name in parameter_names(layer, params)]
    of_y = [f"{dtype} y[{i}]" for i in range(len(jax.tree.leaves(y)))]
    separate = [2 * a - b for a, b in zip(of_dy, of_other, strict=True)]
    compared = [
        ("backward against jax.vjp", names, of_dy, reference),
        ("linearity in dy", names, of_combined, separate),
    ]
    if is_predict:
        compared.append(("predict against forward", of_y, predicted, y))
    for methods, rows, values, references in compared:
        errors = _errors_on_host(values, references)
        comparisons += [
            Comparison(n, methods, e, tolerance) for n, e in zip(rows, errors, strict=True)
        ]
    return comparisons


def _draws_random_numbers(layer: Layer, params: Any, state: Any, x: Any) -> bool:
    try:
        jax.eval_shape(lambda p, s, x: layer.forward(p, s, x, None), params, state, x)
    except Exception:  # whatever a layer raises when it needs a key and is given None
        return True
    return False


def _tolerance(dtype: Any, reference: str = "autodiff") -> float:
    double = jnp.finfo(dtype).bits == 64
    if reference == "numerical":
        return 1e-6 if double else 5e-2
    return 1e-10 if double else 1e-4


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _cast(x: Any, dtype: Any) -> Any:
    arrays = jax.tree.map(np.asarray, x)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype if _is_floating(a) else a.dtype), arrays)


def _noise_like(noise: np.random.Generator, tree: Any) -> Any:
    """Standard normal numbers for floating-point arrays, None for others."""
    return jax.tree.map(
        lambda leaf: (
            noise.normal(size=leaf.shape).astype(leaf.dtype) if _is_floating(leaf) else None
        ),
        tree,
    )


def _only_floating(x: Any, dx: Any) -> list:
    """The leaves of dx that belong to floating-point arrays of x; the others must be None."""
    leaves, treedef = jax.tree.flatten(x)
    cotangents = treedef.flatten_up_to(dx)
    for leaf, cotangent in zip(leaves, cotangents, strict=True):
        if cotangent is not None and cotangent is not leaf and not _is_floating(leaf):
            raise ValueError(f"check_layer: expected dx to be None for an input of {leaf.dtype}")
    return [d for leaf, d in zip(leaves, cotangents, strict=True) if _is_floating(leaf)]


def _put_floating(x: Any, floating: list) -> Any:
    leaves, treedef = jax.tree.flatten(x)
    rest = iter(floating)
    return treedef.unflatten([next(rest) if _is_floating(leaf) else leaf for leaf in leaves])


def _same_structure(quantity: str, value: Any, like: Any) -> Comparison:
    def structure(tree):
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    error = 0.0 if structure(value) == structure(like) else float("inf")
    return Comparison(quantity, "tree, shapes and dtypes", error, 0.0)
