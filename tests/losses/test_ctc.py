import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, differences, normal, started, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify

import jaxnn as nn
from jaxnn.losses.ctc import best_path

LABELS = np.array([[1, 2, 2], [3, -1, -1], [-1, -1, -1]])
CTC = nn.ctc()
LENGTHS = np.array([6, 4, 2])


def of_optax(logits, labels, lengths):
    padding = (jnp.arange(logits.shape[1]) >= lengths[:, None]).astype(logits.dtype)
    return optax.ctc_loss(
        logits, padding, jnp.maximum(labels, 0), (labels < 0).astype(logits.dtype)
    )


@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**16),
    time=st.sampled_from([5, 7]),
    batch=st.sampled_from([0, 1, 3]),
    scale=st.sampled_from([1.0, 20.0]),
)
def test_value_and_gradient_agree_with_optax(seed, time, batch, scale):
    with jax.enable_x64(True):
        random = np.random.default_rng(seed)
        logits = np.asarray(normal(seed, (batch, time, 4))) * scale
        lengths = random.integers(3, time + 1, batch)
        # One label at most for three times, so that every target has room.
        labels = random.integers(1, 4, (batch, 3))
        counts = random.integers(0, lengths // 2 + 1)
        labels = np.where(np.arange(3) < counts[:, None], labels, -1)
        loss = nn.ctc()

        @jax.jit
        def run(logits):
            target = (jnp.asarray(labels), jnp.asarray(lengths))
            weights = jnp.arange(1.0, batch + 1)

            def total(function):
                return lambda z: jnp.sum(function(z) * weights)

            return (
                (loss.value(logits, target), *loss.weighted(logits, target, weights)),
                jax.grad(total(lambda z: loss.value(z, target)))(logits),
                of_optax(logits, jnp.asarray(labels), jnp.asarray(lengths)),
                jax.grad(total(lambda z: of_optax(z, jnp.asarray(labels), jnp.asarray(lengths))))(
                    logits
                ),
            )

        (value, again, by_hand), by_autodiff, expected, by_optax = run(logits)
        assert_agree((value, again), (expected, expected), 1e-10)
        assert_agree((by_hand, by_hand), (by_optax, by_autodiff), 1e-10)


def test_the_probability_is_that_of_all_paths_that_read_as_the_labels(x64):
    logits = normal(0, (1, 4, 3))
    p = np.asarray(jax.nn.softmax(logits))[0]
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        read = [k for k, _ in itertools.groupby(path) if k != 2]
        if read == [0, 0]:
            total += np.prod([p[t, k] for t, k in enumerate(path)])
    value, _ = value_and_gradient(nn.ctc(blank=2), logits, jnp.array([[0, 0]]))
    np.testing.assert_allclose(value, [-np.log(total)], rtol=1e-12)


def test_the_gradient_agrees_with_differences(x64):
    logits, target = normal(0, (1, 4, 3)), jnp.array([[1, 1]])
    slopes = differences(lambda z: value_and_gradient(CTC, z, target)[0].sum(), logits)
    for run in (value_and_gradient, value_and_gradient.__wrapped__):  # with jit and without
        assert_agree(run(CTC, logits, target)[1], slopes, 1e-8)


def test_float32_agrees_to_its_precision():
    logits = normal(0, (3, 6, 4), jnp.float32)
    target = (jnp.asarray(LABELS), jnp.asarray(LENGTHS))
    _, delta = value_and_gradient(CTC, logits, target)
    expected = jax.jit(jax.grad(lambda z: jnp.sum(of_optax(z, *target))))(logits)
    assert delta.dtype == jnp.float32
    assert_agree(delta, expected, 1e-5)


def test_times_after_the_end_contribute_nothing():
    logits = normal(0, (3, 6, 4), jnp.float32)
    target = (jnp.asarray(LABELS), jnp.asarray(LENGTHS))
    after = (np.arange(6) >= LENGTHS[:, None])[..., None]
    clean = value_and_gradient(CTC, logits, target)
    spoilt = value_and_gradient(CTC, np.where(after, np.float32(np.nan), logits), target)
    for a, b in zip(clean, spoilt, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.any(np.asarray(clean[1]) * after)


@pytest.mark.parametrize("labels", [[1, 1, 2], [1, 4, -1], [0, -1, -1], [1, -1, 2]])
def test_under_jit_a_target_that_cannot_be_read_has_no_gradient_and_an_infinite_loss(labels):
    labels = jnp.array([labels, [1, 2, 3]])
    values, delta = value_and_gradient(CTC, normal(0, (2, 3, 4), jnp.float32), labels)
    assert values[0] == np.inf
    assert not delta[0].any()
    assert np.isfinite(values[1])
    assert delta[1].any()


def test_runtime_checks_report_a_target_that_cannot_be_read():
    logits = normal(0, (1, 3, 4), jnp.float32)
    checked = jax.jit(checkify.checkify(nn.ctc().value, errors=checkify.user_checks))
    assert "ctc: expected targets that a path" in str(
        checked(logits, jnp.array([[1, 1, 2]]))[0].get()
    )
    assert checked(logits, jnp.array([[1, 1, -1]]))[0].get() is None


def test_logits_that_are_nan_show_in_loss_and_gradient():
    value, delta = value_and_gradient(CTC, np.full((1, 3, 4), np.nan, np.float32), jnp.array([[1]]))
    assert np.isnan(value).all()
    assert np.isnan(delta).all()


def test_probabilities_of_states_stay_probabilities_where_logits_are_rounded_by_more():
    logits = jnp.float32(1e18) * normal(0, (4, 5, 6), jnp.float32)
    target = jnp.asarray([[1, 2], [2, -1], [-1, -1], [3, 3]])
    value, delta = value_and_gradient(nn.ctc(), logits, target)
    assert np.isfinite(value).all()
    assert np.abs(delta).max() <= 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([[1, 1, 2]], "example 0 needs 4, got 3"),
        (([[1, 2, -1]], [1]), "example 0 needs 2, got 1"),
        ([[4]], "labels to lie in 0 … 3 without the blank, 0"),
        ([[0]], "labels to lie in 0 … 3 without the blank, 0"),
        ([[-1, 1]], "filled up with −1 at the end"),
        (([[1]], [4]), "lengths to lie in 0 … 3"),
        ([1], r"labels to have shape \[1, labels\]"),
    ],
)
def test_wrong_targets_are_named(target, message):
    target = tuple(map(jnp.array, target)) if isinstance(target, tuple) else jnp.array(target)
    with pytest.raises(ValueError, match=f"ctc: expected .*{message}"):
        nn.ctc().value(jnp.zeros((1, 3, 4)), target)


