"""Several quantities of one pass, in training too, and a quantity of one's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, changed, normal, started

import jaxnn as nn
from jaxnn import statistics

BATCH = 5
LOSS = nn.softmax_cross_entropy()
NETWORK = nn.serial(nn.dense(4), nn.layer_norm(), nn.tanh(), nn.dense(3))
WEIGHTS = jnp.array([0.5, 2.0, 0.0, 1.0, 0.0])


@statistics.quantity
def largest_norm(captures, weights=None, *, power=1):
    """The largest norm of an example's gradient."""
    return jnp.max(statistics.per_example_squared_norms.of(captures, weights)) ** (power / 2)


QUANTITIES = {
    "norms": statistics.per_example_squared_norms.with_options(per_parameter=True),
    "products": statistics.dot_products,
    "variance": statistics.gradient_variance,
    "noise": statistics.gradient_noise,
    "largest": largest_norm.with_options(power=2),
    "curvature": statistics.diagonal_ggn,
    "estimate": statistics.diagonal_ggn.with_options(samples=2),
    "factors": statistics.kfac_factors.with_options(samples=None, positions="reduce"),
    "fisher": statistics.fisher_information.with_options(empirical=True),
}


def arguments(weights=None):
    x = normal(0, (BATCH, 4))
    return *started(NETWORK, x), x, jnp.array([0, 2, 1, 1, 0]), jax.random.key(0), weights


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_several_quantities_of_one_pass_are_those_of_each_alone(weights, x64):
    given = arguments(None if weights is None else weights.astype(float))

    @jax.jit
    def both(*given):
        each = {name: quantity(NETWORK, LOSS)(*given) for name, quantity in QUANTITIES.items()}
        return statistics.measure(NETWORK, LOSS, **QUANTITIES)(*given), each

    assert_agree(*both(*given), 1e-12)


@pytest.mark.parametrize("several", [statistics.measure, statistics.measuring])
def test_there_is_one_backward_pass_for_all_that_take_the_captures_of_the_gradient(several):
    layer, passes = nn.dense(3), []

    def backward(params, residuals, dy):
        passes.append(dy)
        return layer.backward(params, residuals, dy)

    network = changed(layer, backward=backward)
    names = ("norms", "products", "variance", "noise", "largest")
    compute = several(network, LOSS, **{name: QUANTITIES[name] for name in names})
    given = (*started(network, jnp.ones((BATCH, 4))), *arguments()[2:])
    jax.eval_shape(compute, *given)  # finds out whether it mixes the examples, for once
    passes.clear()
    jax.eval_shape(lambda *given: compute(*given), *given)
    assert len(passes) == 1


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_training_is_measured_beside_the_gradient_of_backprop(weights, x64):
    given = arguments(None if weights is None else weights.astype(float))

    @jax.jit
    def both(*given):
        measured = statistics.measuring(NETWORK, LOSS, **QUANTITIES)(*given)
        (value, state), gradients = nn.backprop(NETWORK, LOSS)(*given)
        measures = statistics.measure(NETWORK, LOSS, **QUANTITIES)(*given)
        return measured, ((statistics.Measured(value, measures), state), gradients)

    assert_agree(*both(*given), 1e-12)


def test_a_measured_gradient_has_the_dtypes_of_the_parameters():
    given = arguments()
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (given[0], given[2]))
    compute = statistics.measuring(NETWORK, LOSS, norms=statistics.per_example_squared_norms)
    (value, _), gradients = jax.eval_shape(compute, half[0], given[1], half[1], *given[3:])
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype("bfloat16")}
    assert value.measures["norms"].dtype == jnp.float32


def test_shares_that_are_no_half_precision_numbers_do_not_blur_what_is_measured():
    layer, weights = nn.dense(3), jnp.ones(64, jnp.float16).at[0].set(6e-6)
    x, target = normal(0, (64, 4), jnp.float16), normal(1, (64, 3), jnp.float16)
    params, state = started(layer, x)
    given = (params, state, x, target, None, weights)
    norms = statistics.per_example_squared_norms
    (value, _), gradients = statistics.measuring(layer, nn.mean_squared_error(), norms=norms)(
        *given
    )
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), given)
    assert_agree(value.measures["norms"], norms(layer, nn.mean_squared_error())(*wide), 1e-2)
    (_, _), expected = nn.backprop(layer, nn.mean_squared_error())(*wide)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2)


def test_a_quantity_of_ones_own_is_one_function(x64):
    given = arguments()
    norms = jax.jit(statistics.per_example_squared_norms(NETWORK, LOSS))(*given)
    expected = np.sqrt(np.max(norms))
    captures = jax.jit(nn.backward_pass(NETWORK, LOSS))(*given).captures
    np.testing.assert_allclose(jax.jit(largest_norm(NETWORK, LOSS))(*given), expected)
    np.testing.assert_allclose(jax.jit(largest_norm.of)(captures), expected)
    cubed = jax.jit(largest_norm(NETWORK, LOSS, power=3))(*given)
    np.testing.assert_allclose(cubed, expected**3)
    assert (largest_norm.__name__, largest_norm.__doc__[:11]) == ("largest_norm", "The largest")


