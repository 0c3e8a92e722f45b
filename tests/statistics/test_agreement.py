"""Every statistic against its direct definition by autodiff, on networks of every kind of layer."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from jax.flatten_util import ravel_pytree

import jaxnn as nn
from jaxnn import statistics

BATCH = 4
LABELS = jnp.array([0, 2, 1, 1])
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0])


@nn.register_dataclass
@dataclasses.dataclass(frozen=True)
class GainCapture(nn.Capture):
    """A capture of one's own, of which nothing but the least is known."""

    outputs: jax.Array  # [batch, features]
    others: jax.Array  # [batch, features]

    def gradient(self):
        return {"gain": jnp.sum(self.outputs * self.others, 0)}

    def join(self, *others):
        raise NotImplementedError

    def map_deltas(self, function):
        return GainCapture(self.outputs, function(self.others))


def gain():
    """y = x · e^gain, feature by feature."""

    def init(key, x):
        return {"gain": jnp.zeros(x.shape[1:], x.dtype)}, ()

    def forward(params, state, x, key):
        y = x * jnp.exp(params["gain"])
        return y, state, y

    def backward(params, residuals, dy):
        return dy * jnp.exp(params["gain"]), GainCapture(residuals, dy)

    return nn.layer("gain", init, forward, backward)


def images():
    return normal(1, (BATCH, 6, 6, 2))


CASES = {
    "dense": (
        nn.serial(nn.dense(4), nn.tanh(), nn.layer_norm(), nn.dense(3, use_bias=False)),
        nn.softmax_cross_entropy(0.1),
        lambda: (normal(1, (BATCH, 5)), LABELS),
    ),
    "positions": (
        nn.serial(nn.embedding(6, 4), nn.layer_norm(), nn.dense(3), nn.sigmoid(), nn.dense(3)),
        nn.softmax_cross_entropy(),
        lambda: (
            jnp.array([[0, 1, 1], [5, 5, 5], [2, 0, 2], [1, 3, 4]]),
            jnp.array([[0, 1, 2], [1, 1, 0], [2, 2, 2], [0, 0, 1]]),
        ),
    ),
    "convolution": (
        nn.serial(
            nn.conv(4, (3, 3)),
            nn.group_norm(2),
            nn.relu(),
            nn.max_pool(2),
            nn.conv(4, (3, 3), groups=2, padding="VALID"),
            nn.conv_transpose(2, (2, 2), strides=2),
            nn.flatten(),
            nn.dense(2),
        ),
        nn.mean_squared_error(),
        lambda: (images(), normal(2, (BATCH, 2))),
    ),
    "repeat, share and skip": (
        nn.serial(
            nn.fork(nn.tanh(), nn.sigmoid()),
            nn.share(nn.serial(nn.dense(4), nn.tanh())),
            nn.add(),
            nn.repeat(nn.skip(nn.dense(4), nn.tanh(), nn.layer_norm()), 2),
            nn.dense(2),
        ),
        nn.sigmoid_binary_cross_entropy(),
        lambda: (normal(1, (BATCH, 3)), jnp.array([[0, 1], [1, 1], [0, 0], [1, 0]])),
    ),
    "a capture of one's own": (
        nn.serial(nn.dense(3), nn.repeat(nn.serial(gain(), nn.tanh()), 2), gain()),
        nn.softmax_cross_entropy(),
        lambda: (normal(1, (BATCH, 4)), LABELS),
    ),
    "inference mode": (
        nn.in_inference_mode(
            nn.serial(nn.dense(4), nn.batch_norm(), nn.dropout(0.5), nn.tanh(), nn.dense(3))
        ),
        nn.half_squared_error(),
        lambda: (normal(1, (BATCH, 5)), normal(2, (BATCH, 3))),
    ),
}


@cache
def problem(name):
    network, loss, batch = CASES[name]
    x, target = batch()
    params, state = started(network, x)
    return network, loss, params, state, x, target


@cache
def direct(name):
    """Per-example gradients [batch, P], Jacobians [batch, K, P], loss Hessians [batch, K, K]."""
    network, loss, params, state, x, target = problem(name)
    flat = jnp.asarray(flattened(params))

    def predict(flat, example):
        return network.forward(ravel_pytree(params)[1](flat), state, example[None], None)[0][0]

    def own_loss(prediction, t):
        return loss.value(prediction[None], t[None])[0]

    def of_example(example, t):
        prediction = predict(flat, example)
        size = prediction.size
        jacobian = jax.jacrev(lambda flat: predict(flat, example).ravel())(flat)
        hessian = jax.hessian(own_loss)(prediction, t).reshape(size, size)
        gradient = jax.grad(lambda flat: own_loss(predict(flat, example), t))(flat)
        return gradient, jacobian, hessian

    return [np.asarray(a) for a in jax.jit(jax.vmap(of_example))(x, target)]


