"""What studies of trained networks share: images, a small CNN for them, and its training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import jaxnn as nn
from experiments.support.config import DataConfig
from jaxnn.training import create_state, make_epoch, make_step

LOSS = nn.softmax_cross_entropy()


class Problem(NamedTuple):
    """Data, a network for them, and how long it is trained."""

    data: DataConfig
    network: Callable[[], nn.Layer]
    epochs: int


def cnn(first: int, second: int, hidden: int) -> nn.Layer:
    """Two convolutions, each with ReLU and a max-pool, and two dense layers, for ten classes."""
    convolutions = (
        layer
        for channels in (first, second)
        for layer in (nn.conv(channels, (3, 3)), nn.relu(), nn.max_pool(2))
    )
    return nn.serial(*convolutions, nn.flatten(), nn.dense(hidden), nn.relu(), nn.dense(10))


def learn(
    network: nn.Layer,
    optimizer: optax.GradientTransformation,
    x: Any,
    target: Any,
    epochs: int,
    seed: int,
) -> tuple[Any, Any]:
    """Params and state after some epochs of batches of 64."""
    train_state = create_state(network, optimizer, jax.random.key(seed), x[:1])
    epoch = make_epoch(make_step(nn.backprop(network, LOSS), optimizer), min(64, len(x)))
    for _ in range(epochs):
        train_state, _ = epoch(train_state, x, target)
    return train_state.params, train_state.state
