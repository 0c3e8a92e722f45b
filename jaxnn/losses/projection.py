"""The last dense layer of a large vocabulary and its cross-entropy, without all logits at once.

`projection` is a dense layer whose forward pass does not multiply: it hands on the factors of the
logits, x, W and b. `projected_cross_entropy` takes them and goes through the positions in blocks.
In one visit it computes the logits z = x W + b of a block, their losses, and what they add to the
gradient,

    dz = c (softmax(z) − onehot(t))     dx = dz Wᵀ     dW += xᵀ dz     db += Σ dz,

and forgets the logits. The factor c of each example (its weight in the mean of the batch) has to be
known then, since dW is a sum over examples: such a loss has `Loss.weighted_gradient`, and the layer
gives a gradient that is contracted already.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import ContractedCapture
from jaxnn.core.layer import Layer, Loss
from jaxnn.core.validation import require_array, require_positive_integer
from jaxnn.kernels.parts import map_parts, on_each_part
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.dense import dense
from jaxnn.losses.losses import softmax_cross_entropy
from jaxnn.losses.sequences import read_target, sequence_loss, shares_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Factors:
    """Logits x W + b not yet multiplied; of the same form is the gradient by them."""

    x: Any
    """[batch, *positions, features]."""
    params: Any
    """{"weight": [features, classes], "bias": [classes]} as a dense layer has them."""


def projection(features: int, **options: Any) -> Layer:
    """A `dense` layer, y = x W + b, for `projected_cross_entropy`.

    Inference returns y. Training returns the `Factors` x, W and b, so that the loss need not hold
    y, and its capture is contracted: quantities of single examples refuse it, but can be had of
    ``in_inference_mode(network)``, where this is the dense layer. ``options`` are those of `dense`.
    """
    layer = dense(features, **options)

    def forward(params: dict, state: Any, x: Array, key: Array | None):
        jax.eval_shape(layer.predict, params, state, x)  # refuses what does not fit
        return Factors(x, params), state, ()

    def backward(params: dict, residuals: Any, dy: Factors):
        return dy.x, ContractedCapture(dy.params, layer="projection")

    inference = layer._replace(name="projection")
    return Layer(layer.init, layer.predict, forward, backward, "projection", inference=inference)


def projected_cross_entropy(block: int = 256) -> Loss:
    """`softmax_cross_entropy` with integer labels, of logits or of a `projection`'s factors.

    The target is labels [batch, *positions], of which an example's loss is the mean; or, for
    sequences with padding, a tuple (labels, lengths or mask) as `sequence_loss` takes it, for the
    mean over the real positions.

    Of factors, at most ``block`` positions · classes logits are held at a time, and they are
    computed once for the loss and its gradient together. A label outside of the classes adds
    nothing to loss and gradient, as for `softmax_cross_entropy`.

    Args:
        block: How many positions are taken at once.

    Raises:
        ValueError: ``block`` is not positive, or the labels are not [batch, *positions].
        TypeError: the target is not made of integers.
    """
    require_positive_integer("projected_cross_entropy", "block", block)
    of_logits = softmax_cross_entropy()
    padded = sequence_loss(of_logits)

    def whole(target: Any):
        return padded if isinstance(target, tuple) else of_logits

    def value(prediction: Any, target: Any):
        if not isinstance(prediction, Factors):
            return whole(target).value(prediction, target)
        prediction, labels, shares = _read(prediction, target)
        weight, bias = _weight_and_bias(prediction)

        def of_block(rows: tuple):
            x, labels = rows
            return _losses(_logits(x, weight, bias), labels)

        def of_part(x: Array, labels: Array, shares: Array):
            return _by_example(jax.lax.map(of_block, _cut(x, labels, block)), shares)

        return map_parts(of_part, prediction.x, labels, shares)

    def gradient(prediction: Any, target: Any):
        if not isinstance(prediction, Factors):
            return whole(target).gradient(prediction, target)
        raise TypeError(
            "projected_cross_entropy: expected logits, got the factors of a projection, whose "
            "parameters have no gradient for each example; take in_inference_mode(network)"
        )

    def weighted_gradient(prediction: Any, target: Any, factors: Array):
        """(losses, gradient of Σ factors[b] l_b by the factors of the logits)."""
        if not isinstance(prediction, Factors):
            delta = whole(target).gradient(prediction, target)
            return whole(target).value(prediction, target), delta * _expand(factors, delta.ndim)
        prediction, all_labels, shares = _read(prediction, target)
        weight, bias = _weight_and_bias(prediction)
        weighted = shares * _expand(factors, shares.ndim)
        wide = sum_dtype(weight.dtype)

        def body(total: tuple, rows: tuple):
            x, labels, share = rows
            z = _logits(x, weight, bias)
            known = (labels >= 0) & (labels < z.shape[-1])
            hit = jax.lax.broadcasted_iota(labels.dtype, z.shape, 1) == labels[:, None]
            share = jnp.where(known, share, 0)[:, None]
            dz = ((jax.nn.softmax(z) - hit) * share).astype(x.dtype)
            dweight = jnp.matmul(x.T, dz, preferred_element_type=wide)
            total = (total[0] + dweight, total[1] + jnp.sum(dz, 0, dtype=wide))
            return total, (_losses(z, labels), dz @ weight.T)

        def of_part(x: Array, labels: Array, shares: Array, weighted: Array):
            start = (jnp.zeros(weight.shape, wide), jnp.zeros(weight.shape[1:], wide))
            rows = (*_cut(x, labels, block), _blocks(weighted.reshape(-1), block))
            total, (losses, dx) = jax.lax.scan(body, start, rows)
            dx = dx.reshape(-1, weight.shape[0])[: shares.size].reshape(x.shape)
            return (_by_example(losses, shares), dx), total

        (losses, dx), (dweight, dbias) = on_each_part(
            of_part, prediction.x, all_labels, shares, weighted
        )
        gradients = {"weight": dweight.astype(weight.dtype)}
        if bias is not None:
            gradients["bias"] = dbias.astype(weight.dtype)
        return losses, Factors(dx, gradients)

    return Loss(
        value,
        gradient,
        "projected_cross_entropy",
        hessian_root=lambda y, target, v: cast(Callable, whole(target).hessian_root)(y, target, v),
        weighted_gradient=weighted_gradient,
    )


def _logits(x: Array, weight: Array, bias: Array | None) -> Array:
    z = jnp.matmul(x, weight, preferred_element_type=sum_dtype(x.dtype))
    return z if bias is None else z + bias


def _losses(z: Array, labels: Array) -> Array:
    """[rows], log Σ eᶻ − z_label; 0 for a label outside of the classes."""
    known = (labels >= 0) & (labels < z.shape[-1])
    at_label = jnp.take_along_axis(z, jnp.where(known, labels, 0)[:, None], -1)[:, 0]
    return jnp.where(known, jax.nn.logsumexp(z, -1) - at_label, 0)


def _cut(x: Array, target: Array, block: int) -> tuple[Array, Array]:
    """x [blocks, block, features] and labels [blocks, block]; added rows have the label −1."""
    x = x.reshape(-1, x.shape[-1])
    return _blocks(x, block), _blocks(target.reshape(-1), block, -1)


def _blocks(rows: Array, block: int, fill: int = 0) -> Array:
    block = max(min(block, len(rows)), 1)
    pad = [(0, -len(rows) % block)] + [(0, 0)] * (rows.ndim - 1)
    padded = jnp.pad(rows, pad, constant_values=fill)
    return padded.reshape(-1, block, *rows.shape[1:])


def _by_example(losses: Array, shares: Array) -> Array:
    """[batch], the losses of the positions by what each counts."""
    rows = losses.reshape(-1)[: shares.size].reshape(shares.shape)
    return jnp.sum(rows * shares, range(1, rows.ndim))


def _weight_and_bias(prediction: Factors) -> tuple[Array, Array | None]:
    return prediction.params["weight"], prediction.params.get("bias")


def _expand(factors: Array, rank: int) -> Array:
    return jnp.expand_dims(factors, range(1, rank))


def _read(prediction: Factors, target: Any) -> tuple[Factors, Array, Array]:
    """Factors, labels and shares [batch, *positions]; the label of padding is −1, its x is 0."""
    name, x = "projected_cross_entropy", prediction.x
    mask = None
    if isinstance(target, tuple):
        target, mask = read_target(name, x, target)
    require_array(name, "target", target)
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise TypeError(f"{name}: expected target to be integer labels, got {target.dtype}")
    if target.shape != x.shape[:-1]:
        raise ValueError(
            f"{name}: expected labels of shape {x.shape[:-1]}, one for each position, "
            f"got {target.shape}"
        )
    if mask is None:
        shares = jnp.full(target.shape, 1 / max(math.prod(target.shape[1:]), 1), x.dtype)
        return prediction, target, shares
    cleared = Factors(jnp.where(mask[..., None], x, 0), prediction.params)
    return cleared, jnp.where(mask, target, -1), shares_of(mask, x.dtype)
