"""Layers as modules of Flax NNX and Equinox, whose gradients are those of the layers themselves.

Optimisers, transformations and checkpoints of these libraries take such a module like any other;
`jax.grad` through it runs the backward pass by hand (see `differentiable`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.contract import Layer
from jaxnn.core.mixing import mixing_layers
from jaxnn.core.networks import in_inference_mode
from jaxnn.core.value import checked
from jaxnn.interop.functions import differentiable


def as_nnx_module(layer: Layer, x: Any, rngs: Any) -> Any:
    """A layer as a ``flax.nnx.Module``: y = module(x), for a whole batch.

    Its attribute ``params`` is the tree of `nnx.Param`, ``state`` that of `nnx.BatchStat`, which a
    call in training changes. ``model.eval()`` makes it the layer in inference, ``model.train()``
    back::

        class Model(nnx.Module):
            def __init__(self, x, rngs):
                self.body = as_nnx_module(serial(dense(64), batch_norm(), relu()), x, rngs)
                self.head = nnx.Linear(64, 10, rngs=rngs)

            def __call__(self, x):
                return self.head(self.body(x))

    Args:
        layer: Any layer or network.
        x: An input of the shapes and dtypes that it will have, of arrays or
            `jax.ShapeDtypeStruct`.
        rngs: `nnx.Rngs`: the stream ``params`` makes the parameters, ``dropout``, if there is one
            (or a default), is drawn from in training.

    Raises:
        ImportError: Flax is missing.
        TypeError: ``layer`` is not a layer.
    """
    checked("as_nnx_module", "layer", layer, Layer)
    return _nnx_class()(layer, x, rngs)


def as_equinox_module(layer: Layer, x: Any, key: Array, *, batch: bool = False) -> Any:
    """A layer as an ``equinox.Module``: y = module(x, key=key), for one example, to be vmapped.

    A layer with state is a ``equinox.nn.StatefulLayer``: y, state = module(x, state, key=key), and
    ``equinox.nn.make_with_state(as_equinox_module)(layer, x, key)`` makes it with its first state.
    ``equinox.nn.inference_mode`` makes it the layer in inference. Both kinds have their place in
    ``equinox.nn.Sequential``::

        body = as_equinox_module(serial(dense(64), layer_norm(), relu()), x[0], key)
        model = equinox.nn.Sequential([body, equinox.nn.Linear(64, 10, key=key)])
        y = jax.vmap(model)(x)

    Args:
        layer: Any layer or network.
        x: An input of the shapes and dtypes that it will have, of arrays or
            `jax.ShapeDtypeStruct`: one example, without the axis of the batch, unless ``batch``.
        key: Makes the parameters.
        batch: Whether the module is given whole batches, and not vmapped. A layer that mixes the
            examples in training, such as `batch_norm`, has to be.

    Raises:
        ImportError: Equinox is missing.
        TypeError: ``layer`` is not a layer.
        ValueError: on calling it in training, the layer mixes examples, and is given single ones.
    """
    checked("as_equinox_module", "layer", layer, Layer)
    return _equinox_class()(layer, x, key, batch)


@functools.cache
def _nnx_class() -> type:
    try:
        from flax import nnx
    except ImportError as error:
        raise ImportError("as_nnx_module needs Flax: pip install flax") from error

    def is_variable(node: Any) -> bool:
        return isinstance(node, nnx.Variable)

    def values(tree: Any) -> Any:
        return jax.tree.map(lambda variable: variable[...], tree, is_leaf=is_variable)

    class NNXModule(nnx.Module):
        """See `as_nnx_module`."""

        def __init__(self, layer: Layer, x: Any, rngs: Any):
            shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
            params, state = layer.init(rngs.params(), shapes)
            self.layer = layer
            self.params = nnx.data(jax.tree.map(nnx.Param, params))
            self.state = nnx.data(jax.tree.map(nnx.BatchStat, state))
            has_stream = "dropout" in rngs or "default" in rngs
            self.rngs = nnx.data(rngs["dropout"].fork() if has_stream else None)
            self.deterministic = False

        def __call__(self, x: Any) -> Any:
            params, state = values(self.params), values(self.state)
            if self.deterministic:
                resting = differentiable(in_inference_mode(self.layer), with_state=True)
                return resting(params, state, x)[0]
            key = None if self.rngs is None else self.rngs()
            y, state = differentiable(self.layer, with_state=True)(params, state, x, key)
            jax.tree.map(nnx.Variable.set_value, self.state, state, is_leaf=is_variable)
            return y

    return NNXModule


@functools.cache
def _equinox_class() -> type:
    try:
        import equinox as eqx
    except ImportError as error:
        raise ImportError("as_equinox_module needs Equinox: pip install equinox") from error

    class EquinoxModule(eqx.nn.StatefulLayer):
        """See `as_equinox_module`."""

        params: Any
        state: Any
        inference: bool
        layer: Layer = eqx.field(static=True)
        batch: bool = eqx.field(static=True)
        mixed_by: str | None = eqx.field(static=True)

        def __init__(self, layer: Layer, x: Any, key: Array, batch: bool):
            def shape(a: Any) -> Any:
                return jax.ShapeDtypeStruct(a.shape if batch else (1, *a.shape), a.dtype)

            shapes = jax.tree.map(shape, x)
            self.params, state = layer.init(key, shapes)
            self.state = eqx.nn.StateIndex(state) if jax.tree.leaves(state) else state
            self.inference = False
            self.layer, self.batch = layer, batch
            mixing = () if batch else mixing_layers(layer, self.params, state, shapes, key)
            self.mixed_by = next(iter(mixing), None)

        def is_stateful(self) -> bool:
            return isinstance(self.state, eqx.nn.StateIndex)

        def __call__(self, x: Any, state: Any = None, *, key: Array | None = None) -> Any:
            own = state.get(self.state) if self.is_stateful() else self.state
            if self.mixed_by and not self.inference:
                raise ValueError(
                    f"{self.layer.name}: expected batch=True in training, for whole batches in "
                    f"place of single examples, since {self.mixed_by} mixes them"
                )
            layer = in_inference_mode(self.layer) if self.inference else self.layer
            x = x if self.batch else jax.tree.map(lambda a: jnp.asarray(a)[None], x)
            y, own = differentiable(layer, with_state=True)(self.params, own, x, key)
            y = y if self.batch else jax.tree.map(lambda a: a[0], y)
            return (y, state.set(self.state, own)) if self.is_stateful() else y

    return EquinoxModule
