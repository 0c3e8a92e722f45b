"""Bases for layers of a simple form, and layers made of functions."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.core.validation import require_floating


class ParameterFree(Layer):
    """A layer without parameters, state or randomness: ``apply`` and ``pull_back``."""

    @abc.abstractmethod
    def apply(self, x: Any) -> tuple[Any, Any]:
        """(y, residuals)."""

    @abc.abstractmethod
    def pull_back(self, residuals: Any, dy: Any) -> Any:
        """dx."""

    def init(self, key: Array | None, x: Any):
        jax.eval_shape(self.apply, x)
        return (), ()

    def predict(self, params: Any, state: Any, x: Any):
        return self.apply(x)[0]

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        y, residuals = self.apply(x)
        return y, state, residuals

    def backward(self, params: Any, residuals: Any, dy: Any):
        return self.pull_back(residuals, dy), ()


class Pointwise(ParameterFree):
    """An activation y = f(x), element by element, with dx = f'(x) · dy.

    Its derivative is written in terms of y, by `slope_from_output`, so that no input has to be
    kept; or in terms of x, by `slope_from_input`, where y does not determine it.
    """

    @abc.abstractmethod
    def function(self, x: Array) -> Array:
        """f, whose autodiff derivative at a kink is the same as the slope given here."""

    def slope_from_output(self, y: Array) -> Array:
        """f'(x) written in terms of y."""
        raise NotImplementedError

    def slope_from_input(self, x: Array) -> Array:
        """f'(x) written in terms of x."""
        raise NotImplementedError

    def apply(self, x: Array):
        """f; keeps y or x."""
        require_floating(self.name, "x", x)
        y = self.function(x)
        return y, (y if self._by_output else x)

    def pull_back(self, residuals: Array, dy: Array):
        """f'(x) · dy."""
        slope = self.slope_from_output if self._by_output else self.slope_from_input
        return slope(residuals) * dy

    @property
    def _by_output(self) -> bool:
        return type(self).slope_from_output is not Pointwise.slope_from_output


class Around(Layer):
    """Base of what stands in the place of a layer: the same, but for what a subclass changes."""

    layer: Layer

    keeps: ClassVar[bool] = False
    """Whether its state holds more than the layer's: a policy of precision leaves that as it is."""

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def wide(self) -> bool:
        return self.layer.wide

    def init(self, key: Array | None, x: Any):
        return self.layer.init(key, x)

    def predict(self, params: Any, state: Any, x: Any):
        return self.layer.predict(params, state, x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        return self.layer.forward(params, state, x, key)

    def backward(self, params: Any, residuals: Any, dy: Any):
        return self.layer.backward(params, residuals, dy)


class LayerOfFunctions(Layer):
    """See `layer`."""

    title: str
    init_function: Callable
    forward_function: Callable
    backward_function: Callable
    predict_function: Callable | None = None

    @property
    def name(self) -> str:
        return self.title

    def init(self, key: Array | None, x: Any):
        return self.init_function(key, x)

    def predict(self, params: Any, state: Any, x: Any):
        if self.predict_function is None:
            return self.forward_function(params, state, x, None)[0]
        return self.predict_function(params, state, x)

    def forward(self, params: Any, state: Any, x: Any, key: Array | None):
        return self.forward_function(params, state, x, key)

    def backward(self, params: Any, residuals: Any, dy: Any):
        return self.backward_function(params, residuals, dy)


def layer(
    name: str,
    init: Callable,
    forward: Callable,
    backward: Callable,
    predict: Callable | None = None,
) -> Layer:
    """A layer made of functions, for one of your own with parameters or state.

    Args:
        name: For summaries and errors.
        init: (key, x) -> (params, state).
        forward: (params, state, x, key) -> (y, state, residuals).
        backward: (params, residuals, dy) -> (dx, captures).
        predict: (params, state, x) -> y; the forward pass without a key unless given.
    """
    return LayerOfFunctions(name, init, forward, backward, predict)


def parameter_free(name: str, forward: Callable, backward: Callable) -> Layer:
    """A layer without parameters, state or randomness.

    Args:
        name: For summaries and errors.
        forward: x -> (y, residuals).
        backward: (residuals, dy) -> dx.
    """

    def init(key: Array | None, x: Any):
        jax.eval_shape(forward, x)  # a shape that forward refuses is refused here
        return (), ()

    def train(params: Any, state: Any, x: Any, key: Array | None):
        y, residuals = forward(x)
        return y, state, residuals

    return layer(name, init, train, lambda params, residuals, dy: (backward(residuals, dy), ()))


class PointwiseOfFunctions(Pointwise):
    """See `pointwise`."""

    title: str
    own_function: Callable
    slope: Callable
    by_output: bool

    @property
    def name(self) -> str:
        return self.title

    @property
    def _by_output(self) -> bool:
        return self.by_output

    def function(self, x: Array) -> Array:
        return self.own_function(x)

    def slope_from_output(self, y: Array) -> Array:
        return self.slope(y)

    def slope_from_input(self, x: Array) -> Array:
        return self.slope(x)


def pointwise(
    name: str,
    function: Callable,
    *,
    slope_from_output: Callable | None = None,
    slope_from_input: Callable | None = None,
) -> Layer:
    """An activation y = f(x), element by element, with dx = f'(x) · dy.

    Args:
        name: For summaries and errors.
        function: f, whose autodiff derivative at a kink is the same as the slope given here.
        slope_from_output: f'(x) written in terms of y: no input has to be kept.
        slope_from_input: f'(x) written in terms of x, where y does not determine it.
    """
    slope = slope_from_output or slope_from_input
    if slope is None or (slope_from_output and slope_from_input):
        raise ValueError(f"{name}: expected one of slope_from_output and slope_from_input")
    return PointwiseOfFunctions(name, function, slope, slope_from_output is not None)
