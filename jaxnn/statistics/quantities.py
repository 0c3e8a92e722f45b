"""Quantities: functions of captures, alone or several of one pass."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from jaxnn.core.captures import contract_for
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import backward_pass, present, require_weights, weighted_mean
from jaxnn.core.mixing import require_apart, require_loss_apart
from jaxnn.core.validation import brief, unknown_name
from jaxnn.statistics.trees import (
    require_examples_apart,
    scaled,
    shares_of,
    widened,
    without,
)


def own_captures(where: str, network: Layer, loss: Loss) -> Callable:
    """(params, state, x, target, key=None, weights=None) -> captures of each example's own loss.

    ``where`` is the name of the quantity, for errors. Weights are not multiplied in: they say which
    examples, those of weight 0, another one stands in for.
    """
    require_loss_apart(where, loss)
    run = backward_pass(network, loss)

    def captures(params, state, x, target, key=None, weights=None):
        require_apart(where, network, params, state, x, key)
        require_loss_apart(where, loss, network, params, state, x, target, key)
        result = run(params, state, *present(weights, (x, target)), key)
        require_weights(weights, result.values)
        return result.captures

    return captures


class Quantity:
    """What one function of captures says, alone, of a network, and beside others.

    Made by `quantity`. ``q.of(captures, weights=None, **options)`` is the function itself, and
    ``q(network, loss, **options)`` is (params, state, x, target, key=None, weights=None) -> result,
    which makes the pass whose captures it takes. Options are those of the function and of the pass.

    Raises:
        TypeError: on giving it options, there is none of that name.
        ValueError: on calling it, a layer mixes the examples of a batch, as batch norm does in
            training, or gives its gradient already contracted.
    """

    __name__: str

    def __init__(self, function: Callable, captures_of: Callable, options: dict[str, Any]):
        functools.update_wrapper(self, function)
        self._function, self._captures_of, self._options = function, captures_of, options

    def __repr__(self) -> str:
        return f"<quantity {self.__name__}{self._options or ''}>"

    def of(self, captures: Any, weights: Array | None = None, **options: Any) -> Any:
        """What the function says of captures of each example's own loss, whatever they hold of an
        example of weight 0."""
        require_examples_apart(self.__name__, captures)
        if weights is not None:
            captures = without(captures, weights == 0)
        return self._function(captures, weights, **_for(self._function, self._options) | options)

    def with_options(self, **options: Any) -> "Quantity":
        """The quantity with other defaults, as `measure` takes it."""
        known = (*_names(self._function), *_names(self._captures_of))
        for name in options:
            if name not in known:
                raise TypeError(f"{self.__name__}: {unknown_name('option', name, known)}")
        return type(self)(self._function, self._captures_of, self._options | options)

    def __call__(self, network: Layer, loss: Loss, **options: Any) -> Callable:
        """(params, state, x, target, key=None, weights=None) -> result."""
        own = self.with_options(**options)
        run = own.make_pass(self.__name__, network, loss)

        def compute(params, state, x, target, key=None, weights=None):
            return own.of(run(params, state, x, target, key, weights), weights)

        return compute

    @property
    def source(self) -> tuple:
        """What says which pass it takes: quantities with equal ones take the same."""
        return self._captures_of, *sorted(_for(self._captures_of, self._options).items())

    def make_pass(self, where: str, network: Layer, loss: Loss) -> Callable:
        """(params, state, x, target, key=None, weights=None) -> the captures that it takes."""
        options = _for(self._captures_of, self._options)
        return self._captures_of(where, network, loss, **options)


def quantity(function: Callable | None = None, *, captures_of: Callable = own_captures) -> Any:
    """A decorator that makes a `Quantity` of (captures, weights=None, *, options…) -> result.

        @quantity
        def largest_norm(captures, weights=None):
            return jnp.max(per_example_squared_norms.of(captures, weights))

    The captures are those of each example's own loss, and ``weights`` [batch] what each counts: the
    function gives it its meaning, as a factor or as a share of a mean.

    Args:
        function: The function.
        captures_of: (where, network, loss, *, options…) -> (params, state, x, target, key=None,
            weights=None) -> captures: which captures it takes.
    """
    if function is None:
        return functools.partial(quantity, captures_of=captures_of)
    return Quantity(function, captures_of, {})


class Measured(NamedTuple):
    """The value of a gradient function that measures."""

    loss: Array
    """The weighted mean of the losses."""
    measures: dict[str, Any]
    """What was measured, by name."""


def measure(network: Layer, loss: Loss, /, **quantities: Quantity) -> Callable:
    """(params, state, x, target, key=None, weights=None) -> {name: result}, from one pass.

        measure(network, loss, norms=per_example_squared_norms, variance=gradient_variance)

    Those of the columns of a Hessian root take a pass of their own.

    Raises:
        TypeError: one of them is no `Quantity`.
        ValueError: as of a `Quantity`.
    """
    passes = _passes("measure", network, loss, quantities)

    def compute(params, state, x, target, key=None, weights=None):
        arguments = (params, state, x, target, key, weights)
        return _all_of(quantities, {s: run(*arguments) for s, run in passes.items()}, weights)

    return compute


def measuring(network: Layer, loss: Loss, /, **quantities: Quantity) -> Callable:
    """The gradient function of `jaxnn.backprop` whose value is `Measured`: what `measure` gives,
    of the captures of the very pass that gives the gradient.

    Raises:
        TypeError, ValueError: as `measure`.
    """
    require_loss_apart("measuring", loss)
    passes = _passes("measuring", network, loss, quantities)
    passes.pop(_OWN, None)
    run = backward_pass(network, loss)

    def gradient(params, state, x, target, key=None, weights=None):
        require_apart("measuring", network, params, state, x, key)
        require_loss_apart("measuring", loss, network, params, state, x, target, key)
        arguments = (params, state, x, target, key, weights)
        result = run(params, state, *present(weights, (x, target)), key)
        require_weights(weights, result.values)
        captures = {s: other(*arguments) for s, other in passes.items()}
        captures[_OWN] = result.captures
        value = Measured(
            weighted_mean(result.values, weights), _all_of(quantities, captures, weights)
        )
        # The shares of a large batch may be no numbers of half precision.
        own = widened(result.captures)
        return (value, result.state), contract_for(params, scaled(own, shares_of(own, weights)))

    return gradient


_OWN = (own_captures,)


def _passes(where: str, network: Layer, loss: Loss, quantities: dict) -> dict[tuple, Callable]:
    """A pass for each source of captures that a quantity takes."""
    for name, one in quantities.items():
        if not isinstance(one, Quantity):
            raise TypeError(
                f"{where}: expected {name} to be a Quantity, such as gradient_variance or a "
                f"function of captures under @quantity, got {brief(one)}"
            )
    return {q.source: q.make_pass(where, network, loss) for q in quantities.values()}


def _all_of(quantities: dict, captures: dict[tuple, Any], weights: Array | None) -> dict[str, Any]:
    return {name: q.of(captures[q.source], weights) for name, q in quantities.items()}


def _names(function: Callable) -> list[str]:
    """The options of a function: its arguments that are given by name alone."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _for(function: Callable, options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _names(function) if name in options}
