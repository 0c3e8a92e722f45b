import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close
from helpers import HALVES_AND_FLOATS, assert_agree, normal, passes, started

import jaxnn as nn
from jaxnn.statistics import per_example_squared_norms


@pytest.mark.parametrize("shape", [(2, 4, 3), (1, 1, 1), (0, 2, 2), (2, 0, 2)])
@pytest.mark.parametrize(
    "layer", [nn.positional_embedding(), nn.positional_embedding("learned", 5)], ids=["sin", "own"]
)
def test_the_layer_keeps_the_laws(layer, shape):
    nn.check_layer(layer, normal(0, shape)).require()


def test_the_sinusoids_are_those_of_the_formula(x64):
    y = jax.jit(nn.positional_embedding().predict)((), (), jnp.zeros((1, 7, 5)))
    expected = [
        [(np.cos if i % 2 else np.sin)(t / 10000 ** (i // 2 * 2 / 5)) for i in range(5)]
        for t in range(7)
    ]
    assert_agree(y[0], np.asarray(expected), 1e-12)


def test_positions_that_no_example_has_receive_no_gradient():
    layer, x = nn.positional_embedding("learned", 4), normal(0, (3, 2, 5))
    params, _ = started(layer, x)
    dy = normal(1, x.shape)
    expected = np.concatenate([np.sum(dy, 0), np.zeros((2, 5), np.float32)])
    for both in (passes, passes.__wrapped__):  # with jit and without
        _, dx, gradients = both(layer, params, (), x, dy)
        np.testing.assert_array_equal(dx, dy)
        assert_trees_all_close(gradients, {"weight": expected}, rtol=1e-6)


def test_statistics_of_single_examples_take_its_capture(x64):
    network, x, target = nn.positional_embedding("learned", 3), normal(0, (2, 3, 2)), jnp.zeros
    params, state = started(network, x)
    norms = jax.jit(per_example_squared_norms(network, nn.half_squared_error()))
    y = np.asarray(network.predict(params, state, x))
    assert_agree(norms(params, state, x, target(x.shape)), np.sum(y**2, (1, 2)), 1e-12)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
def test_the_dtype_of_the_input_is_that_of_the_output(dtype, x64):
    for layer in (nn.positional_embedding(), nn.positional_embedding("learned", 3)):
        x = jnp.ones((1, 3, 4), dtype)
        params, _ = started(layer, x)
        assert jax.jit(layer.predict)(params, (), x).dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.positional_embedding("lerned"),
            "unknown kind 'lerned': did you mean 'learned'",
        ),
        (lambda: nn.positional_embedding("sinusoidal", 3), "length for learned positions alone"),
        (lambda: nn.positional_embedding("learned", 0), "length to be at least 1, got 0"),
        (
            lambda: nn.positional_embedding("learned", 2).init(
                jax.random.key(0), jnp.ones((1, 3, 2))
            ),
            "sequences of at most 2 positions, got 3",
        ),
        (
            lambda: nn.positional_embedding().init(None, jnp.ones((1, 3, 2, 2))),
            r"x to be \[batch, time, features\], got shape \(1, 3, 2, 2\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message, untyped):
    with pytest.raises(ValueError, match=f"positional_embedding: .*{message}"):
        make()