def flattened(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def unflattened(name, flat):
    """A tree like the params of arrays of which the last axis holds them all, flattened."""
    leaves, treedef = jax.tree.flatten(problem(name)[2])
    parts = np.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1], -1)
    return treedef.unflatten(
        part.reshape(*flat.shape[:-1], *leaf.shape)
        for part, leaf in zip(parts, leaves, strict=True)
    )


@cache
def computed(name):
    """All statistics, from one program."""
    network, loss, params, state, x, target = problem(name)
    weights = jnp.asarray(WEIGHTS)
    vector = jax.tree.map(np.cos, params)

    def everything(params, state, x, target, weights, vector):
        arguments = (params, state, x, target)
        result = nn.backward_pass(network, loss)(*arguments)
        norms = statistics.per_example_squared_norms
        return {
            "gradients": statistics.per_example_gradients.of(result.captures),
            "norms": norms.of(result.captures),
            "norms by parameter": norms(network, loss, per_parameter=True)(*arguments),
            "weighted norms": norms(network, loss)(*arguments, weights=weights),
            "dot products": statistics.dot_products(network, loss)(*arguments),
            "products with a vector": statistics.products_with(result.captures, vector),
            "second moment": statistics.gradient_second_moment(network, loss)(*arguments),
            "weighted variance": statistics.gradient_variance(network, loss)(
                *arguments, weights=weights
            ),
            "signal to noise": statistics.gradient_signal_to_noise(network, loss)(*arguments),
            "noise scale": statistics.gradient_noise_scale(network, loss)(*arguments),
            "weighted ggn diagonal": statistics.diagonal_ggn(network, loss)(
                *arguments, weights=weights
            ),
            "ggn product": statistics.ggn_vector_product(network, loss)(
                vector, *arguments, weights=weights
            ),
            "fisher": statistics.fisher_information(network, loss)(*arguments, weights=weights),
            "empirical fisher": statistics.fisher_information(network, loss, empirical=True)(
                *arguments
            ),
            "kernel": statistics.empirical_ntk(network)(params, state, x),
        }

    return jax.jit(everything)(params, state, x, target, weights, vector)


def expected(name, quantity):
    """The quantity by its definition, from what autodiff gives."""
    unravel = partial(unflattened, name)
    gradients, jacobians, hessians = direct(name)
    plain, weighted = np.full(BATCH, 1 / BATCH), WEIGHTS / WEIGHTS.sum()
    vector = np.cos(flattened(problem(name)[2]))

    def ggn(shares):
        return np.einsum("b,bkp,bkl,blq->pq", shares, jacobians, hessians, jacobians)

    def moment(shares):
        return shares @ gradients**2

    def variance(shares):
        return shares @ (gradients - shares @ gradients) ** 2

    mean = gradients.mean(0)
    trace = ((gradients - mean) ** 2).sum() / (BATCH - 1)
    return {
        "gradients": lambda: unravel(gradients),
        "norms": lambda: (gradients**2).sum(1),
        "norms by parameter": lambda: jax.tree.map(
            lambda g: (g**2).reshape(BATCH, -1).sum(1), unravel(gradients)
        ),
        "weighted norms": lambda: WEIGHTS**2 * (gradients**2).sum(1),
        "dot products": lambda: gradients @ gradients.T,
        "products with a vector": lambda: gradients @ vector,
        "second moment": lambda: unravel(moment(plain)),
        "weighted variance": lambda: unravel(variance(weighted)),
        "signal to noise": lambda: unravel(mean**2 / variance(plain)),
        "noise scale": lambda: np.asarray(trace / ((mean**2).sum() - trace / BATCH)),
        "weighted ggn diagonal": lambda: unravel(np.diag(ggn(weighted))),
        "ggn product": lambda: unravel(ggn(weighted) @ vector),
        "fisher": lambda: ggn(weighted),
        "empirical fisher": lambda: gradients.T @ gradients / BATCH,
        "kernel": lambda: np.einsum("bkp,clp->bkcl", jacobians, jacobians),
    }[quantity]()


QUANTITIES = (
    "gradients",
    "norms",
    "norms by parameter",
    "weighted norms",
    "dot products",
    "products with a vector",
    "second moment",
    "weighted variance",
    "noise scale",
    "weighted ggn diagonal",
    "ggn product",
    "fisher",
    "empirical fisher",
    "kernel",
)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", CASES)
def test_a_statistic_is_what_its_definition_by_autodiff_gives(name, quantity, x64):
    assert_agree(computed(name)[quantity], expected(name, quantity), 1e-9)


def test_signal_to_noise_is_what_its_definition_gives(x64):
    assert_agree(computed("dense")["signal to noise"], expected("dense", "signal to noise"), 1e-9)
