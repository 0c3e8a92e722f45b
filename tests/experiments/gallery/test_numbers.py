"""The numbers that the source notes print, from the gallery's scripts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gallery import (
    activations,
    adaline,
    forward_pass,
    gradient_descent,
    logistic_regression,
    losses,
    norms,
    perceptrons,
    vectorisation,
)


def printed(array):
    """An array as numpy prints it in the notes, to eight decimals."""
    return np.array2string(np.asarray(array), precision=8)


@pytest.mark.parametrize("name", ["AND", "OR", "NAND", "XOR"])
def test_the_given_weights_compute_their_gate(name):
    np.testing.assert_array_equal(
        perceptrons.gate(name, perceptrons.INPUTS), perceptrons.TRUTH[name]
    )


def test_the_matrix_network_computes_xor():
    np.testing.assert_array_equal(perceptrons.xor_network(perceptrons.INPUTS), [0, 1, 1, 0])


def test_the_perceptron_rule_learns_every_gate_but_xor():
    wrong = perceptrons.perceptron_rule()
    assert {name for name, counts in wrong.items() if counts[-1] == 0} == {"AND", "OR", "NAND"}
    assert min(wrong["XOR"]) >= 1


def test_no_single_layer_gets_more_than_three_answers_of_xor():
    learned = perceptrons.learn(perceptrons.LINEAR, starts=10, steps=200)
    assert {name: run.right.max() for name, run in learned.items()} == {
        "AND": 4,
        "OR": 4,
        "NAND": 4,
        "XOR": 3,
    }


def test_a_hidden_layer_learns_xor():
    assert 4 in perceptrons.learn(perceptrons.HIDDEN, starts=5, steps=300)["XOR"].right[:, -1]


def test_adaline_gradient_is_the_same_in_three_ways():
    formula, backward, autodiff = adaline.gradients().values()
    for name in ("weight", "bias"):
        np.testing.assert_allclose(backward[name], formula[name], rtol=1e-12)
        np.testing.assert_allclose(autodiff[name], formula[name], rtol=1e-12)


def test_adaline_descends_below_its_largest_rate_and_climbs_above_it():
    data_set = adaline.wines()
    costs = adaline.train(data_set.standardized, data_set.target).costs
    assert np.all(np.diff(costs[:-1], axis=1) <= 1e-9)
    assert costs[-1, -1] > costs[-1, 0]


def test_adaline_learns_faster_on_standardised_features():
    data_set = adaline.wines()
    raw, standardized = (
        adaline.train(x, data_set.target) for x in (data_set.raw, data_set.standardized)
    )
    assert raw.condition > 1000 * standardized.condition
    assert raw.costs[:-1].min() > standardized.costs[:-1].min()


def test_the_sigmoid_slope_is_at_most_a_quarter_and_two_layers_a_sixteenth():
    _, slope = activations.value_and_derivative(*activations.POINTWISE["sigmoid"][:1], jnp.zeros(1))
    assert slope[0] == 0.25
    assert slope[0] ** 2 == 0.0625


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [("step", 0, 0), ("identity", 0, 1), ("tanh", 0, 1), ("ReLU", 0, 0), ("leaky ReLU", 0, 0.01)],
)
def test_values_and_slopes_at_zero_are_those_of_the_notes(name, value, slope):
    layer, _ = activations.POINTWISE[name]
    assert activations.value_and_derivative(layer, jnp.zeros(1)) == (value, np.float32(slope))


def test_the_plot_range_goes_in_steps_of_a_tenth():
    x = np.asarray(activations.grid(7))
    assert (x[0], x[-1], len(x)) == (-7, 7, 141)
    np.testing.assert_allclose(np.diff(x), 0.1, atol=1e-6)


def test_softmax_without_its_shift_overflows_and_with_it_does_not():
    large = jnp.array([1001.0, 1002.0, 1003.0])
    assert np.isnan(activations.unshifted_softmax(large)).all()
    np.testing.assert_array_equal(activations.softmax(large), activations.softmax(large - 1000))


def test_the_softmax_jacobian_is_diag_y_minus_y_y_transposed():
    rows, formula = activations.softmax_jacobian(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(rows, formula, atol=1e-7)


def test_the_forward_tables_print_the_digits_of_the_notes():
    first, second, third = (
        {name: printed(value) for name, value in forward_pass.forward_values(example).items()}
        for example in (forward_pass.FIRST, forward_pass.SECOND, forward_pass.THIRD)
    )
    assert first == {
        "u1": "[0.3 0.7 1.1]",
        "z1": "[0.57444252 0.66818777 0.75026011]",
        "u2": "[0.51615984 1.21402696]",
        "z2": "[0.62624937 0.7710107 ]",
        "y": "[0.31682708 0.69627909]",
    }
    assert second == {"u1": "[ 11. -14.]", "h1": "[11.  0.]", "y": "[33.]"}
    assert third["y"] == "[0.95257194]"
    assert forward_pass.squared_error(forward_pass.SECOND) == 169


def test_the_backward_table_prints_the_digits_of_the_notes():
    steps = {
        step.quantity: step.backward for step in forward_pass.backward_steps(forward_pass.THIRD)
    }
    assert printed(steps["∂L/∂W2"]) == "[[-1.72104507e+00 -1.43112111e-06]]"
    assert printed(steps["∂L/∂W1"]).split("\n") == [
        "[[-1.72463398e-04 -2.58695098e-04 -8.62316992e-05]",
        " [-5.72447970e-06 -8.58671954e-06 -2.86223985e-06]]",
    ]


def test_every_backward_step_agrees_with_autodiff_and_differences():
    for step in forward_pass.backward_steps(forward_pass.THIRD):
        np.testing.assert_allclose(step.backward, step.autodiff, rtol=1e-10)
        np.testing.assert_allclose(step.backward, step.differences, atol=1e-6)


def test_the_loss_table_prints_the_values_of_the_notes():
    values = {name: f"{value:.6g}" for name, _, _, value in losses.examples()}
    assert (values["mean squared error"], values["L1"], values["L2"]) == ("2", "1.1", "0.43")
    assert values["cross-entropy, y = 0"] == "16.1181"


def test_the_cross_entropy_is_convex_and_the_squared_error_is_not():
    side = np.linspace(-6, 6, 13, dtype=np.float32)
    least = {model: losses.surface(model, side, side)[2] for model in losses.MODELS}
    assert least["squared error"].min() < -0.1
    assert least["cross-entropy"].min() > -1e-5


def test_the_gradient_field_is_the_slope_of_the_surface():
    side = np.linspace(-1, 1, 201, dtype=np.float32)
    value, gradient, _ = losses.surface("squared error", side, side[:1])
    slope = (value[0, 2:] - value[0, :-2]) / (side[2:] - side[:-2])
    np.testing.assert_allclose(gradient[0, 1:-1, 0], slope, atol=1e-4)


def test_the_walk_takes_the_steps_of_the_notes():
    assert gradient_descent.one_step(3.0, 3.0, 0.5) == 1.5
    assert gradient_descent.one_step(1.5, -1.0, 0.5) == 2.0
    np.testing.assert_allclose(gradient_descent.walk(2), [3, 1.5, 2], rtol=1e-6)


def test_the_learning_rates_show_their_four_regimes():
    paths = gradient_descent.regimes()
    assert abs(paths["too small"][-1]) > 1
    assert abs(paths["right"][5]) < 1e-3
    assert paths["large"][0] * paths["large"][1] < 0
    assert abs(paths["large"][-1]) < 0.01
    assert abs(paths["too large"][-1]) > 100


def test_an_epoch_uses_every_example_once():

    batches = gradient_descent.epoch_batches(jax.random.key(3))
    assert sorted(batches.ravel().tolist()) == list(range(gradient_descent.EXAMPLES))


def test_noise_leaves_the_local_minimum_and_plain_descent_does_not():
    begin, plain = gradient_descent.many_starts(0.0)
    _, noisy = gradient_descent.many_starts(12.0)
    assert (plain[begin > 0.2] > 0).all()
    assert np.mean(noisy < 0) > np.mean(plain < 0) + 0.1


def test_momentum_beats_plain_descent_in_a_narrow_valley():
    races = gradient_descent.races()
    assert races["momentum"][1][-1] < races["SGD"][1][-1] / 1000


def test_logistic_loops_and_products_agree():
    assert logistic_regression.compare(repeat=1).difference < 1e-12


def test_logistic_regression_separates_most_tumours():
    fit = logistic_regression.fit(logistic_regression.tumours())
    assert min(fit.train_accuracy, fit.test_accuracy) > 0.95
    assert fit.losses[-1] < fit.losses[0]


def test_the_dot_product_is_the_same_in_three_ways():
    (row,) = vectorisation.dot_products(sizes=(1000,))
    loop, numpy, jitted = row["values"].values()
    assert loop == pytest.approx(numpy, rel=1e-12)
    assert jitted == pytest.approx(numpy, rel=1e-12)


def test_a_batch_gives_what_its_examples_give():
    _, difference = vectorisation.forward_passes(examples=5)
    assert difference < 1e-6


def test_the_norms_print_the_digits_of_the_notes():
    values = {name: printed(value) for name, value in norms.norms().items()}
    assert values["L0"] == "[2. 2. 2.]"
    assert values["L1"] == "[7. 5. 5.]"
    assert values["L2"] == "[5.         3.60555128 4.12310563]"
    assert values["rows / L2"].split("\n") == [
        "[[ 0.8         0.6       ]",
        " [-0.83205029  0.5547002 ]",
        " [ 0.9701425  -0.24253563]]",
    ]


def test_shapes_that_do_not_fit_are_named():
    assert ("(3, 2)", "(3,)", "do not fit") in norms.broadcasts()
