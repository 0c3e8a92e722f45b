"""What has no meaning, or is not known, is refused by name before anything is computed."""

import jax
import jax.numpy as jnp
import pytest
from helpers import changed, normal

import jaxnn as nn
from jaxnn import statistics

X = normal(0, (4, 3))
LABELS = jnp.array([0, 1, 1, 0])
CENTER = nn.parameter_free("center", lambda x: (x - x.mean(0), ()), lambda _, dy: dy - dy.mean(0))
MIXING = nn.serial(nn.dense(3), nn.serial(nn.batch_norm(), nn.tanh()), nn.dense(2))


def contracted():
    """A dense layer that sums its gradient at once."""
    layer = nn.dense(2)

    def backward(params, residuals, dy):
        dx, capture = layer.backward(params, residuals, dy)
        return dx, nn.ContractedCapture(capture.gradient(), layer="tied")

    return changed(layer, "tied", backward=backward)


def shapes(network):
    """The params and state of a network, of which nothing is computed."""
    return jax.eval_shape(network.init, jax.random.key(0), X)


def ask(statistic, network, loss=None, key=None, **options):
    loss = loss or nn.softmax_cross_entropy()
    compute = statistic(network, loss, **options)
    return jax.eval_shape(compute, *shapes(network), X, LABELS, key)


OF_EXAMPLES = [
    statistics.per_example_gradients,
    statistics.per_example_squared_norms,
    statistics.dot_products,
    statistics.gradient_second_moment,
    statistics.gradient_variance,
    statistics.gradient_signal_to_noise,
    statistics.gradient_noise_scale,
    statistics.diagonal_ggn,
    statistics.fisher_information,
]


@pytest.mark.parametrize("statistic", OF_EXAMPLES)
def test_a_layer_that_mixes_examples_is_refused_by_name_with_the_remedy(statistic):
    with pytest.raises(
        ValueError, match=r"1\.0 batch_norm mixes the examples .* in_inference_mode"
    ) as error:
        ask(statistic, MIXING)
    assert str(error.value).startswith(statistic.__name__)


@pytest.mark.parametrize("statistic", OF_EXAMPLES)
def test_the_remedy_works(statistic):
    ask(statistic, nn.in_inference_mode(MIXING))


@pytest.mark.parametrize("statistic", [*OF_EXAMPLES, statistics.kfac_factors])
def test_a_layer_that_mixes_examples_without_saying_so_is_found_out(statistic):
    with pytest.raises(ValueError, match=rf"{statistic.__name__}: .* but 1\.0 center mixes the"):
        ask(statistic, nn.serial(nn.dense(3), nn.serial(CENTER)), key=jax.random.key(0))


def test_mixing_is_found_inside_of_a_repeat_and_by_functions_of_captures():
    network = nn.repeat(nn.serial(nn.dense(3), nn.batch_norm()), 2)
    with pytest.raises(ValueError, match="batch_norm mixes"):
        ask(statistics.per_example_gradients, network)
    params, state = shapes(MIXING)
    run = nn.backward_pass(MIXING, nn.softmax_cross_entropy())
    captures = jax.eval_shape(run, params, state, X, LABELS).captures
    for function in (
        statistics.per_example_gradients.of,
        statistics.per_example_squared_norms.of,
        statistics.dot_products.of,
        lambda c: statistics.products_with(c, params),
        lambda c: statistics.gradient_second_moment.of(c, jnp.ones(4) / 4),
    ):
        with pytest.raises(ValueError, match="batch_norm mixes"):
            function(captures)


@pytest.mark.parametrize(
    ("network", "name"), [(MIXING, "batch_norm"), (nn.serial(nn.dense(2), CENTER), "center")]
)
def test_other_quantities_that_need_single_examples_refuse_it_too(network, name):
    params, state = shapes(network)
    with pytest.raises(ValueError, match=rf"kfac_factors: .*{name} mixes"):
        ask(statistics.kfac_factors, network, key=jax.random.key(0))
    with pytest.raises(ValueError, match=rf"empirical_ntk: .*{name} mixes"):
        jax.eval_shape(statistics.empirical_ntk(network), params, state, X)
    influence = statistics.influence(network, nn.softmax_cross_entropy(), damping=1.0)
    with pytest.raises(ValueError, match=rf"influence: .*{name} mixes"):
        jax.eval_shape(influence, params, state, X, LABELS, X, LABELS)
    for several in (statistics.measure, statistics.measuring):
        compute = several(network, nn.softmax_cross_entropy(), v=statistics.gradient_variance)
        with pytest.raises(ValueError, match=rf"{several.__name__}: .*{name} mixes"):
            jax.eval_shape(compute, params, state, X, LABELS)


