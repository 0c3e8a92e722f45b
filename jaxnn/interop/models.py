"""Models of Flax and Equinox as layers: unmodified, with the parameters that they have.

    layer, params, state = interop.from_linen(module, variables)
    noise = statistics.gradient_noise_scale(layer, nn.softmax_cross_entropy())
    noise(params, state, x, labels)

Each takes one example at a time, however the model is written: a Flax module is given a batch of
one. What is not trained (running statistics, counters) is the state, and stays as it is: batch norm
must be told to use its running averages, as for inference, since in training it mixes the examples
of a batch.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from jaxnn.core.validation import brief, require_key
from jaxnn.interop.any_function import layer


class Model(abc.ABC):
    """Of another library, as ``apply`` of a `layer` calls it."""

    @abc.abstractmethod
    def __call__(self, params: Any, state: Any, x: Any, key: Array | None = None) -> Any:
        """y, for one example."""

    @abc.abstractmethod
    def model(self, params: Any, state: Any) -> Any:
        """What the library itself works with."""

    @property
    @abc.abstractmethod
    def __name__(self) -> str:
        """What errors and reports call it."""

    def __repr__(self) -> str:
        return f"<model {self.__name__}>"


def from_linen(
    module: Any,
    variables: Any,
    *,
    batched: bool = True,
    rngs: tuple[str, ...] = (),
    method: Callable | str | None = None,
    **arguments: Any,
) -> tuple[layer, Any, Any]:
    """(layer, params, state) of a ``flax.linen`` module and its variables.

    params are ``variables["params"]``, and the state is the other collections. Parameters can be
    made anew by ``layer.init(key, x)``.

    Args:
        module: The module.
        variables: What its ``init`` returned, or training made of it.
        batched: Whether the module is called with a batch, of one example, as Flax's usually are;
            False for one that takes an example by itself.
        rngs: Streams of random numbers that it draws from, such as ("dropout",); a key is then
            needed, which is split between examples and streams.
        method: As of ``module.apply``.
        arguments: Further arguments of its call, such as ``train=False``.

    Raises:
        TypeError: module is no Linen module, or the variables have no "params".
    """
    import flax.linen

    if not isinstance(module, flax.linen.Module):
        raise TypeError(
            f"from_linen: expected module to be a flax.linen.Module, got {brief(module)}"
        )
    if not isinstance(variables, dict) or "params" not in variables:
        raise TypeError(
            'from_linen: expected variables to be a dict with "params", as module.init returns it, '
            f"got {brief(variables)}"
        )
    options = tuple(sorted(arguments.items()))
    apply = _Linen(module, batched, tuple(rngs), method, options)
    state = {name: tree for name, tree in variables.items() if name != "params"}
    own = layer(apply, start=_LinenStart(apply), has_state=True, draws=bool(rngs))
    return own, variables["params"], state


def from_nnx(model: Any, *, batched: bool = True) -> tuple[layer, Any, Any]:
    """(layer, params, state) of a ``flax.nnx`` module.

    params are its ``nnx.Param`` and the state the other variables, both as nested dicts; the model
    itself is not changed. Put it into ``model.eval()`` before, where it has dropout or batch norm.

    Args:
        model: The module.
        batched: As for `from_linen`.

    Raises:
        TypeError: it is no NNX module.
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise TypeError(f"from_nnx: expected model to be a flax.nnx.Module, got {brief(model)}")
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    apply = _Nnx(type(model).__name__, graph, batched)
    return layer(apply, has_state=True), nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def from_equinox(module: Any, *, state: Any = None, draws: bool = False) -> tuple[layer, Any, Any]:
    """(layer, params, state) of an Equinox module, which is called with one example as Equinox's
    are.

    params are the module with None in place of all but floating-point arrays, as
    ``eqx.partition(module, eqx.is_inexact_array)`` gives it; the rest belongs to the layer. Put a
    module with batch norm or dropout into ``eqx.nn.inference_mode`` before.

    Args:
        module: The module, a callable (x) -> y.
        state: The ``eqx.nn.State`` of a module that is called as (x, state) -> (y, state).
        draws: Whether it is called with ``key=``, one for each example.

    Raises:
        TypeError: it is no Equinox module, or cannot be called.
    """
    import equinox

    if not isinstance(module, equinox.Module) or not callable(module):
        raise TypeError(
            f"from_equinox: expected module to be an equinox.Module that can be called, "
            f"got {brief(module)}"
        )
    params, rest = equinox.partition(module, equinox.is_inexact_array)
    apply = _Equinox(rest, state is not None, draws)
    return layer(apply, has_state=True, draws=draws), params, state


