"""Start here: every backward pass written by hand is the derivative of its forward pass.

Every layer, combinator and network in `samples.py` is held against `jax.vjp` of its own forward
pass. A layer of your own joins with one line there: ``"mine": (mine(3), ROWS)``.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized
from helpers import passes, started
from samples import IMAGES, LABELS, LAYERS, LOSSES, NETWORKS

import jaxnn as nn
from experiments.support.config import CONFIGS, load_config, sample_of
from jaxnn.rewrites.precision import at_full_precision
from jaxnn.training import create_state, make_step

SAMPLES = LAYERS | NETWORKS
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}
EVERY_SAMPLE = parameterized.named_parameters((name.replace(" ", "_"), name) for name in SAMPLES)
EVERY_LOSS = parameterized.named_parameters((name.replace(" ", "_"), name) for name in LOSSES)
OF_PROBABILITIES = ("binary_cross_entropy", "categorical_cross_entropy", "poisson_nll")
"""Whose predictions cannot be large: probabilities, and a logarithm of which exp is taken."""
NEED_AN_EXAMPLE = ("batch_norm", "residual cnn with batch norm")
KEY = jax.random.key(0)


def both_ways(layer, params, state, x, dy):
    """(y, (dx, gradients) by hand, the same by autodiff); dx is None for integers."""
    y, vjp = jax.vjp(lambda params, x: layer.forward(params, state, x, KEY)[0], params, x)
    _, _, residuals = layer.forward(params, state, x, KEY)
    dx, captures = layer.backward(params, residuals, dy)
    gradients, reference_dx = vjp(dy)
    return y, (dx, nn.contract(captures)), (without_float0(reference_dx), gradients)


def without_float0(tree):
    return jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, tree)


def sample(name, dtype, batch=4):
    """The layer with its true gradient, its params and state, an x and a dy."""
    layer, x = SAMPLES[name]
    layer = at_full_precision(nn.plain(layer))
    x = jax.tree.map(lambda a: cast(a, dtype)[:batch], x)
    params, state = (jax.tree.map(lambda a: cast(a, dtype), t) for t in started(layer, x))
    y = jax.eval_shape(lambda: layer.forward(params, state, x, KEY)[0])
    noise = np.random.default_rng(5)
    return (
        layer,
        params,
        state,
        x,
        jax.tree.map(lambda a: jnp.asarray(noise.normal(size=a.shape), a.dtype), y),
    )


def cast(a, dtype):
    return jnp.asarray(a, dtype) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a)


def floating(function, x):
    return jax.tree.map(lambda a: function(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, x)


def without_integers(tree):
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, tree)


def compare(variant, name, dtype):
    layer, params, state, x, dy = sample(name, dtype)
    run = variant(lambda *arguments: both_ways(layer, *arguments))
    # As drawn; on kinks and ties; all ties.
    for at in (lambda a: a, jnp.round, jnp.zeros_like):
        _, by_hand, reference = run(params, state, floating(at, x), dy)
        chex.assert_trees_all_equal_shapes_and_dtypes(by_hand, reference)
        assert_close(by_hand, reference, TOLERANCES[dtype])
    y, by_hand, _ = run(params, state, floating(lambda a: 1e4 * a, x), dy)
    chex.assert_tree_all_finite((y, by_hand))
    return run


def compare_loss(variant, name, dtype, batches):
    loss, prediction, target = LOSSES[name]
    prediction, target = (jax.tree.map(lambda a: cast(a, dtype), t) for t in (prediction, target))

    # Targets as arguments: constants would be looked at, whether they can be.
    def both_ways(prediction, target):
        value, vjp = jax.vjp(lambda y: loss.value(y, target), prediction)
        return value, loss.gradient(prediction, target), *vjp(jnp.ones_like(value))

    run = variant(both_ways)
    for batch in batches:
        some = jax.tree.map(lambda a, batch=batch: a[:batch], (prediction, target))
        value, by_hand, reference = run(*some)
        chex.assert_shape(value, (batch,))
        chex.assert_trees_all_equal_shapes_and_dtypes(by_hand, reference)
        assert_close(by_hand, reference, TOLERANCES[dtype])
    if name not in OF_PROBABILITIES:
        large = jax.tree.map(lambda a: 1e4 * a, prediction)
        value, by_hand, _ = run(large, target)
        chex.assert_tree_all_finite((value, by_hand))


def assert_close(by_hand, reference, tolerance):
    """To rounding: a gradient that is zero but for that is held against the largest one."""
    largest = max((float(np.abs(a).max()) for a in jax.tree.leaves(reference) if a.size), default=0)
    chex.assert_trees_all_close(
        by_hand, reference, rtol=tolerance, atol=tolerance * max(1.0, largest)
    )


@pytest.mark.quick
class BackwardPassTest(chex.TestCase):
    @chex.variants(with_jit=True)
    @EVERY_SAMPLE
    def test_the_gradients_are_those_of_autodiff_in_float64(self, name):
        with jax.enable_x64(True):
            compare(self.variant, name, "float64")

    @chex.variants(with_jit=True)
    @EVERY_LOSS
    def test_the_gradient_of_a_loss_is_that_of_autodiff_in_float64(self, name):
        with jax.enable_x64(True):
            compare_loss(self.variant, name, "float64", batches=(4, 1, 0))


class SinglePrecisionTest(chex.TestCase):
    @chex.variants(with_jit=True)
    @EVERY_SAMPLE
    def test_the_gradients_are_those_of_autodiff_in_float32_with_and_without_jit(self, name):
        compiled = compare(self.variant, name, "float32")
        layer, params, state, x, dy = sample(name, "float32")
        # Two examples on kinks and ties.
        x = floating(lambda a: a.at[::2].set(jnp.round(a[::2])), x)
        _, _, reference = compiled(params, state, x, dy)
        _, *by_hand = passes.__wrapped__(layer, params, state, x, dy, KEY)
        chex.assert_trees_all_equal_shapes_and_dtypes(tuple(by_hand), reference)
        assert_close(tuple(by_hand), reference, TOLERANCES["float32"])

    @chex.variants(with_jit=True, without_jit=True)
    @EVERY_LOSS
    def test_the_gradient_of_a_loss_is_that_of_autodiff_in_float32(self, name):
        compare_loss(self.variant, name, "float32", batches=(4,))

    @chex.variants(with_device=True)
    @parameterized.parameters("conv", "serial")
    def test_the_gradients_are_those_of_autodiff_for_arrays_that_are_put_on_a_device(self, name):
        compare(self.variant, name, "float32")

    @EVERY_SAMPLE
    def test_a_single_example_is_a_batch_too(self, name):
        layer, *arguments = sample(name, "float32", 1)
        _, by_hand, reference = jax.jit(both_ways, static_argnums=0)(layer, *arguments)
        assert_close(by_hand, reference, TOLERANCES["float32"])

    @EVERY_SAMPLE
    def test_an_empty_batch_has_an_empty_dx_and_gradients_of_zero(self, name):
        if name in NEED_AN_EXAMPLE:
            self.skipTest("statistics of no example are none: refused, as a test of its own says")
        layer, params, state, x, dy = sample(name, "float32", 0)
        # What has no examples, such as the weights that a projection hands on, has no part either.
        dy = jax.tree.map(jnp.zeros_like, dy)
        y, dx, gradients = passes(layer, params, state, x, dy, KEY)
        expected = dy, *without_integers((x, jax.tree.map(jnp.zeros_like, params)))
        chex.assert_trees_all_equal_shapes_and_dtypes((y, dx, gradients), expected)
        chex.assert_trees_all_equal(gradients, expected[-1])


class ShippedNetworkTest(chex.TestCase):
    @parameterized.named_parameters((path.stem,) * 2 for path in sorted(CONFIGS.glob("*.toml")))
    def test_a_configuration_is_trained_by_the_gradient_of_its_loss(self, name):
        config = load_config(name)
        network, loss = nn.plain(config.fused_layers), config.loss_function
        x, target = jax.tree.map(drawn_like, sample_of(config, 3))
        params, state = started(network, x)
        arguments = (params, state, x, target, KEY, jnp.ones(3))
        by_hand, reference = jax.jit(
            lambda *given: [make(network, loss)(*given) for make in (nn.backprop, nn.autodiff)]
        )(*arguments)
        assert_close(by_hand, reference, 1e-3)

    def test_a_training_step_is_traced_once_for_all_batches(self):
        network, loss = NETWORKS["residual cnn with batch norm"][0], nn.softmax_cross_entropy()
        optimizer = optax.adam(1e-3)
        step = jax.jit(chex.assert_max_traces(make_step(nn.backprop(network, loss), optimizer), 1))
        train_state = create_state(network, optimizer, KEY, IMAGES)
        for _ in range(3):
            train_state, _ = step(train_state, IMAGES, LABELS)


def drawn_like(a):
    noise = np.random.default_rng(3)
    drawn = (
        noise.normal(size=a.shape) if jnp.issubdtype(a.dtype, jnp.floating) else np.zeros(a.shape)
    )
    return jnp.asarray(drawn, a.dtype)
