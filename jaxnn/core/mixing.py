"""Which layers, and which losses, make the examples of a batch depend on each other.

A quantity of single examples has no meaning behind such a layer, and a bound on what one example
may do does not hold. A layer says by ``mixes`` what it is; of one that says nothing it is found
out, by running it on a few examples of which one is changed: nothing of the others may move.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.adapters import Around
from jaxnn.core.contract import Capture, Layer, Loss
from jaxnn.core.networks import below, label, rewrite

EXAMPLES = 4
TOLERANCE = 1e-5
CHANGES = ((0, slice(1, None)), (EXAMPLES - 1, slice(-1)))
"""Which example is changed, and the others."""


def require_apart(
    where: str, network: Layer, params: Any, state: Any, x: Any, key: Array | None = None
) -> None:
    """Raise unless the network takes every example by itself in training.

    Of the arrays the shapes alone are looked at, so that it costs a compiled program nothing.

    Raises:
        ValueError: a layer mixes the examples; the message says ``where`` that matters, which layer
            it is, and the way out.
    """
    for name in mixing_layers(network, params, state, x, key):
        raise ValueError(
            f"{where}: expected every example to have a gradient of its own, but {name} mixes the "
            "examples of a batch in training; take in_inference_mode(network) in place of network"
        )


def require_loss_apart(where: str, loss: Loss, *passed: Any) -> None:
    """Raise ValueError where an example's loss depends on the others of its batch.

    Args:
        where: What wants it, for the error.
        loss: The loss. One that does not say what it is, is tried where ``passed`` is given.
        passed: The network, params, state, x, target and key of its use, of which the shapes alone
            are looked at.
    """
    if loss.mixes or (loss.mixes is None and passed and _loss_is_found_to_mix(loss, *passed)):
        raise ValueError(
            f"{where}: expected every example to have a loss of its own, but {loss.name} compares "
            "the examples of a batch with each other"
        )


def mixing_layers(
    network: Layer, params: Any, state: Any, x: Any, key: Array | None = None
) -> list[str]:
    """The layers that mix the examples of a batch in training, by path and name."""
    said = dict(_layers_to_ask(network))
    met: dict[str, tuple] = {}
    if None in (layer.mixes for layer in said.values()):

        def probed(path: str, layer: Layer):
            return (
                _Probe(layer, functools.partial(met.__setitem__, path)) if path in said else layer
            )

        jax.eval_shape(rewrite(network, probed).forward, *map(_shapes, (params, state, x)), key)
    return [
        label(path, layer)
        for path, layer in said.items()
        if layer.mixes or (path in met and _is_found_to_mix(layer, met[path]))
    ]


def _layers_to_ask(layer: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """The outermost layers that do not say that they take examples apart."""
    if layer.mixes is not False:
        yield path, layer
        return
    for name, part in zip(layer.part_names, layer.parts, strict=True):
        yield from _layers_to_ask(part, below(path, name))


class _Probe(Around):
    """A layer that records the shapes of what it is given."""

    record: Callable

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        self.record(_known((params, state, x)))
        return self.layer.forward(params, state, x, key)


def _known(shapes: Any) -> tuple:
    """A tree of shapes as something that can be hashed."""
    leaves, treedef = jax.tree.flatten(_shapes(shapes))
    return treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _tree_of(known: tuple) -> Any:
    treedef, leaves = known
    return treedef.unflatten([jax.ShapeDtypeStruct(*leaf) for leaf in leaves])


def _draw(noise: np.random.Generator, tree: Any, integer: int, examples: int | None = None) -> Any:
    """Arrays like those of the tree, of so many examples, with numbers in [0.5, 1.5)."""

    def draw(one: Any):
        shape = one.shape if examples is None else (examples, *one.shape[1:])
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), shape)
        if jnp.issubdtype(one.dtype, jnp.floating):
            return noise.uniform(0.5, 1.5, shape).astype(one.dtype)
        return np.full(shape, integer, one.dtype)

    return jax.tree.map(draw, tree)


def _tried(name: str, kind: str, influences: Callable) -> bool:
    """Whether one of the influences is larger than rounding; raises ValueError where there is no
    telling."""
    with jax.ensure_compile_time_eval():
        try:
            return any(influence > TOLERANCE for influence in influences())
        except Exception as error:  # whatever a layer or a loss raises of such inputs
            raise ValueError(
                f"{name}: expected a {kind} of which it can be found out whether it mixes the "
                f"examples of a batch, or one that says so by mixes = True or False: {error}"
            ) from error


def _integers_of(tree: Any) -> tuple[int, ...]:
    """Integers of an example go from 0 to 1 and from 1 to 0, which ids and lengths may be."""
    leaves = jax.tree.leaves(tree)
    return (0,) if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves) else (0, 1)


@functools.lru_cache(maxsize=256)
def _is_found_to_mix(layer: Layer, shapes: tuple) -> bool:
    params, state, x = _tree_of(shapes)
    noise = np.random.default_rng(0)

    def influences():
        own_params, own_state = _draw(noise, (params, state), 0)
        for integer in _integers_of(x):
            here, there = (_draw(noise, x, i, EXAMPLES) for i in (integer, 1 - integer))
            yield largest_influence(layer, own_params, own_state, here, there, jax.random.key(0))

    return _tried(layer.name, "layer", influences)


def _loss_is_found_to_mix(
    loss: Loss, network: Layer, params: Any, state: Any, x: Any, target: Any, key: Array | None
) -> bool:
    prediction = jax.eval_shape(network.forward, params, state, x, key)[0]
    return _given_is_found_to_mix(loss, _known((prediction, target)))


@functools.lru_cache(maxsize=256)
def _given_is_found_to_mix(loss: Loss, shapes: tuple) -> bool:
    given = _tree_of(shapes)
    noise = np.random.default_rng(0)

    @jax.jit
    def both(prediction: Any, target: Any):
        return jax.tree.leaves((loss.value(prediction, target), loss.gradient(prediction, target)))

    def influences():
        for integer in _integers_of(given):
            here, there = (_draw(noise, given, i, EXAMPLES) for i in (integer, 1 - integer))
            before = both(*here)
            for example, others in CHANGES:
                after = both(*jax.tree.map(lambda a, b, e=example: _put(a, b, e), here, there))
                yield _largest_move([a[others] for a in before], [a[others] for a in after])

    return _tried(loss.name, "loss", influences)


def _put(a: np.ndarray, other: np.ndarray, example: int) -> np.ndarray:
    """The array with this example of the other."""
    a = np.array(a)
    a[example] = other[example]
    return a


def _largest_move(before: list, after: list) -> float:
    """How far arrays have moved, relative to what they were."""
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        a, b = (np.asarray(array, np.float64) for array in (a, b))
        scale = np.max(np.abs(a), initial=0, where=np.isfinite(a)) or 1.0
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            moved = np.where(same, 0, np.nan_to_num(np.abs(a - b), nan=np.inf)) / scale
        worst = max(worst, float(np.max(moved, initial=0)))
    return worst


def largest_influence(
    layer: Layer, params: Any, state: Any, x: Any, others: Any, key: Array | None
) -> float:
    """How far a change of the first or last example moves the others' y, dx, and gradients of the
    parameters, relative to what they are. ``others`` are examples whose integers it may have."""
    noise = np.random.default_rng(1)

    @jax.jit
    def passes(params: Any, state: Any, x: Any, dy: Any):
        y, _, residuals = layer.forward(params, state, x, key)
        dx, captures = layer.backward(params, residuals, dy)
        nodes = jax.tree.leaves(captures, is_leaf=lambda node: isinstance(node, Capture))
        apart = [capture for capture in nodes if capture.summed_by is None]
        by_example = [a for a in jax.tree.leaves((y, dx)) if a.shape[:1] == (EXAMPLES,)]
        return [
            jax.tree.leaves(([a[others] for a in by_example], _gradients_of(apart, others)))
            for _, others in CHANGES
        ]

    def changed(tree: Any, example: int, others: Any):
        def change(a: Any, other: Any):
            a = np.array(a)
            is_floating = jnp.issubdtype(a.dtype, jnp.floating)
            a[example] = noise.uniform(-2, 2, a.shape[1:]) if is_floating else other[example]
            return a

        return jax.tree.map(change, tree, others)

    def few(tree: Any):
        return jax.tree.map(lambda a: np.resize(np.asarray(a), (EXAMPLES, *a.shape[1:])), tree)

    x, others = few(x), few(others)
    y = jax.eval_shape(layer.forward, params, state, x, key)[0]
    dy = jax.tree.map(
        lambda a: (
            noise.normal(size=a.shape).astype(a.dtype)
            if jnp.issubdtype(a.dtype, jnp.floating)
            else None
        ),
        y,
    )
    before = passes(params, state, x, dy)
    return max(
        _largest_move(
            before[index],
            passes(params, state, changed(x, example, others), changed(dy, example, dy))[index],
        )
        for index, (example, _) in enumerate(CHANGES)
    )


def _gradients_of(captures: list[Capture], others: slice) -> Any:
    """What these examples alone contribute."""
    share = jnp.zeros(EXAMPLES).at[others].set(1)

    def only(deltas: Array):
        return deltas * jnp.expand_dims(share, range(1, deltas.ndim)).astype(deltas.dtype)

    return [capture.map_deltas(only).gradient() for capture in captures]


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree)
