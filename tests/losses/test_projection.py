import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started, value_and_gradient
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.statistics import per_example_squared_norms


@given(
    shape=st.sampled_from([(3,), (2, 5), (1, 2, 2), (0, 3)]),
    block=st.sampled_from([1, 3, 100]),
    use_bias=st.booleans(),
    weighted=st.booleans(),
)
def test_loss_and_gradient_are_those_of_a_dense_layer_with_cross_entropy(
    shape, block, use_bias, weighted
):
    with jax.enable_x64(True):
        labels = jnp.asarray(np.random.default_rng(0).integers(-1, 6, shape))  # −1 is no class
        x, weights = normal(0, (*shape, 4)), jnp.arange(1.0, shape[0] + 1) if weighted else None
        fused = nn.serial(nn.tanh(), nn.projection(5, use_bias=use_bias))
        whole = nn.serial(nn.tanh(), nn.dense(5, use_bias=use_bias))
        params, state = started(fused, x)
        loss = nn.projected_cross_entropy(block)

        @jax.jit
        def both(params, x, labels):  # not a constant, whose values would be known
            arguments = (params, state, x, labels, None, weights)
            (value, _), gradients = nn.backprop(fused, loss)(*arguments)
            expected, reference = nn.autodiff(whole, nn.softmax_cross_entropy())(*arguments)
            one, other = (
                nn.backward_pass(*pair)(*arguments)
                for pair in ((fused, loss), (whole, nn.softmax_cross_entropy()))
            )
            by_hand = (value, gradients, one.values, one.dx)
            return by_hand, (expected[0], reference, other.values, other.dx)

        by_hand, expected = both(params, x, labels)
        if shape[0]:
            assert_agree(by_hand, expected, 1e-10)
        else:
            assert_agree(by_hand[1:], expected[1:], 1e-10)


def test_the_gradient_agrees_with_autodiff_of_its_own_forward_and_with_differences():
    network, loss = nn.serial(nn.dense(3), nn.projection(4)), nn.projected_cross_entropy(2)
    with jax.enable_x64(True):
        x, labels = normal(0, (2, 3, 2)), jnp.array([[0, 3, 1], [2, 2, 0]])
        params, state = started(network, x)
        weights = jnp.array([1.0, 3.0])
        nn.check_gradients(network, loss, params, state, x, labels, None, weights).require()


@pytest.mark.parametrize("real", [[2, 0, 3], [[True, False, True]] * 3])
def test_padding_is_that_of_a_sequence_loss(real, x64):
    fused, whole = nn.projection(5), nn.dense(5)
    clean = np.array(normal(0, (3, 3, 4)))
    clean[1, 1] = 0
    x = np.array(clean)
    x[1, 1] = np.nan  # padding in both cases
    target = (jnp.array([[0, 1, 2], [3, 4, 0], [1, 1, 1]]), jnp.array(real))
    params, state = started(fused, x)
    expected = nn.backprop(whole, nn.sequence_loss(nn.softmax_cross_entropy()))
    one, other = (
        jax.jit(gradient)(params, state, clean if gradient is expected else x, target)
        for gradient in (nn.backprop(fused, nn.projected_cross_entropy(2)), expected)
    )
    assert_agree(one, other, 1e-12)
    logits = jax.jit(whole.predict)(params, state, clean)
    losses = (nn.projected_cross_entropy(), nn.sequence_loss(nn.softmax_cross_entropy()))
    assert_agree(*(jax.jit(loss.value)(logits, target) for loss in losses), 1e-12)


def test_prediction_is_that_of_a_dense_layer():
    x = normal(0, (2, 3, 4))
    params, state = started(nn.projection(5), x)
    logits = nn.dense(5).predict(params, (), x)
    np.testing.assert_array_equal(nn.projection(5).predict(params, state, x), logits)
    labels = jnp.array([[0, 1, 2], [3, 4, 0]])

    losses = (nn.projected_cross_entropy(), nn.softmax_cross_entropy())
    assert_agree(*(value_and_gradient(loss, logits, labels) for loss in losses), 1e-6)


def test_a_large_vocabulary_needs_a_fraction_of_the_memory():
    x = jax.ShapeDtypeStruct((4, 256, 16), jnp.float32)
    labels = jax.ShapeDtypeStruct((4, 256), jnp.int32)

    def temporary(layer, gradient):
        params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
        program = jax.jit(gradient).lower(params, state, x, labels).compile()
        return program.memory_analysis().temp_size_in_bytes

    projection, loss = nn.projection(32_000), nn.projected_cross_entropy(32)
    fused = temporary(projection, nn.backprop(projection, loss))
    whole = temporary(nn.dense(32_000), nn.autodiff(nn.dense(32_000), nn.softmax_cross_entropy()))
    assert fused <= 0.2 * whole


def test_half_precision_gradients_are_summed_in_float32():
    x, labels = jnp.ones((600, 1), jnp.bfloat16), jnp.zeros(600, int)
    projection = nn.projection(2, weight_init="zeros")
    params, state = projection.init(jax.random.key(0), x)
    ones = jnp.ones(600, jnp.float32)
    _, delta = nn.projected_cross_entropy(1).weighted(
        projection.forward(params, state, x, None)[0], labels, ones
    )
    assert delta.params["weight"].dtype == jnp.bfloat16
    assert float(delta.params["weight"][0, 0]) == -300  # 600 times −1/2; one by one it stops at 128