@pytest.mark.parametrize("statistic", OF_EXAMPLES)
def test_a_gradient_that_is_contracted_already_is_refused_by_the_name_of_its_layer(statistic):
    with pytest.raises(ValueError, match="1 tied gives its gradient summed over the batch"):
        ask(statistic, nn.serial(nn.dense(3), contracted()))


@pytest.mark.parametrize(
    "statistic", [statistics.diagonal_ggn, statistics.kfac_factors, statistics.fisher_information]
)
def test_a_loss_whose_hessian_root_is_not_known_is_refused_by_name(statistic):
    with pytest.raises(ValueError, match=rf"{statistic.__name__}: .*hessian_root.* got hinge"):
        statistic(nn.dense(2), nn.hinge())


def test_an_empirical_fisher_needs_no_hessian_root():
    statistics.fisher_information(nn.dense(2), nn.hinge(), empirical=True)


@pytest.mark.parametrize(
    ("statistic", "options"),
    [
        (statistics.diagonal_ggn, {"samples": 1}),
        (statistics.kfac_factors, {}),
        (statistics.hessian_trace, {"samples": 1}),
        (statistics.hessian_diagonal, {"samples": 1}),
    ],
)
def test_what_draws_random_numbers_needs_a_key(statistic, options):
    with pytest.raises(ValueError, match=rf"{statistic.__name__}: expected key"):
        ask(statistic, nn.dense(2), **options)


@pytest.mark.parametrize("samples", [0, -1])
@pytest.mark.parametrize(
    "statistic", [statistics.diagonal_ggn, statistics.hessian_trace, statistics.kfac_factors]
)
def test_a_number_of_samples_below_one_is_refused(statistic, samples):
    with pytest.raises(ValueError, match=f"samples to be at least 1, got {samples}"):
        statistic(nn.dense(2), nn.softmax_cross_entropy(), samples=samples)


def test_an_unknown_way_to_treat_positions_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'reduce'"):
        statistics.kfac_factors(nn.dense(2), nn.softmax_cross_entropy(), positions="reduced")


@pytest.mark.parametrize("damping", [0.0, -1.0])
def test_influence_refuses_damping_that_is_not_positive(damping):
    with pytest.raises(ValueError, match="damping"):
        statistics.influence(nn.dense(2), nn.softmax_cross_entropy(), damping=damping)


def test_weights_of_another_shape_are_refused():
    params, state = shapes(nn.dense(2))
    for statistic in (
        statistics.per_example_gradients,
        statistics.gradient_variance,
        statistics.diagonal_ggn,
        statistics.ggn_vector_product,
    ):
        compute = statistic(nn.dense(2), nn.softmax_cross_entropy())
        vector = (params,) if statistic is statistics.ggn_vector_product else ()
        with pytest.raises(ValueError, match="expected weights to be one float32 for each example"):
            jax.eval_shape(compute, *vector, params, state, X, LABELS, weights=jnp.ones(3))


def test_norms_of_a_network_without_parameters_are_refused():
    compute = statistics.per_example_squared_norms(nn.tanh(), nn.softmax_cross_entropy())
    with pytest.raises(ValueError, match="expected a network with parameters"):
        jax.eval_shape(compute, (), (), X, LABELS)


def test_captures_of_several_batch_sizes_or_another_number_of_weights_are_refused():
    captures = [nn.LinearCapture(jnp.ones((n, 2)), jnp.ones((n, 2))) for n in (3, 4)]
    with pytest.raises(ValueError, match=r"expected one batch size in all of them, got \[3, 4\]"):
        statistics.gradient_variance.of(captures)
    with pytest.raises(ValueError, match=r"one factor for each of 3 examples, got shape \(1,\)"):
        statistics.per_example_squared_norms.of(captures[0], jnp.ones(1))