def to_model(own: layer, params: Any, state: Any) -> Any:
    """What the library that a layer comes from works with: the variables of a Linen module, the NNX
    or the Equinox module with these parameters.

    Raises:
        TypeError: the layer comes from none of them.
    """
    if not isinstance(own, layer) or not isinstance(own.apply, Model):
        raise TypeError(
            f"to_model: expected a layer of from_linen, from_nnx or from_equinox, got {brief(own)}"
        )
    return own.apply.model(params, state)


@dataclasses.dataclass(frozen=True, repr=False)
class _Linen(Model):
    module: Any
    batched: bool
    rngs: tuple[str, ...]
    method: Any
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, params: Any, state: Any, x: Any, key: Array | None = None) -> Any:
        options = dict(self.arguments) | {"method": self.method}
        if self.rngs:
            keys = jax.random.split(require_key(self.__name__, key), len(self.rngs))
            options["rngs"] = dict(zip(self.rngs, keys, strict=True))
        variables = self.model(params, state)
        return _in_batch(lambda x: self.module.apply(variables, x, **options), x, self.batched)

    def model(self, params: Any, state: Any) -> Any:
        return {"params": params, **state}

    @property
    def __name__(self) -> str:
        return type(self.module).__name__


@dataclasses.dataclass(frozen=True)
class _LinenStart:
    """The parameters and the state that the module makes itself."""

    own: _Linen

    def __call__(self, key: Array, x: Any) -> tuple[Any, Any]:
        streams = dict(zip(self.own.rngs, jax.random.split(key, len(self.own.rngs)), strict=True))
        one = x if self.own.batched else jax.tree.map(lambda a: a[0], x)
        arguments = dict(self.own.arguments) | {"method": self.own.method}
        variables = self.own.module.init({"params": key, **streams}, one, **arguments)
        return variables["params"], {n: v for n, v in variables.items() if n != "params"}


@dataclasses.dataclass(frozen=True, repr=False)
class _Nnx(Model):
    title: str
    graph: Any
    batched: bool

    def __call__(self, params: Any, state: Any, x: Any, key: Array | None = None) -> Any:
        return _in_batch(self.model(params, state), x, self.batched)

    def model(self, params: Any, state: Any) -> Any:
        from flax import nnx

        return nnx.merge(self.graph, nnx.State(params), nnx.State(state))

    @property
    def __name__(self) -> str:
        return self.title


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Equinox(Model):
    rest: Any
    """The module without its parameters: it may hold arrays, so that no other is equal to it."""
    has_state: bool
    draws: bool

    def __call__(self, params: Any, state: Any, x: Any, key: Array | None = None) -> Any:
        model = self.model(params, state)
        options = {"key": key} if self.draws else {}
        return model(x, state, **options)[0] if self.has_state else model(x, **options)

    def model(self, params: Any, state: Any) -> Any:
        import equinox

        return equinox.combine(params, self.rest)

    @property
    def __name__(self) -> str:
        return type(self.rest).__name__


def _in_batch(function: Callable, x: Any, batched: bool) -> Any:
    """``function`` of an example, or of a batch that it is all of."""
    if not batched:
        return function(x)
    y = function(jax.tree.map(lambda a: a[None], x))
    return jax.tree.map(lambda a: a[0], y)