def test_wrong_predictions_and_options_are_named():
    with pytest.raises(ValueError, match=r"prediction to have shape \[batch, time, classes\]"):
        nn.ctc().value(jnp.zeros((3, 4)), jnp.array([[1]]))
    with pytest.raises(ValueError, match="blank to be below 4, the classes, got 4"):
        nn.ctc(blank=4).value(jnp.zeros((1, 3, 4)), jnp.array([[1]]))
    with pytest.raises(TypeError, match="labels to be integers"):
        nn.ctc().value(jnp.zeros((1, 3, 4)), jnp.array([[1.0]]))


def test_the_best_path_is_read_without_repeats_and_blanks():
    path = np.array([[0, 1, 1, 0, 1, 2], [3, 3, 3, 0, 0, 1]])
    logits = jax.nn.one_hot(path, 4)
    expected = [[1, 1, 2, -1, -1, -1], [3, -1, -1, -1, -1, -1]]
    np.testing.assert_array_equal(best_path(logits, jnp.array([6, 5])), expected)
    assert best_path(logits)[1, 1] == 1


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8])
def test_labels_of_8_bits_and_more_classes_than_they_hold(dtype):
    logits, labels = normal(0, (2, 3, 300), jnp.float32), jnp.array([[1, 2], [100, 7]])
    found = value_and_gradient(CTC, logits, labels.astype(dtype))
    for a, b in zip(found, value_and_gradient(CTC, logits, labels), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(found[0]).all()
    np.testing.assert_array_equal(CTC.value(logits, labels.astype(dtype)), found[0])


def test_a_label_beyond_32_bits_is_neither_a_class_nor_padding(x64):
    labels, logits = np.array([[2**64 - 1]], np.uint64), normal(0, (1, 3, 4))
    with pytest.raises(ValueError, match="ctc: expected labels to lie in 0 … 3"):
        CTC.value(logits, labels)
    assert value_and_gradient(CTC, logits, labels)[0] == np.inf


def test_an_example_of_weight_0_may_have_a_target_that_cannot_be_read(x64):
    network, x = nn.dense(4), normal(0, (2, 3, 2)).at[0].set(jnp.nan)
    params, state = started(network, x)
    target, weights = jnp.array([[1, 1, 2], [1, 2, -1]]), jnp.array([0.0, 3.0])

    @jax.jit
    def run(params, x, target, weights):
        def gradient(function, of=slice(None)):
            data = x[of], target[of], None, weights[of]
            return function(network, CTC)(params, state, *data)

        found, by_autodiff = gradient(nn.backprop), gradient(nn.autodiff)
        return (found, by_autodiff), (gradient(nn.backprop, slice(1, None)),) * 2

    assert_agree(*run(params, x, target, weights), 1e-12)
    concrete = nn.backprop(network, CTC)(params, state, x, target, None, weights)
    assert_agree(concrete, run(params, x, target, weights)[1][0], 1e-12)


def test_half_precision_is_summed_in_float32():
    logits, target = jnp.zeros((1, 2000, 2), jnp.float16), jnp.array([[1]])
    value, delta = value_and_gradient(CTC, logits, target)
    wide = value_and_gradient(CTC, logits.astype(jnp.float32), target)
    assert value.dtype == delta.dtype == jnp.float16
    np.testing.assert_allclose(value, wide[0], rtol=1e-3)
    np.testing.assert_allclose(delta, wide[1], atol=1e-3)


def test_data_with_one_label_for_each_example_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"ctc: expected a loss of one label .* from Python"):
        CTC.task(3)


def test_the_best_path_names_wrong_arguments():
    with pytest.raises(ValueError, match="best_path: expected blank to be below 4"):
        best_path(jnp.zeros((1, 3, 4)), blank=4)
    with pytest.raises(ValueError, match="best_path: expected prediction to have shape"):
        best_path(jnp.zeros((3, 4)))


def test_the_best_path_takes_lengths_of_8_bits():
    logits = jax.nn.one_hot(jnp.ones((1, 300), int), 4)
    assert best_path(logits, jnp.array([1], jnp.int8))[0, 0] == 1
