"""Captures of anybody's function: per-example quantities of models that know nothing of jaxnn.

    values, captures = interop.captures(loss)(params, batch)
    norms = statistics.per_example_squared_norms.of(captures)

in place of ``jax.vmap(jax.grad(loss), (None, 0))``, exact, and without the gradient of any example.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr

from jaxnn.core.contract import Layer
from jaxnn.core.residuals import Static
from jaxnn.core.validation import brief
from jaxnn.interop.placing import Arrangement, arrange
from jaxnn.interop.running import added, run


class layer(Layer):
    """A layer made of ``apply(params, x)``, a JAX function of one example.

    y = apply(params, x) for each example of the batch; params are any tree of floating-point
    arrays. The backward pass is JAX's own as far as dx goes. Its captures come from the function's
    jaxpr: each parameter is followed to the operations where it meets data (products, convolutions,
    sums, gathers, also inside of scans, branches and recomputed parts), whose inputs and deltas are
    kept as those of jaxnn's own layers are. A parameter that is used otherwise has its gradients of
    the examples for a capture; `explain` says which do.

    Args:
        apply: (params, x) -> y, for one example: x has no axis for a batch. With ``has_state`` it
            is (params, state, x) -> y, where the state stays as it is, and with ``draws`` a key
            follows, one for each example.
        start: (key, x) -> params, or (params, state), for a batch x: what ``init`` returns.
        has_state: See ``apply``.
        draws: See ``apply``.
        fallback: False makes an explicit parameter an error that names it.

    Raises:
        TypeError: a parameter is not floating-point; apply is no function.
        ValueError: apply cannot be traced with one example, or uses a parameter in a loop whose
            number of steps depends on data; on ``init``, there is no ``start``.
    """

    apply: Callable
    _: dataclasses.KW_ONLY
    start: Callable | None = None
    has_state: bool = False
    draws: bool = False
    fallback: bool = True

    mixes = False

    @property
    def name(self) -> str:
        """That of the function, or of the model whose method it is."""
        owner = getattr(self.apply, "__self__", None)
        model = self.apply if owner is None else type(owner)
        return getattr(model, "__name__", type(model).__name__)

    def init(self, key: Array | None, x: Any):
        if self.start is None:
            raise ValueError(
                f"layer: expected start, (key, x) -> params, to make parameters of {self.name}; "
                "give it, or pass the parameters that you have"
            )
        made = self.start(key, x)
        return made if self.has_state else (made, ())

    def predict(self, params: Any, state: Any, x: Any):
        one = functools.partial(self._one, params, state)
        if not self.draws:
            return jax.vmap(lambda x: one(x, None))(x)
        raise ValueError(
            f"layer: {self.name} draws random numbers, and has no inference mode; make another "
            "layer of it that draws none, with the same params"
        )

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        closed, analysis = self._analysed(params, state, x)
        findings = analysis.arrangement.findings
        batch = batch_of("layer", x)
        zeros = {n: jnp.zeros((batch, *s.shape), s.dtype) for n, s in added(findings).items()}
        leaves = list(map(jnp.asarray, jax.tree.leaves(params)))
        explicit = {
            i: jnp.zeros((batch, *leaves[i].shape), leaves[i].dtype) for i in findings.explicit
        }
        keys = jax.random.split(key, batch) if self.draws and key is not None else None
        floating, others = _parted(x)

        def one(zeros: dict, explicit: dict, floating: list, others: list, key: Any):
            own = [a + explicit[i] if i in explicit else a for i, a in enumerate(leaves)]
            rest = jax.tree.leaves((state, _together(x, floating, others), key))
            results, met = run(closed, findings, [*own, *rest], zeros)
            return analysis.result.unflatten(results), met

        def all_(zeros: dict, explicit: dict, floating: list):
            return jax.vmap(one)(zeros, explicit, floating, others, keys)

        y, pull, met = jax.vjp(all_, zeros, explicit, floating, has_aux=True)
        return y, state, (pull, met, Static((analysis, batch, jax.tree.structure(x))))

    def backward(self, params: Any, residuals: Any, dy: Any):
        pull, met, static = residuals
        analysis, batch, of_x = static.value
        deltas, explicit, floating = pull(_cotangents(dy, analysis, batch))
        captures = analysis.arrangement.captures(met, deltas, explicit, batch)
        rest = iter(floating)
        dx = [next(rest) if is_floating else None for is_floating in analysis.floating]
        return of_x.unflatten(dx), captures

    def _one(self, params: Any, state: Any, x: Any, key: Any) -> Any:
        arguments = (params, state, x) if self.has_state else (params, x)
        return self.apply(*arguments, key) if self.draws else self.apply(*arguments)

    def _analysed(self, params: Any, state: Any, x: Any) -> tuple[ClosedJaxpr, "_Analysis"]:
        paths = [
            jax.tree_util.keystr(path, simple=True, separator=".")
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ]
        for path, leaf in zip(paths, jax.tree.leaves(params), strict=True):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"layer: expected params of {self.name} to be floating-point, got {path} of "
                    f"{jnp.result_type(leaf)}; what is not trained belongs into the function, or "
                    "into the state of has_state"
                )
        batch_of("layer", x)
        shapes = jax.tree.map(_shape_of, (params, state))
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
        key = jax.eval_shape(jax.random.key, 0) if self.draws else None
        try:
            closed, result = jax.make_jaxpr(self._one, return_shape=True)(*shapes, one, key)
        except Exception as error:
            error.add_note(
                f"layer: {self.name} was traced with one example, of "
                f"{jax.tree.map(lambda a: f'{a.dtype}{list(a.shape)}', one)}: it must be a "
                "function of one example, without an axis for the batch and without collectives "
                "over one"
            )
            raise
        arrangement = arrange(closed, shapes[0], paths.__getitem__)
        explicit = arrangement.findings.explicit
        if explicit and not self.fallback:
            reasons = "; ".join(f"{paths[leaf]} {why}" for leaf, why in explicit.items())
            raise ValueError(
                f"layer: expected parameters of {self.name} that meet data in operations linear "
                f"in them, since fallback is False, but {reasons}"
            )
        leaves, result = jax.tree.flatten(result)
        return closed, _Analysis(
            (self, jax.tree.structure((params, state, x)), str((shapes, one))),
            arrangement,
            result,
            tuple(leaves),
            tuple(_is_floating(a) for a in jax.tree.leaves(one)),
            tuple(paths),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Analysis:
    """What is known of a function for arguments of some shapes, which are its identity."""

    identity: tuple
    arrangement: Arrangement
    result: Any
    outputs: tuple
    floating: tuple[bool, ...]
    paths: tuple[str, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Analysis) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


def captures(loss: Callable, *, fallback: bool = True) -> Callable[[Any, Any], tuple[Array, Any]]:
    """(params, batch) -> (values [batch], captures), for any loss(params, example) -> number.

    The captures are those of each example's own loss, for `jaxnn.statistics` (``quantity.of``) and
    `jaxnn.contract`, whose results have the tree of params.

    Args:
        loss: A JAX function of any tree of parameters and of one example, any tree of arrays.
        fallback: See `layer`.

    Raises:
        TypeError, ValueError: as `layer`; loss does not return one number.
    """
    function = layer(loss, fallback=fallback)

    def run_it(params: Any, batch: Any) -> tuple[Array, Any]:
        values, _, residuals = function.forward(params, (), batch, None)
        if not isinstance(values, Array) or values.ndim != 1 or not _is_floating(values):
            raise ValueError(
                f"captures: expected {function.name} to return one real number for one example, "
                f"got {jax.tree.map(lambda a: f'{a.dtype}{list(a.shape[1:])}', values)}"
            )
        _, found = function.backward(params, residuals, jnp.ones_like(values))
        return values, found

    return run_it


def explain(function: Callable | layer) -> Callable[..., "Explanation"]:
    """(params, batch) -> which way each parameter takes to its gradient, without computing any.

    ``print`` it: one line for each parameter. Raises as `layer`.
    """
    own = function if isinstance(function, layer) else layer(function)

    def of(params: Any, batch: Any, state: Any = ()) -> Explanation:
        _, analysis = own._analysed(params, state, batch)
        return Explanation(analysis.paths, analysis.arrangement)

    return of


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How each parameter of a function was followed."""

    paths: tuple[str, ...]
    arrangement: Arrangement = dataclasses.field(repr=False)

    @property
    def explicit(self) -> dict[str, str]:
        """The parameters whose gradients of the examples have to be formed, and why."""
        return {self.paths[i]: why for i, why in self.arrangement.findings.explicit.items()}

    def ways(self) -> dict[str, str]:
        """For each parameter, by its path: what it is where it is used."""
        found = {path: f"explicit: it {why}" for path, why in self.explicit.items()}
        found |= {self.paths[i]: "not used" for i in self.arrangement.unused}
        for one in self.arrangement.placed:
            kinds = [f"{g[0].kind}{f' × {len(g)}' if len(g) > 1 else ''}" for g in one.groups]
            for place in one.places:
                path = self.paths[place.leaf]
                way = "bias" if place.name == "bias" else " and ".join(kinds)
                found[path] = f"{found[path]} and {way}" if path in found else way
        return {path: found[path] for path in self.paths}

    def __str__(self) -> str:
        width = max(map(len, self.paths), default=0)
        return "\n".join(f"{path:{width}}  {way}" for path, way in self.ways().items())