def test_a_quantity_may_say_which_captures_it_takes(x64):
    @statistics.quantity(captures_of=statistics.hessian_root_captures)
    def trace(captures, weights=None):
        leaves = jax.tree.leaves(statistics.diagonal_ggn.of(captures, weights))
        return sum(jnp.sum(leaf) for leaf in leaves)

    given = arguments()
    compute = jax.jit(partial(lambda *given: (trace(NETWORK, LOSS)(*given), fisher(*given))))
    fisher = statistics.fisher_information(NETWORK, LOSS)
    found, matrix = compute(*given)
    np.testing.assert_allclose(found, np.trace(matrix))


def test_options_and_quantities_that_are_none_are_refused_by_name(untyped):
    with pytest.raises(TypeError, match="unknown option 'per_param': did you mean 'per_parameter'"):
        statistics.per_example_squared_norms(NETWORK, LOSS, per_param=True)
    with pytest.raises(TypeError, match="unknown option 'sample': did you mean 'samples'"):
        statistics.diagonal_ggn.with_options(sample=1)
    with pytest.raises(TypeError, match="per_param"):
        statistics.per_example_squared_norms.of((), per_param=True)
    for several in (statistics.measure, statistics.measuring):
        with pytest.raises(TypeError, match=f"{several.__name__}: expected norms to be a Quantity"):
            several(NETWORK, LOSS, norms=jnp.sum)


PER_EXAMPLE = (statistics.per_example_gradients, statistics.per_example_squared_norms)
OF_VECTORS = (statistics.hessian_vector_product, statistics.ggn_vector_product)
INFLUENCE = partial(statistics.influence, damping=0.1)


@pytest.mark.parametrize(
    "quantity",
    [
        statistics.per_example_gradients,
        statistics.per_example_squared_norms,
        statistics.dot_products,
        statistics.gradient_second_moment,
        statistics.gradient_variance,
        statistics.gradient_signal_to_noise,
        statistics.gradient_noise_scale,
        statistics.diagonal_ggn,
        statistics.fisher_information,
        statistics.fisher_information.with_options(empirical=True),
        statistics.kfac_factors.with_options(samples=None),
        statistics.hessian_vector_product,
        statistics.ggn_vector_product,
        INFLUENCE,
        partial(statistics.measuring, variance=statistics.gradient_variance),
    ],
)
def test_an_example_of_weight_0_counts_as_absent_whatever_it_holds(quantity, x64):
    params, state, x, target, _, weights = arguments(WEIGHTS.astype(float))
    absent = np.asarray(WEIGHTS) == 0
    present = np.flatnonzero(~absent)
    before = (jax.tree.map(jnp.cos, params),) if quantity in OF_VECTORS else ()
    after = (x[:2] + 1, target[:2]) if quantity is INFLUENCE else ()
    compute = jax.jit(quantity(NETWORK, LOSS))

    def of(x, target, weights):
        return compute(*before, params, state, x, target, *after, None, weights)

    found = of(jnp.asarray(np.where(absent[:, None], np.nan, x)), target, weights)
    alone = of(x[present], target[present], weights[present])
    if quantity is statistics.dot_products:
        found = found[np.ix_(present, present)]
    elif quantity in PER_EXAMPLE:
        assert all(np.all(np.asarray(a)[absent] == 0) for a in jax.tree.leaves(found))
        found = jax.tree.map(lambda a: a[present], found)
    elif quantity is INFLUENCE:
        assert np.all(np.asarray(found)[:, absent] == 0)
        found = found[:, present]
    assert_agree(found, alone, 1e-9)


@pytest.mark.parametrize(
    "quantity",
    [
        statistics.per_example_squared_norms,
        statistics.gradient_variance,
        statistics.diagonal_ggn,
        statistics.kfac_factors.with_options(samples=None),
    ],
)
def test_captures_taken_without_weights_hold_nothing_of_an_example_of_weight_0(quantity, x64):
    params, state, x, target, _, weights = arguments(WEIGHTS.astype(float))
    present = np.flatnonzero(np.asarray(WEIGHTS))
    take = jax.jit(quantity.make_pass("captures", NETWORK, LOSS))
    poisoned = jnp.asarray(np.where(np.asarray(WEIGHTS)[:, None] == 0, np.nan, x))
    found = quantity.of(take(params, state, poisoned, target), weights)
    if quantity is statistics.per_example_squared_norms:
        found = found[present]
    of_present = take(params, state, x[present], target[present])
    assert_agree(found, quantity.of(of_present, weights[present]), 1e-9)
