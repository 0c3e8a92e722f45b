"""Combinators: layers made of layers. Each backward is the reverse of its forward, part by part.

Params, state, residuals and captures of a combinator are tuples with one entry for each part; named
tuples where the parts have names.
"""

import collections
import dataclasses
import functools
import itertools
import keyword
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.captures import contracted, join, stack
from jaxnn.core.contract import Layer
from jaxnn.core.residuals import Static
from jaxnn.core.reversing import Reversed, Reversible, back_through, handed_back
from jaxnn.core.validation import (
    brief,
    require_count,
    require_feature_axis,
    require_floating,
    require_members,
    require_positive_integer,
)
from jaxnn.kernels.products import add_all


class Many(Layer, init=False):
    """Base of combinators of any number of layers: all by position, or all by name."""

    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    """Empty where the parts have none."""

    def __init__(self, /, *layers: Layer, **named: Layer):
        require_parts(self.name, layers, named)
        object.__setattr__(self, "layers", layers or tuple(named.values()))
        object.__setattr__(self, "names", tuple(named))
        self.__post_init__()

    @property
    def by_position(self) -> tuple[Layer, ...]:
        """The layers that have no names."""
        return () if self.names else self.layers

    @property
    def by_name(self) -> dict[str, Layer]:
        """The layers that have names."""
        return dict(zip(self.names, self.layers, strict=True)) if self.names else {}

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of a subclass, but for defaults."""
        return {}

    def arguments(self) -> list[tuple[str, Any]]:
        positional = [("", layer) for layer in self.by_position]
        return positional + list((self.by_name | self.options).items())

    @property
    def parts(self) -> tuple[Layer, ...]:
        return self.layers

    @property
    def part_names(self) -> tuple[str, ...]:
        return self.names or super().part_names

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        named = dict(zip(self.names, parts, strict=True)) if self.names else {}
        return type(self)(*(() if named else parts), **named, **self.options)

    def places(self) -> list:
        """A context for each part, which adds its place to an error."""
        return [inside(self, index) for index in range(len(self.layers))]

    def gather(self, trees: Iterable[Any]) -> tuple:
        """A tuple of one tree for each part, with their names."""
        return _named_tuple(self.names)(*trees) if self.names else tuple(trees)


@functools.cache
def _named_tuple(names: tuple[str, ...]) -> type:
    """One class for all tuples with these names, as JAX compares trees by class."""
    kind = collections.namedtuple("Parts", names)
    return type("Parts", (kind,), {"__slots__": (), "__reduce__": _rebuild})


def _rebuild(self: Any):
    return _make_named, (self._fields, tuple(self))


def _make_named(names: tuple[str, ...], values: tuple) -> tuple:
    return _named_tuple(names)(*values)


class One(Layer):
    """Base of combinators of one layer, their field ``layer``."""

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.layer,)  # pyright: ignore[reportAttributeAccessIssue]

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        return dataclasses.replace(self, layer=parts[0])


class Wrapper(Layer):
    """Base of layers with the params and the captures of one layer, their field ``layer``.

    It takes no place of its own in paths. Where its state holds the layer's beside some of its own,
    it says so by `inner_state`.
    """

    def __init_subclass__(cls, **options: Any):
        said = cls.mixes
        super().__init_subclass__(**options)
        if not {"forward", "backward"} & vars(cls).keys():
            cls.mixes = said  # what a base says of its passes is true of those who leave them alone

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.layer,)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def part_names(self) -> tuple[str, ...]:
        return ("",)

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        return dataclasses.replace(self, layer=parts[0])

    def of_parts(self, tree: Any) -> tuple:
        return (self.inner_state(tree),)

    def inner_state(self, tree: Any) -> Any:
        """The layer's own state; the tree as it is where it is no state of this wrapper's."""
        return tree


class Compound(Wrapper):
    """Base of layers that are put together from others: they are what ``made`` returns."""

    mixes = False

    @functools.cached_property
    def made(self) -> Layer:
        raise NotImplementedError

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.made,)

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        return parts[0]

    def init(self, key: Array | None, x: Any):
        return self.made.init(key, x)

    def predict(self, params: Any, state: Any, x: Any):
        return self.made.predict(params, state, x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        return self.made.forward(params, state, x, key)

    def backward(self, params: Any, residuals: Any, dy: Any):
        return self.made.backward(params, residuals, dy)


class serial(Many, init=False):
    """y = fₙ(… f₂(f₁(x))): each layer is given what the one before it returned."""

    mixes = False

    def init(self, key: Array | None, x: Any):
        made = []
        for layer, k, here in zip(
            self.layers, split(key, len(self.layers)), self.places(), strict=True
        ):
            with here:
                params, state = layer.init(k, x)
                x = jax.eval_shape(layer.predict, params, state, x)
            made.append((params, state))
        return tuple(map(self.gather, zip(*made, strict=True)))

    def predict(self, params: Any, state: Any, x: Any):
        for layer, p, s, here in zip(self.layers, params, state, self.places(), strict=True):
            with here:
                x = layer.predict(p, s, x)
        return x

    def keys(self, key: Array | None) -> Any:
        """The key of each layer."""
        return split(key, len(self.layers))

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        keys, kept = self.keys(key), []
        for layer, p, s, k, here in zip(
            self.layers, params, state, keys, self.places(), strict=True
        ):
            with here:
                x, new_state, residuals = layer.forward(p, s, x, k)
            kept.append((new_state, residuals))
        states, residuals = zip(*kept, strict=True)
        return x, self.gather(states), self.gather(handed_back(self.layers, residuals))

    def backward(self, params: Any, residuals: Any, dy: Any):
        captures, y = [], None
        steps = list(zip(self.layers, params, residuals, self.places(), strict=True))
        for layer, p, r, here in reversed(steps):
            with here:
                y, dy, capture = back_through(layer, p, r, y, dy)
            captures.append(capture)
        return dy, self.gather(reversed(captures))

    def fused(self) -> Layer:
        """Neighbours computed together, as `Layer.fused_with` tells."""
        layers = list(self.layers)
        for index, layer in enumerate(layers):
            together = layer.fused_with(*layers[index + 1 :])
            layers[index : index + len(together)] = together
        return self if tuple(layers) == self.layers else self.with_parts(tuple(layers))


class _SideBySide(Many, init=False):
    """Base of layers that do not see each other: `spread` makes their inputs, `join` their dx."""

    def spread(self, x: Any) -> tuple:
        """What each layer is given."""
        raise NotImplementedError

    def join(self, dx: tuple) -> Any:
        """dx of x."""
        raise NotImplementedError

    def init(self, key: Array | None, x: Any):
        made = self._each(lambda layer: layer.init, split(key, len(self.layers)), self.spread(x))
        return tuple(map(self.gather, zip(*made, strict=True)))

    def predict(self, params: Any, state: Any, x: Any):
        return tuple(self._each(lambda layer: layer.predict, params, state, self.spread(x)))

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        keys = split(key, len(self.layers))
        results = self._each(lambda layer: layer.forward, params, state, self.spread(x), keys)
        y, new_state, residuals = zip(*results, strict=True)
        return y, self.gather(new_state), self.gather(residuals)

    def backward(self, params: Any, residuals: Any, dy: Any):
        results = self._each(lambda layer: layer.backward, params, residuals, dy)
        dx, captures = zip(*results, strict=True)
        return self.join(dx), self.gather(captures)

    def _each(self, method: Callable, *arguments: Any) -> list:
        """The results of a method of every layer, of its own member of each argument."""
        results = []
        for layer, here, *own in zip(self.layers, self.places(), *arguments, strict=True):
            with here:
                results.append(method(layer)(*own))
        return results


class fork(_SideBySide, init=False):
    """y = (f₁(x), …, fₙ(x)): one input given to several layers; dx is the sum of theirs."""

    mixes = False

    def spread(self, x: Any):
        return (x,) * len(self.layers)

    def join(self, dx: tuple):
        """The sum."""
        return _sum(dx)


class parallel(_SideBySide, init=False):
    """y = (f₁(x₁), …, fₙ(xₙ)): each layer is given its own member of a tuple."""

    mixes = False

    def spread(self, x: Any):
        require_members("parallel", x, len(self.layers))
        return x

    def join(self, dx: tuple):
        """Side by side."""
        return tuple(dx)


class add(ParameterFree):
    """y = x₁ + … + xₙ, the members of a tuple, which must have one shape; every dxᵢ is dy."""

    mixes = False

    def apply(self, x: Any):
        _require_alike("add", x)
        return add_all(*x), Static(len(x))

    def pull_back(self, residuals: Static, dy: Array):
        return (dy,) * residuals.value


class multiply(ParameterFree):
    """y = x₁ · … · xₙ element by element, the members of a tuple, which must have one shape.

    dxᵢ = dy times the product of the others, which divides by nothing and so is right at 0.
    """

    mixes = False

    def apply(self, x: Any):
        _require_alike("multiply", x)
        return functools.reduce(jnp.multiply, x), x

    def pull_back(self, residuals: tuple, dy: Array):
        others = (residuals[:i] + residuals[i + 1 :] for i in range(len(residuals)))
        return tuple(functools.reduce(jnp.multiply, rest, dy) for rest in others)


def _require_alike(where: str, x: Any) -> None:
    """Raise unless x is a tuple of arrays of one shape and dtype."""
    require_members(where, x)
    for member in x:
        require_floating(where, "every member of x", member)
    shapes = {(tuple(member.shape), str(member.dtype)) for member in x}
    if len(shapes) != 1:
        raise ValueError(
            f"{where}: expected the members of x to have one shape and dtype, got {sorted(shapes)}"
        )


class concatenate(ParameterFree):
    """The members of a tuple side by side along ``axis`` (not the batch); dy is cut up again."""

    axis: Annotated[int, require_feature_axis] = -1

    mixes = False

    def apply(self, x: Any):
        axis = self.axis
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

    def pull_back(self, residuals: Static, dy: Array):
        cuts = list(itertools.accumulate(residuals.value))[:-1]
        return tuple(jnp.split(dy, cuts, self.axis))


class on(One):
    """Apply ``layer`` to member ``index`` of a tuple and pass the other members through."""

    index: Annotated[int, require_count]
    layer: Layer

    mixes = False

    def init(self, key: Array | None, x: Any):
        with inside(self, 0):
            params, state = self.layer.init(key, self._member_of(x))
        return (params,), (state,)

    def predict(self, params: Any, state: Any, x: Any):
        with inside(self, 0):
            return self._put(x, self.layer.predict(params[0], state[0], self._member_of(x)))

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        with inside(self, 0):
            y, new_state, residuals = self.layer.forward(
                params[0], state[0], self._member_of(x), key
            )
        return self._put(x, y), (new_state,), (residuals,)

    def backward(self, params: Any, residuals: Any, dy: Any):
        with inside(self, 0):
            dx, captures = self.layer.backward(params[0], residuals[0], dy[self.index])
        return self._put(dy, dx), (captures,)

    def _member_of(self, x: Any) -> Any:
        require_members("on", x)
        if self.index >= len(x):
            raise ValueError(
                f"on: expected index to be below {len(x)}, the members of x, got {self.index}"
            )
        return x[self.index]

    def _put(self, members: tuple, member: Any) -> tuple:
        return (*members[: self.index], member, *members[self.index + 1 :])


class select(ParameterFree, init=False):
    """y = the members of a tuple with these indices, one by itself, several as a tuple.

    Nothing depends on the members left out: their dx is 0, and None for integers and masks.
    """

    indices: tuple[Annotated[int, require_count], ...]

    mixes = False

    def __init__(self, *indices: int):
        object.__setattr__(self, "indices", indices)
        self.__post_init__()

    def validate(self) -> None:
        """Raise unless there are indices, each once."""
        if not self.indices:
            raise ValueError("select: expected at least one index, got none")
        if len(set(self.indices)) != len(self.indices):
            raise ValueError(f"select: expected every index once, got {self.indices}")

    def arguments(self) -> list[tuple[str, Any]]:
        return [("", index) for index in self.indices]

    def apply(self, x: Any):
        require_members("select", x)
        if max(self.indices) >= len(x):
            raise ValueError(
                f"select: expected indices below {len(x)}, the members of x, got {self.indices}"
            )
        y = tuple(x[index] for index in self.indices)
        shapes = tuple(
            jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), member)
            for member in x
        )
        return (y if len(self.indices) > 1 else y[0]), Static(shapes)

    def pull_back(self, residuals: Static, dy: Any):
        given = dict(zip(self.indices, dy if len(self.indices) > 1 else (dy,), strict=True))
        examples = {leaf.shape[0] for leaf in jax.tree.leaves(dy)}

        def zeros(one: jax.ShapeDtypeStruct):
            if not examples or not jnp.issubdtype(one.dtype, jnp.floating):
                return None
            return jnp.zeros((*examples, *one.shape), one.dtype)

        return tuple(
            given[index] if index in given else jax.tree.map(zeros, member)
            for index, member in enumerate(residuals.value)
        )


class identity(ParameterFree):
    """y = x and dx = dy, for arrays and tuples of any dtype."""

    mixes = False

    def apply(self, x: Any):
        return x, ()

    def pull_back(self, residuals: Any, dy: Any):
        return dy


class skip(Compound, init=False):
    """y = x + f(x) with f = serial(layers): a residual connection (He et al., 2016)."""

    layer: serial

    mixes = False

    def __init__(self, /, *layers: Layer, **named: Layer):
        require_parts("skip", layers, named)
        object.__setattr__(self, "layer", serial(*layers, **named))
        self.__post_init__()

    def arguments(self) -> list[tuple[str, Any]]:
        return self.layer.arguments()

    @functools.cached_property
    def made(self) -> Layer:
        return serial(fork(identity(), self.layer), add())

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        match parts[0]:
            case serial(layers=(fork(layers=(identity(), serial() as f)), add())):
                return skip(*f.by_position, **f.by_name)
        return parts[0]


class share(One):
    """y = (f(x₁), …, f(xₙ)) with one set of parameters for all members of a tuple (siamese).

    The parameters appear once; the captures of the uses are joined along positions. State passes
    from use to use.
    """

    layer: Layer

    mixes = False

    def init(self, key: Array | None, x: Any):
        require_members("share", x)
        if not x:
            raise ValueError("share: expected x to have at least one member, got none")
        with inside(self, 0):
            params, state = self.layer.init(key, x[0])
        return (params,), (state,)

    def predict(self, params: Any, state: Any, x: Any):
        require_members("share", x)
        with inside(self, 0):
            return tuple(self.layer.predict(params[0], state[0], member) for member in x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        require_members("share", x)
        y, residuals, (passing,) = [], [], state
        with inside(self, 0):
            for member, k in zip(x, split(key, len(x)), strict=True):
                out, passing, kept = self.layer.forward(params[0], passing, member, k)
                y.append(out)
                residuals.append(kept)
        return tuple(y), (passing,), (tuple(residuals),)

    def backward(self, params: Any, residuals: Any, dy: Any):
        with inside(self, 0):
            uses = [
                self.layer.backward(params[0], r, d) for r, d in zip(residuals[0], dy, strict=True)
            ]
        dx, captures = zip(*uses, strict=True)
        return dx, (join(*captures),)


class repeat(One):
    """``n`` copies of ``layer`` one after the other, scanned over depth with stacked parameters.

    Compiled once whatever the depth. The output of ``layer`` must have the shape of its input.
    """

    layer: Layer
    n: Annotated[int, require_positive_integer]
    sums: bool = dataclasses.field(default=False, kw_only=True)
    """Whether each copy's captures are contracted as it is left: the deltas of all copies would
    otherwise be held at once."""

    mixes = False

    def summing(self) -> Layer:
        return dataclasses.replace(self, sums=True)

    def init(self, key: Array | None, x: Any):
        layer, n = self.layer, self.n
        with inside(self, 0):
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

    def predict(self, params: Any, state: Any, x: Any):
        def body(x, slices):
            params, state = slices
            return self.layer.predict(params, state, x), None

        with inside(self, 0):
            return jax.lax.scan(body, x, (params[0], state[0]), length=self.n)[0]

    def keys(self, key: Array | None) -> Array | None:
        """The key of each copy."""
        return None if key is None else jax.random.split(key, self.n)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        keys, layer = self.keys(key), self.layer
        run = layer.advance if isinstance(layer, Reversible) else layer.forward

        def body(x, slices):
            y, new_state, residuals = run(slices[0], slices[1], x, slices[2])
            return y, (new_state, residuals)

        with inside(self, 0):
            slices = (params[0], state[0], keys)
            y, (new_state, residuals) = jax.lax.scan(body, x, slices, length=self.n)
        if isinstance(layer, Reversible):
            residuals = Reversed(residuals, y)
        return y, (new_state,), (residuals,)

    def backward(self, params: Any, residuals: Any, dy: Any):
        def body(carried, slices):
            params, kept = slices
            carried, captures = self.one_back(params, kept, carried)
            return carried, contracted(captures) if self.sums else captures

        with inside(self, 0):
            carried, kept = self.back_from(residuals[0], dy)
            slices = (params[0], kept)
            (_, dx), captures = jax.lax.scan(body, carried, slices, length=self.n, reverse=True)
        return dx, (stack(captures),)

    def back_from(self, residuals: Any, dy: Any) -> tuple[Any, Any]:
        """(what the way back carries from copy to copy, what each copy has kept)."""
        if isinstance(residuals, Reversed):
            return (residuals.y, dy), residuals.kept
        return (None, dy), residuals

    def one_back(self, params: Any, kept: Any, carried: Any) -> tuple[Any, Any]:
        """(what is carried on, captures) of one copy."""
        y, dy = carried
        if isinstance(self.layer, Reversible):
            *carried, captures = self.layer.reverse(params, kept, y, dy)
            return tuple(carried), captures
        dx, captures = self.layer.backward(params, kept, dy)
        return (None, dx), captures


def _sum(trees: Sequence[Any]) -> Any:
    """The sum of trees, where None is no gradient, of an array or of a whole subtree."""
    there = [tree for tree in trees if tree is not None]
    if len(there) < 2:
        return there[0] if there else None
    if isinstance(there[0], tuple):
        return tuple(map(_sum, zip(*there, strict=True)))
    return add_all(*there)


def split(key: Array | None, n: int) -> Any:
    """``n`` keys of one, or None for each."""
    return [None] * n if key is None else jax.random.split(key, n)


def require_parts(where: str, layers: tuple, named: dict[str, Any]) -> None:
    """Raise unless there is a layer, and all are layers, by position or by names for all."""
    for name in named:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise ValueError(
                f"{where}: expected the name of a part to be an identifier without _ in front, "
                f"got {brief(name)}"
            )
    if layers and named:
        raise TypeError(
            f"{where}: expected all parts to have names, or none, got {len(layers)} without and "
            f"{', '.join(named)}"
        )
    if not layers and not named:
        raise ValueError(f"{where}: expected at least one layer, got none")
    for name, layer in (named or {f"argument {i}": a for i, a in enumerate(layers)}).items():
        if not isinstance(layer, Layer):
            hint = " (a factory: call it)" if callable(layer) else ""
            raise TypeError(f"{where}: expected {name} to be a Layer, got {brief(layer)}{hint}")


@contextmanager
def inside(combinator: Layer, index: int) -> Iterator[None]:
    """Add to an error that passes through where in the network it came from."""
    try:
        yield
    except Exception as error:
        name, part = combinator.part_names[index], combinator.parts[index]
        error.add_note(f"in part {name} ({part.name}) of {combinator.name}")
        raise
