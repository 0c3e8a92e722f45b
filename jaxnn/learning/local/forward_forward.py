"""Forward-forward: every stage learns by itself to tell data from what is none."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.combinators import serial
from jaxnn.core.gradients import of_present, present, require_weights, shares, weighted_mean
from jaxnn.core.validation import (
    require_array,
    require_floating,
    require_integer,
    require_key,
    require_positive,
    require_range,
)
from jaxnn.kernels.products import add_all, sum_dtype
from jaxnn.learning.local.rule import Rule
from jaxnn.learning.local.stages import gradients_of, run_through


def _require_classes(where: str, name: str, value: Any) -> int:
    """Without a second class no label is wrong."""
    return require_integer(where, name, value, 2)


class forward_forward(Rule):
    """Two forward passes, of data and of wrong data, and no backward pass (Hinton, 2022).

    The goodness of a stage's activity is g = mean h². An example is taken for a right one with the
    probability σ((g − θ) / T), and each stage descends the cross-entropy of that alone, for right
    and for wrong examples: with the sign s = ±1 its loss is ln(1 + exp(−s (g − θ) / T)) and

        ∂l/∂h = −s σ(−s (g − θ) / T) / T · 2 h / size of h

    which no stage hands on. A label is one-hot, put before the features; wrong examples have
    another, drawn uniformly. The prediction of a class is the goodness of all stages but the first,
    summed, with that class as the label. Between stages the length of h, which would tell the next
    one what this one has found, is taken away by a layer of the network:

        between = rms_norm(use_scale=False)
        forward_forward(serial(dense(500), relu(), between, dense(500), relu()), 10)

    Its params are drawn for `labelled` inputs. Targets are labels, and training needs a key.

    Args:
        network: See `Rule`; of x [batch, classes + features].
        classes: How many there are, at least two.
        threshold: θ.
        temperature: T.
        label_scale: What the label has in place of 1.

    Raises:
        ValueError: x is not [batch, features], targets are not integers [batch] in 0 … classes − 1,
            or there is no key; as `Rule`.
    """

    network: serial
    classes: Annotated[int, _require_classes]
    threshold: Annotated[float, require_positive] = 1.0
    temperature: Annotated[float, require_positive] = 0.1
    label_scale: Annotated[float, require_positive] = 3.0

    def labelled(self, x: Array, labels: Array) -> Array:
        """[batch, classes + features]: the input of the network."""
        require_array(self.name, "x", x)
        require_floating(self.name, "x", x)
        if x.ndim != 2:
            raise ValueError(f"{self.name}: expected x [batch, features], got shape {x.shape}")
        require_array(self.name, "labels", labels)
        if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != x.shape[:1]:
            raise ValueError(
                f"{self.name}: expected labels to be one integer for each of {x.shape[0]} "
                f"examples, got {labels.dtype} of shape {labels.shape}"
            )
        require_range(self.name, "labels", labels, 0, self.classes - 1, ", the classes")
        one_hot = jax.nn.one_hot(labels, self.classes, dtype=x.dtype)
        return jnp.concatenate([self.label_scale * one_hot, x], 1)

    def update(self, params, state, x, target, key, weights) -> tuple[Array, Any]:
        value, found = self._losses(params, state, x, target, key, weights)
        stages, h, kept, signs, goodness = found
        batch = x.shape[0]
        factors = shares(weights, jax.ShapeDtypeStruct((batch,), goodness[0].dtype))
        captures = []
        for stage, own, residuals, g in zip(stages, h, kept, goodness, strict=True):
            slope = -signs * jax.nn.sigmoid(-signs * self._margin(g)) / self.temperature
            slope = (slope * 2 / math.prod(own.shape[1:])).astype(own.dtype)
            delta = jnp.expand_dims(slope, tuple(range(1, own.ndim))) * own
            captures.append(stage.backward(residuals, delta)[1])
        twice = jnp.concatenate([factors, factors])
        return value, gradients_of(self.network, params, stages, captures, twice)

    def objective(self, params, state, x, target, key=None, weights=None) -> Array:
        return self._losses(params, state, x, target, key, weights)[0]

    def predict(self, params: Any, state: Any, x: Any) -> Any:
        """[batch, classes], the goodness with each class as the label, in at least float32."""

        def of_class(number: Array) -> Array:
            given = self.labelled(x, jnp.full(x.shape[0], number))
            stages = self.stages_at_rest(params, state)
            goodness = [_goodness(h) for h in run_through(stages, given)[0]]
            return add_all(*(goodness[1:] or goodness))

        return jax.lax.map(of_class, jnp.arange(self.classes)).T

    def _losses(self, params, state, x, target, key, weights) -> tuple[Array, tuple]:
        key = require_key(self.name, key)
        x, target = present(weights, (x, target))
        drawn_key, own_key = jax.random.split(key)
        right = self.labelled(x, target)
        other = jax.random.randint(drawn_key, target.shape, 1, self.classes)
        wrong = (target.astype(jnp.int32) + other) % self.classes
        both = jnp.concatenate([right, self.labelled(x, wrong)])
        stages = self.stages(params, state, both, own_key)
        h, kept = run_through(stages, both)
        signs = jnp.repeat(jnp.array([1.0, -1.0]), x.shape[0])
        goodness = [_goodness(own) for own in h]
        losses = [jax.nn.softplus(-signs * self._margin(g)) for g in goodness]
        values = add_all(*losses).reshape(2, -1).sum(0).astype(x.dtype)
        require_weights(weights, values)
        value = weighted_mean(of_present(weights, values), weights)
        return value, (stages, h, kept, signs, goodness)

    def _margin(self, goodness: Array) -> Array:
        return (goodness - self.threshold) / self.temperature


def _goodness(h: Array) -> Array:
    wide = h.astype(sum_dtype(h.dtype))
    return jnp.mean(wide * wide, tuple(range(1, h.ndim)))