def batch_of(where: str, x: Any) -> int:
    """How many examples x has.

    Raises:
        ValueError: its arrays have none, or not all have the same number.
    """
    shapes = [np.shape(a) for a in jax.tree.leaves(x)]
    sizes = {shape[0] if shape else None for shape in shapes}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"{where}: expected arrays with the examples of a batch on their first axis, as many "
            f"in each, got shapes {brief(shapes)}"
        )
    return sizes.pop()  # pyright: ignore[reportReturnType]


def _shape_of(a: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(a), jnp.result_type(a))


def _is_floating(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)


def _parted(x: Any) -> tuple[list, list]:
    """The floating-point leaves of x, and the others."""
    leaves = jax.tree.leaves(x)
    return [a for a in leaves if _is_floating(a)], [a for a in leaves if not _is_floating(a)]


def _together(x: Any, floating: list, others: list) -> Any:
    """The tree of x, of what `_parted` gives."""
    leaves, tree = jax.tree.flatten(x)
    first, second = iter(floating), iter(others)
    return tree.unflatten([next(first) if _is_floating(a) else next(second) for a in leaves])


def _cotangents(dy: Any, analysis: _Analysis, batch: int) -> Any:
    """dy, with what JAX takes where there is no gradient."""
    given = analysis.result.flatten_up_to(dy)
    return analysis.result.unflatten(
        d if _is_floating(a) else np.zeros((batch, *a.shape), jax.dtypes.float0)
        for d, a in zip(given, analysis.outputs, strict=True)
    )
