"""The last dense layer of a large vocabulary and its cross-entropy, without all logits at once.

`projection` is a dense layer whose forward pass does not multiply: it hands on the factors of the
logits, x, W and b. `projected_cross_entropy` takes them and goes through the positions in blocks.
In one visit it computes the logits z = x W + b of a block, their losses, and what they add to the
gradient,

    dz = c (softmax(z) − onehot(t))     dx = dz Wᵀ     dW += xᵀ dz     db += Σ dz,

and forgets the logits. The factor c of each example (its weight in the mean of the batch) has to be
known then, since dW is a sum over examples: such a loss has `Loss.weighted` alone, and the layer
gives a gradient that is contracted already.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import ContractedCapture
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.pytrees import register_dataclass
from jaxnn.core.task import of_labels
from jaxnn.core.validation import require_array, require_positive_integer
from jaxnn.kernels.parts import map_parts, on_each_part
from jaxnn.kernels.products import sum_dtype
from jaxnn.layers.dense import Affine, dense
from jaxnn.losses.classification import softmax_cross_entropy
from jaxnn.losses.sequences import read_target, sequence_loss, shares_of
from jaxnn.losses.targets import OfWeightedLabels, is_integer, over, row_of, size


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Factors:
    """Logits x W + b not yet multiplied; of the same form is the gradient by them."""

    x: Any
    """[batch, *positions, features]."""
    params: Any
    """{"weight": [features, classes], "bias": [classes]} as a dense layer has them."""


class projection(Affine):
    """A `dense` layer, y = x W + b, for `projected_cross_entropy`; its arguments are those of it.

    Inference returns y. Training returns the `Factors` x, W and b, so that the loss need not hold
    y, and its capture is contracted: quantities of single examples refuse it, but can be had of
    ``in_inference_mode(network)``, where this is the dense layer.
    """

    def at_rest(self) -> Layer:
        return projection_at_rest(
            self.features,
            use_bias=self.use_bias,
            weight_init=self.weight_init,
            bias_init=self.bias_init,
        )

    def init(self, key: Array | None, x: Any):
        return self.at_rest().init(key, x)

    def predict(self, params: Any, state: Any, x: Any):
        return self.at_rest().predict(params, state, x)

    def forward(self, params: dict, state: Any, x: Array, key: Array | None):
        jax.eval_shape(self.at_rest().predict, params, state, x)  # refuses what does not fit
        return Factors(x, params), state, ()

    def backward(self, params: dict, residuals: Any, dy: Factors):
        return dy.x, ContractedCapture(dy.params, layer="projection")


class projection_at_rest(dense):
    """The dense layer of a `projection`, under its name."""

    @property
    def name(self) -> str:
        return "projection"


class projected_cross_entropy(OfWeightedLabels):
    """`softmax_cross_entropy` with integer labels, of logits or of a `projection`'s factors.

    The target is labels [batch, *positions], of which an example's loss is the mean; or, for
    sequences with padding, a tuple (labels, lengths or mask) as `sequence_loss` takes it, for the
    mean over the real positions.

    Of factors, at most ``block`` positions · classes logits are held at a time, and they are
    computed once for the loss and its gradient together. A label that is no class is treated as by
    `softmax_cross_entropy`.

    Args:
        block: How many positions are taken at once.

    Raises:
        ValueError: ``block`` is not positive, or the labels are not [batch, *positions].
        TypeError: the target is not made of integers.
    """

    block: Annotated[int, require_positive_integer] = 256

    def value(self, prediction: Any, target: Any):
        if not isinstance(prediction, Factors):
            return self._of_logits(target).value(prediction, target)
        x, labels, shares = self._read(prediction, target)
        weight, bias = _weight_and_bias(prediction)

        def of_block(rows: tuple):
            x, labels = rows
            return _losses(_logits(x, weight, bias), labels)

        def of_part(x: Array, labels: Array, shares: Array):
            return _by_example(jax.lax.map(of_block, _cut(x, labels, self.block)), shares)

        return map_parts(of_part, x, labels, shares)

    def gradient(self, prediction: Any, target: Any):
        if not isinstance(prediction, Factors):
            return self._of_logits(target).gradient(prediction, target)
        raise TypeError(
            "projected_cross_entropy: expected logits, got the factors of a projection, whose "
            "parameters have no gradient for each example; take in_inference_mode(network)"
        )

    def weighted(self, prediction: Any, target: Any, factors: Array):
        """(losses, gradient of Σ factors[b] l_b by the factors of the logits)."""
        if not isinstance(prediction, Factors):
            return self._of_logits(target).weighted(prediction, target, factors)
        x, all_labels, shares = self._read(prediction, target)
        weight, bias = _weight_and_bias(prediction)
        weighted = shares * over(factors, shares.ndim)
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
            rows = (*_cut(x, labels, self.block), _blocks(weighted.reshape(-1), self.block))
            total, (losses, dx) = jax.lax.scan(body, start, rows)
            dx = dx.reshape(-1, weight.shape[0])[: shares.size].reshape(x.shape)
            return (_by_example(losses, shares), dx), total

        (losses, dx), (dweight, dbias) = on_each_part(of_part, x, all_labels, shares, weighted)
        gradients = {"weight": dweight.astype(weight.dtype)}
        if bias is not None:
            gradients["bias"] = dbias.astype(weight.dtype)
        return losses, Factors(dx, gradients)

    @property
    def root_known(self) -> bool:
        return True

    def hessian_root(self, prediction: Any, target: Any, v: Any):
        return self._of_logits(target).hessian_root(prediction, target, v)

    def task(self, classes: int):
        return of_labels(self.name, classes, jax.nn.softmax)

    def _of_logits(self, target: Any) -> Loss:
        loss = softmax_cross_entropy(
            ignore_index=self.ignore_index, class_weights=self.class_weights
        )
        return sequence_loss(loss) if isinstance(target, tuple) else loss

    def _read(self, prediction: Factors, target: Any) -> tuple[Array, Array, Array]:
        """x, labels and shares [batch, *positions]; what does not count has the label −1, x 0."""
        name, x, mask = self.name, prediction.x, None
        if isinstance(target, tuple):
            target, mask = read_target(name, x, target)
        require_array(name, "target", target)
        if not is_integer(target):
            raise TypeError(f"{name}: expected target to be integer labels, got {target.dtype}")
        if tuple(target.shape) != x.shape[:-1]:
            raise ValueError(
                f"{name}: expected labels of shape {x.shape[:-1]}, one for each position, "
                f"got {target.shape}"
            )
        counted, dtype = self.counted(target), sum_dtype(x.dtype)
        if mask is not None:  # padding may hold anything
            target = jnp.where(mask, target, jnp.zeros((), target.dtype))
            counted = mask if counted is None else mask & counted
        classes = prediction.params["weight"].shape[1]
        labels = self.read_labels(target, classes)
        if counted is None:
            shares = jnp.full(labels.shape, 1 / size(labels.shape[1:]), dtype)
        else:
            x, labels = jnp.where(counted[..., None], x, 0), jnp.where(counted, labels, -1)
            shares = shares_of(counted, dtype)
        if self.class_weights is not None:
            row = row_of(name, "class_weights", self.class_weights, classes, dtype)
            shares = shares * row[jnp.clip(labels, 0, classes - 1)]  # others have no loss
        return x, labels, shares


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
