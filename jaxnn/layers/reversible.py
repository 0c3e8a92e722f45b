"""Reversible residual blocks: what their backward pass needs is computed from their output."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import inside, split
from jaxnn.core.contract import Layer
from jaxnn.core.reversing import Reversible
from jaxnn.core.validation import require_floating, require_members, require_number


def _require_between(where: str, name: str, value: Any) -> float:
    return require_number(
        where, name, value, minimum=0, maximum=1, open_minimum=True, open_maximum=True
    )


class reversible(Reversible):
    """y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁), of the two halves of x (RevNet: Gomez et al., 2017).

    So x₂ = y₂ − g(y₁) and x₁ = y₁ − f(x₂): backward, given y, finds x and computes the residuals of
    g and then of f again, one after the other:

        a = dy₁ + (∂g)ᵀ dy₂,  dx₁ = a,  dx₂ = dy₂ + (∂f)ᵀ a.

    In a `repeat`, and side by side in a `serial`, blocks hand on the x that they have found: what
    is kept is one output, whatever the depth. One more forward pass is the price.

    With ``momentum`` γ in place of g the second half is a velocity (Sander et al., 2021), which
    turns any residual network into one that can be reversed:

        y₂ = γ x₂ + (1 − γ) f(x₁),  y₁ = x₁ + y₂;
        x₁ = y₁ − y₂,  x₂ = (y₂ − (1 − γ) f(x₁)) / γ;
        a = dy₁ + dy₂,  dx₂ = γ a,  dx₁ = dy₁ + (1 − γ) (∂f)ᵀ a.

    x is found to rounding, which γ multiplies by 1/γ in every block: in float32 a gradient through
    many blocks is less exact than one of kept residuals, in half precision much less.

    Args:
        f: A layer that returns the shape of the half that its result is added to.
        g: Likewise; None with ``momentum``.
        momentum: γ in (0, 1).

    x is an array, whose halves lie side by side on its last axis, or a tuple of two arrays.

    Raises:
        ValueError: neither or both of g and momentum are given; at ``init``, the last axis of x is
            not even, or f or g returns another shape.
    """

    f: Layer
    g: Layer | None = None
    _: dataclasses.KW_ONLY
    momentum: Annotated[float, _require_between] | None = None

    mixes = False
    forgets = True

    def validate(self) -> None:
        """Raise unless one of g and momentum is given."""
        if (self.g is None) == (self.momentum is None):
            given = "neither" if self.g is None else "both"
            raise ValueError(f"reversible: expected either g or momentum, got {given}")

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.f,) if self.g is None else (self.f, self.g)

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        return dataclasses.replace(self, **dict(zip("fg", parts, strict=False)))

    def init(self, key: Array | None, x: Any):
        first, second = _halves(x)
        entering = (first,) if self.g is None else (second, first)
        leaving = (second,) if self.g is None else (first, second)
        made = []
        for index, k in enumerate(split(key, len(self.parts))):
            layer, given, expected = self.parts[index], entering[index], leaving[index]
            with inside(self, index):
                params, state = layer.init(k, given)
                found = jax.eval_shape(layer.predict, params, state, given)
            if jax.tree.map(_kind, found) != _kind(expected):
                raise ValueError(
                    f"reversible: expected {layer.name} to return the shape and dtype of the half "
                    f"that it is added to, {_kind(expected)}, got {jax.tree.map(_kind, found)}"
                )
            made.append((params, state))
        params, state = zip(*made, strict=True)
        return params, state

    def predict(self, params: Any, state: Any, x: Any):
        first, second = _halves(x)
        with inside(self, 0):
            f = self.f.predict(params[0], state[0], first if self.g is None else second)
        if self.g is None:
            second = self._velocity(second, f)
            return _like(x, first + second, second)
        first = first + f
        with inside(self, 1):
            return _like(x, first, second + self.g.predict(params[1], state[1], first))

    def keeping(self, params: Any, state: Any, x: Any, key: Array | None):
        """(y, state, the residuals of the parts), as if nothing were computed again."""
        first, second = _halves(x)
        keys = split(key, len(self.parts))
        with inside(self, 0):
            given = first if self.g is None else second
            f, f_state, f_kept = self.f.forward(params[0], state[0], given, keys[0])
        if self.g is None:
            second = self._velocity(second, f)
            return _like(x, first + second, second), (f_state,), (f_kept,)
        first = first + f
        with inside(self, 1):
            g, g_state, g_kept = self.g.forward(params[1], state[1], first, keys[1])
        return _like(x, first, second + g), (f_state, g_state), (f_kept, g_kept)

    def advance(self, params: Any, state: Any, x: Any, key: Array | None):
        y, new_state, _ = self.keeping(params, state, x, key)
        return y, new_state, (params, state, key)

    def reverse(self, params: Any, kept: Any, y: Any, dy: Any):
        # Not the params given here: a rule may propagate over others than forward was run with.
        own, state, key = kept
        keys = split(key, len(self.parts))
        (first, second), (d_first, d_second) = _halves(y), _halves(dy)
        if self.g is None:
            first = first - second
            with inside(self, 0):
                f, _, f_kept = self.f.forward(own[0], state[0], first, keys[0])
                total = d_first + d_second
                df, f_captures = self.f.backward(params[0], f_kept, (1 - self._gamma) * total)
            second = (second - (1 - self._gamma) * f) / self._gamma
            dx = _like(y, d_first + df, self._gamma * total)
            return _like(y, first, second), dx, (f_captures,)
        with inside(self, 1):
            g, _, g_kept = self.g.forward(own[1], state[1], first, keys[1])
            dg, g_captures = self.g.backward(params[1], g_kept, d_second)
        second, d_first = second - g, d_first + dg
        with inside(self, 0):
            f, _, f_kept = self.f.forward(own[0], state[0], second, keys[0])
            df, f_captures = self.f.backward(params[0], f_kept, d_first)
        first, d_second = first - f, d_second + df
        return _like(y, first, second), _like(y, d_first, d_second), (f_captures, g_captures)

    @property
    def _gamma(self) -> float:
        assert self.momentum is not None
        return self.momentum

    def _velocity(self, second: Array, f: Array) -> Array:
        return self._gamma * second + (1 - self._gamma) * f


def _halves(x: Any) -> tuple[Any, Any]:
    """The two halves of an array along its last axis, or the two members of a tuple."""
    if isinstance(x, tuple):
        require_members("reversible", x, 2)
        return x
    require_floating("reversible", "x", x)
    features = x.shape[-1] if x.ndim > 1 else 1
    if features % 2:
        raise ValueError(
            "reversible: expected x to have an even number of features on its last axis, whose "
            f"halves are taken, or to be a tuple of two arrays, got shape {tuple(x.shape)}"
        )
    if isinstance(x, jax.ShapeDtypeStruct):
        half = jax.ShapeDtypeStruct((*x.shape[:-1], features // 2), x.dtype)
        return half, half
    first, second = jnp.split(x, 2, -1)
    return first, second


def _like(x: Any, first: Any, second: Any) -> Any:
    """Two halves put together as x is."""
    return (first, second) if isinstance(x, tuple) else jnp.concatenate([first, second], -1)


def _kind(a: Any) -> tuple:
    return tuple(a.shape), str(a.dtype)
