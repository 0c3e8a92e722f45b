"""Combinators: layers made of layers. Each backward is the reverse of its forward, part by part.

Params, state, residuals and captures of a combinator are tuples with one entry for each part.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import contract_at_once, contracted, join, stack
from jaxnn.core.layer import Layer, Static, parameter_free
from jaxnn.core.validation import (
    require_feature_axis,
    require_floating,
    require_integer,
    require_members,
    require_positive_integer,
)


def serial(*layers: Layer) -> Layer:
    """y = fₙ(… f₂(f₁(x))): each layer is given what the one before it returned."""
    require_layers("serial", layers)

    def init(key: Array | None, x: Any):
        params, state = [], []
        for index, (layer, k) in enumerate(zip(layers, _split(key, len(layers)), strict=True)):
            with inside("serial", index, layer):
                p, s = layer.init(k, x)
                x = jax.eval_shape(layer.predict, p, s, x)
            params.append(p)
            state.append(s)
        return tuple(params), tuple(state)

    def predict(params: Any, state: Any, x: Any):
        for index, layer in enumerate(layers):
            with inside("serial", index, layer):
                x = layer.predict(params[index], state[index], x)
        return x

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        keys, new_state, residuals = _split(key, len(layers)), [], []
        for index, layer in enumerate(layers):
            with inside("serial", index, layer):
                x, s, r = layer.forward(params[index], state[index], x, keys[index])
            new_state.append(s)
            residuals.append(r)
        return x, tuple(new_state), tuple(residuals)

    def backward(params: Any, residuals: Any, dy: Any):
        captures = []
        for index, layer in reversed(list(enumerate(layers))):
            with inside("serial", index, layer):
                dy, capture = layer.backward(params[index], residuals[index], dy)
            captures.append(capture)
        return dy, tuple(reversed(captures))

    return Layer(init, predict, forward, backward, "serial", layers, serial)


def fork(*layers: Layer) -> Layer:
    """y = (f₁(x), …, fₙ(x)): one input given to several layers; dx is the sum of theirs."""
    require_layers("fork", layers)

    def spread(x: Any):
        return (x,) * len(layers)

    def gather(dx: tuple):
        return reduce(_add, dx)

    return _side_by_side(fork, layers, spread, gather)


def parallel(*layers: Layer) -> Layer:
    """y = (f₁(x₁), …, fₙ(xₙ)): each layer is given its own member of a tuple."""
    require_layers("parallel", layers)

    def spread(x: Any):
        require_members("parallel", x, len(layers))
        return x

    return _side_by_side(parallel, layers, spread, tuple)


def _side_by_side(combinator: Callable, layers: tuple, spread: Callable, gather: Callable) -> Layer:
    """Layers that do not see each other: ``spread`` makes their inputs, ``gather`` their dx."""

    name = combinator.__name__

    def init(key: Array | None, x: Any):
        pairs = []
        keys = _split(key, len(layers))
        for index, (layer, k, member) in enumerate(zip(layers, keys, spread(x), strict=True)):
            with inside(name, index, layer):
                pairs.append(layer.init(k, member))
        params, state = zip(*pairs, strict=True)
        return params, state

    def predict(params: Any, state: Any, x: Any):
        y = []
        for index, (layer, member) in enumerate(zip(layers, spread(x), strict=True)):
            with inside(name, index, layer):
                y.append(layer.predict(params[index], state[index], member))
        return tuple(y)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        keys, results = _split(key, len(layers)), []
        for index, (layer, member) in enumerate(zip(layers, spread(x), strict=True)):
            with inside(name, index, layer):
                results.append(layer.forward(params[index], state[index], member, keys[index]))
        y, new_state, residuals = zip(*results, strict=True)
        return y, new_state, residuals

    def backward(params: Any, residuals: Any, dy: Any):
        results = []
        for index, layer in enumerate(layers):
            with inside(name, index, layer):
                results.append(layer.backward(params[index], residuals[index], dy[index]))
        dx, captures = zip(*results, strict=True)
        return gather(dx), captures

    return Layer(init, predict, forward, backward, name, layers, combinator)


def add() -> Layer:
    """y = x₁ + … + xₙ, the members of a tuple, which must have one shape; every dxᵢ is dy."""

    def forward(x: Any):
        require_members("add", x)
        for member in x:
            require_floating("add", "every member of x", member)
        shapes = {(tuple(member.shape), str(member.dtype)) for member in x}
        if len(shapes) != 1:
            raise ValueError(
                f"add: expected the members of x to have one shape and dtype, got {sorted(shapes)}"
            )
        return sum(x[1:], start=x[0]), Static(len(x))

    def backward(count: Static, dy: Array):
        return (dy,) * count.value

    return parameter_free("add", forward, backward)


def concatenate(axis: int = -1) -> Layer:
    """The members of a tuple side by side along ``axis`` (not the batch); dy is cut up again."""
    require_feature_axis("concatenate", axis)

    def forward(x: Any):
        require_members("concatenate", x)
        for member in x:
            require_floating("concatenate", "every member of x", member)
        rank = len(x[0].shape)
        others = {
            (m.dtype, tuple(m.shape[:axis]), len(m.shape), tuple(m.shape[axis:][1:])) for m in x
        }
        if not -rank < axis < rank or len(others) != 1:
            raise ValueError(
                f"concatenate: expected the members of x to have one dtype and shapes that differ "
                f"in axis {axis} alone, got {[f'{m.dtype}{list(m.shape)}' for m in x]}"
            )
        return jnp.concatenate(x, axis), Static(tuple(m.shape[axis] for m in x))

    def backward(sizes: Static, dy: Array):
        cuts = list(itertools.accumulate(sizes.value))[:-1]
        return tuple(jnp.split(dy, cuts, axis))

    return parameter_free("concatenate", forward, backward)


def on(index: int, layer: Layer) -> Layer:
    """Apply ``layer`` to member ``index`` of a tuple and pass the other members through."""
    require_layers("on", (layer,))
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise ValueError(f"on: expected index to be an integer of at least 0, got {index!r}")

    def replaced(members: tuple, member: Any):
        return (*members[:index], member, *members[index + 1 :])

    def member_of(x: Any):
        require_members("on", x)
        if index >= len(x):
            raise ValueError(
                f"on: expected index to be below {len(x)}, the members of x, got {index}"
            )
        return x[index]

    def init(key: Array | None, x: Any):
        with inside("on", 0, layer):
            params, state = layer.init(key, member_of(x))
        return (params,), (state,)

    def predict(params: Any, state: Any, x: Any):
        with inside("on", 0, layer):
            return replaced(x, layer.predict(params[0], state[0], member_of(x)))

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        with inside("on", 0, layer):
            y, new_state, residuals = layer.forward(params[0], state[0], member_of(x), key)
        return replaced(x, y), (new_state,), (residuals,)

    def backward(params: Any, residuals: Any, dy: Any):
        with inside("on", 0, layer):
            dx, captures = layer.backward(params[0], residuals[0], dy[index])
        return replaced(dy, dx), (captures,)

    return Layer(init, predict, forward, backward, "on", (layer,), partial(on, index))


def select(*indices: int) -> Layer:
    """y = the members of a tuple with these indices, one by itself, several as a tuple.

    Nothing depends on the members left out: their dx is 0, and None for integers and masks.
    """
    if not indices:
        raise ValueError("select: expected at least one index, got none")
    for index in indices:
        require_integer("select", "every index", index, 0)
    if len(set(indices)) != len(indices):
        raise ValueError(f"select: expected every index once, got {indices}")

    def forward(x: Any):
        require_members("select", x)
        if max(indices) >= len(x):
            raise ValueError(
                f"select: expected indices below {len(x)}, the members of x, got {indices}"
            )
        y = tuple(x[index] for index in indices)
        shapes = tuple(
            jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), member)
            for member in x
        )
        return (y if len(indices) > 1 else y[0]), Static(shapes)

    def backward(shapes: Static, dy: Any):
        given = dict(zip(indices, dy if len(indices) > 1 else (dy,), strict=True))
        examples = {leaf.shape[0] for leaf in jax.tree.leaves(dy)}

        def zeros(one: jax.ShapeDtypeStruct):
            if not examples or not jnp.issubdtype(one.dtype, jnp.floating):
                return None
            return jnp.zeros((*examples, *one.shape), one.dtype)

        return tuple(
            given[index] if index in given else jax.tree.map(zeros, member)
            for index, member in enumerate(shapes.value)
        )

    return parameter_free("select", forward, backward)


def identity() -> Layer:
    """y = x and dx = dy, for arrays and tuples of any dtype."""
    return parameter_free("identity", lambda x: (x, ()), lambda residuals, dy: dy)


def skip(*layers: Layer) -> Layer:
    """y = x + f(x) with f = serial(layers): a residual connection (He et al., 2016)."""
    return serial(fork(identity(), serial(*layers)), add())._replace(name="skip")


def share(layer: Layer) -> Layer:
    """y = (f(x₁), …, f(xₙ)) with one set of parameters for all members of a tuple (siamese).

    The parameters appear once; the captures of the uses are joined along positions. State passes
    from use to use.
    """
    require_layers("share", (layer,))

    def init(key: Array | None, x: Any):
        require_members("share", x)
        with inside("share", 0, layer):
            params, state = layer.init(key, x[0])
        return (params,), (state,)

    def predict(params: Any, state: Any, x: Any):
        require_members("share", x)
        with inside("share", 0, layer):
            return tuple(layer.predict(params[0], state[0], member) for member in x)

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        require_members("share", x)
        y, residuals, (passing,) = [], [], state
        with inside("share", 0, layer):
            for member, k in zip(x, _split(key, len(x)), strict=True):
                out, passing, kept = layer.forward(params[0], passing, member, k)
                y.append(out)
                residuals.append(kept)
        return tuple(y), (passing,), (tuple(residuals),)

    def backward(params: Any, residuals: Any, dy: Any):
        with inside("share", 0, layer):
            uses = [layer.backward(params[0], r, d) for r, d in zip(residuals[0], dy, strict=True)]
        dx, captures = zip(*uses, strict=True)
        return dx, (join(*captures),)

    return Layer(init, predict, forward, backward, "share", (layer,), share)


def repeat(layer: Layer, n: int) -> Layer:
    """``n`` copies of ``layer`` one after the other, scanned over depth with stacked parameters.

    Compiled once whatever the depth. The output of ``layer`` must have the shape of its input.
    """
    require_layers("repeat", (layer,))
    require_positive_integer("repeat", "n", n)

    def init(key: Array | None, x: Any):
        with inside("repeat", 0, layer):
            one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
            if key is None:
                params, state = layer.init(None, one)
                params, state = jax.tree.map(
                    lambda a: jnp.broadcast_to(a, (n, *a.shape)), (params, state)
                )
            else:
                params, state = jax.vmap(lambda k: layer.init(k, one))(jax.random.split(key, n))
            first = jax.tree.map(lambda a: a[0], (params, state))
            y = jax.eval_shape(layer.predict, *first, one)
        given, returned = (jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (one, y))
        if given != returned:
            raise ValueError(
                f"repeat: expected {layer.name} to return the shape and dtype it is given, "
                f"{given}, got {returned}"
            )
        return (params,), (state,)

    def predict(params: Any, state: Any, x: Any):
        def body(x, slices):
            return layer.predict(*slices, x), None

        with inside("repeat", 0, layer):
            return jax.lax.scan(body, x, (params[0], state[0]), length=n)[0]

    def forward(params: Any, state: Any, x: Any, key: Array | None):
        keys = None if key is None else jax.random.split(key, n)

        def body(x, slices):
            y, new_state, residuals = layer.forward(slices[0], slices[1], x, slices[2])
            return y, (new_state, residuals)

        with inside("repeat", 0, layer):
            y, (new_state, residuals) = jax.lax.scan(body, x, (params[0], state[0], keys), length=n)
        return y, (new_state,), (residuals,)

    def backward(params: Any, residuals: Any, dy: Any):
        def body(dy, slices):
            dx, captures = layer.backward(*slices, dy)
            # Contracted after the scan, the deltas of all copies would be held at once.
            return dx, contracted(captures) if contract_at_once.value else captures

        with inside("repeat", 0, layer):
            dx, captures = jax.lax.scan(body, dy, (params[0], residuals[0]), length=n, reverse=True)
        return dx, (stack(captures),)

    return Layer(init, predict, forward, backward, "repeat", (layer,), partial(repeat, n=n))


def _add(a: Any, b: Any) -> Any:
    """The sum of two trees, where None is no gradient, of an array or of a whole subtree."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, tuple):
        return tuple(map(_add, a, b))
    return a + b


def _split(key: Array | None, n: int) -> Any:
    return [None] * n if key is None else jax.random.split(key, n)


def require_layers(where: str, layers: tuple) -> None:
    """Raise unless there is at least one argument, and every one is a Layer."""
    if not layers:
        raise ValueError(f"{where}: expected at least one layer, got none")
    for index, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            hint = " (a factory: call it)" if callable(layer) else ""
            raise TypeError(
                f"{where}: expected argument {index} to be a Layer, got {layer!r}{hint}"
            )


@contextmanager
def inside(combinator: str, index: int, layer: Layer) -> Iterator[None]:
    """Add to an error that passes through where in the network it came from."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in part {index} ({layer.name}) of {combinator}")
        raise
