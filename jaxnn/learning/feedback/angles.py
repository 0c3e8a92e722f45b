"""How far a rule's update is from the gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.core.captures import map_captures
from jaxnn.core.contract import Layer, Loss
from jaxnn.core.gradients import autodiff, backprop, backward_pass
from jaxnn.core.networks import label, plain, walk
from jaxnn.kernels.products import sum_dtype


def alignment_angles(network: Layer, loss: Loss) -> Callable[..., dict[str, Array]]:
    """(params, state, x, target, key=None, weights=None) -> {"2 dense": angle in degrees, …}.

    For each layer with parameters the angle, in [0°, 180°], between what its backward passes give
    and the gradient that autodiff finds of the same forward pass: below 90° a small step descends.
    0° for backprop itself; NaN where one of the two is zero, as the gradient before a step is.
    """
    update, truth = backprop(network, loss), autodiff(network, loss)

    def angles(*arguments, **named):
        return angles_between(network, *(g(*arguments, **named)[1] for g in (update, truth)))

    return angles


def delta_angles(network: Layer, loss: Loss) -> Callable[..., dict[str, Array]]:
    """(params, state, x, target, key=None, weights=None) -> {"2 dense": angle in degrees, …}.

    As `alignment_angles`, of the deltas at the outputs of the parameters, of the whole batch as one
    vector, in place of the gradients that they make: between what a rule sends to a layer and what
    the true gradient, `jaxnn.plain`, would.
    """
    passes = [backward_pass(of, loss) for of in (network, plain(network))]

    def angles(*arguments, **named):
        deltas = [map_captures(_deltas, run(*arguments, **named).captures) for run in passes]
        return angles_between(network, *deltas)

    return angles


def _deltas(capture: Any) -> list[Array]:
    found = []
    capture.map_deltas(lambda deltas: found.append(deltas) or deltas)
    return found


def angles_between(network: Layer, update: Any, gradient: Any) -> dict[str, Array]:
    """{"2 dense": angle in degrees, …} of two trees of gradients; see `alignment_angles`."""
    return {
        label(path, layer): _angle(*leaves)
        for path, layer, *trees in walk(network, update, gradient)
        if (leaves := [jax.tree.leaves(tree) for tree in trees])[0]
    }


def _angle(a: list[Array], b: list[Array]) -> Array:
    """2 atan(‖u − v‖ / ‖u + v‖) of the unit vectors u, v: exact for small angles (Kahan, 2006)."""
    u, v = _unit(a), _unit(b)
    return jnp.rad2deg(2 * jnp.arctan2(jnp.linalg.norm(u - v), jnp.linalg.norm(u + v)))


def _unit(arrays: Any) -> Array:
    flat = jnp.concatenate([x.ravel().astype(sum_dtype(x.dtype)) for x in arrays])
    return flat / jnp.linalg.norm(flat)