def test_single_examples_are_refused_by_name_and_had_in_inference_mode(x64):
    network, loss = nn.serial(nn.projection(3)), nn.projected_cross_entropy()
    x, labels = normal(0, (2, 4)), jnp.array([0, 2])
    params, state = started(network, x)
    norms = per_example_squared_norms(network, loss)
    with pytest.raises(ValueError, match="0 projection gives its gradient summed over the batch"):
        norms(params, state, x, labels)
    alone = nn.in_inference_mode(network)
    norms = jax.jit(per_example_squared_norms(alone, loss))(params, state, x, labels)
    whole = nn.serial(nn.dense(3))
    expected = jax.jit(per_example_squared_norms(whole, nn.softmax_cross_entropy()))
    assert_agree(norms, expected(params, state, x, labels), 1e-12)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (jnp.zeros((2, 3)), TypeError, "expected target to be integer labels, got float32"),
        (jnp.zeros((2, 2), int), ValueError, r"expected labels of shape \(2, 3\).*got \(2, 2\)"),
    ],
)
def test_unfit_labels_are_refused(labels, error, message):
    network, loss = nn.projection(3), nn.projected_cross_entropy()
    x = normal(0, (2, 3, 4))
    params, state = started(network, x)
    with pytest.raises(error, match=f"projected_cross_entropy: {message}"):
        nn.backprop(network, loss)(params, state, x, labels)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="block to be at least 1, got 0"):
        nn.projected_cross_entropy(0)
    params, _ = started(nn.projection(3), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="expected the last axis of x to be 4, got 5"):
        nn.projection(3).forward(params, (), jnp.ones((2, 5)), None)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8])
def test_labels_of_8_bits_and_more_classes_than_they_hold(dtype):
    network, loss, x = nn.projection(300), nn.projected_cross_entropy(2), normal(0, (3, 2))
    params, state = started(network, x)
    run, labels = jax.jit(nn.backprop(network, loss)), jnp.array([5, 0, 100])
    found = run(params, state, x, labels.astype(dtype))
    for a, b in zip(*map(jax.tree.leaves, (found, run(params, state, x, labels))), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("padded", [True, False])
def test_a_concrete_label_that_is_no_class_is_named(padded):
    network, loss, x = nn.projection(5), nn.projected_cross_entropy(), normal(0, (2, 3, 4))
    params, state = started(network, x)
    labels = jnp.array([[0, 1, -1], [2, 5, 0]])
    target = (labels, jnp.array([2, 3])) if padded else labels
    place = "5 at example 1, position 1" if padded else "-1 at example 0, position 2"
    with pytest.raises(ValueError, match=f"projected_cross_entropy: .* 0 … 4 .*, got {place}$"):
        nn.backprop(network, loss)(params, state, x, target)


@pytest.mark.parametrize("padded", [True, False])
def test_ignored_labels_of_factors_are_those_of_logits(padded, x64):
    clean = normal(0, (3, 3, 4))
    x = clean.at[0, 1].set(jnp.nan)  # at an ignored label
    labels = jnp.array([[0, -1, 2], [-1, -1, -1], [1, 1, 4]])
    target = (labels, jnp.array([3, 2, 2])) if padded else labels
    options = {"ignore_index": -1, "class_weights": (1.0, 0.5, 2.0, 3.0, 0.0)}
    loss = nn.softmax_cross_entropy(**options)
    pairs = [
        (nn.projection(5), nn.projected_cross_entropy(2, **options), x),
        (nn.dense(5), nn.sequence_loss(loss) if padded else loss, clean),
    ]
    params, state = started(nn.dense(5), x)
    one, other = (
        (found.values, found.dx, nn.contract(found.captures))
        for network, loss, x in pairs
        for found in [jax.jit(nn.backward_pass(network, loss))(params, state, x, target)]
    )
    assert_agree(one, other, 1e-12)


def test_half_precision_positions_are_summed_in_float32():
    network, x = nn.projection(2, weight_init="zeros"), jnp.ones((1, 70_000, 1), jnp.float16)
    params, state = network.init(jax.random.key(0), x)
    labels = jnp.zeros((1, 70_000), jnp.int8)
    value = nn.projected_cross_entropy(7000).value(
        network.forward(params, state, x, None)[0], labels
    )
    np.testing.assert_allclose(value, [np.log(2)], rtol=1e-5)


def test_at_rest_it_is_a_dense_layer_under_its_own_name():
    layer = nn.projection(5, use_bias=False, weight_init="he")
    alone = layer.at_rest()
    assert isinstance(alone, nn.dense)
    assert not isinstance(layer, nn.dense)
    assert alone.name == layer.name == "projection"
    x = normal(0, (2, 4))
    (params, _), (expected, _) = (one.init(jax.random.key(0), x) for one in (layer, alone))
    np.testing.assert_array_equal(params["weight"], expected["weight"])


def test_it_is_a_value():
    layer = nn.projection(5, bias_init="he")
    assert repr(layer) == "projection(5, bias_init='he')"
    for value in (layer, layer.at_rest(), nn.projected_cross_entropy(3)):
        assert value == pickle.loads(pickle.dumps(value))
        assert hash(value) == hash(copy.copy(value))
    assert nn.projection(5) != layer


def test_the_cotangent_of_factors_is_checked():
    network, x = nn.projection(3), normal(0, (2, 4))
    params, state = started(network, x)
    _, _, residuals = network.forward(params, state, x, None)
    with pytest.raises(TypeError, match="projection: expected dy to have the structure of y, Fact"):
        network.backward(params, residuals, x)
