import jax
import jax.numpy as jnp
import pytest
from helpers import ChangedLoss, changed, normal, started

import jaxnn as nn

DENSE = nn.dense(3)
X = normal(0, (2, 4))


def dense_whose(change):
    """A dense layer whose backward returns what ``change`` makes of (dx, capture, dy)."""
    return changed(DENSE, backward=lambda params, x, dy: change(*DENSE.backward(params, x, dy), dy))


def altered(capture, **factors):
    gradients = capture.gradient()
    return nn.ContractedCapture({k: gradients[k] * factors.get(k, 1) for k in gradients})


WRONG = {
    "wrong dx": (dense_whose(lambda dx, c, dy: (1.01 * dx, c)), "float64 dx[0]", "vjp"),
    "wrong weight": (
        dense_whose(lambda dx, c, dy: (dx, altered(c, weight=1.01))),
        "float64 dense weight",
        "vjp",
    ),
    "wrong bias": (
        dense_whose(lambda dx, c, dy: (dx, altered(c, bias=-1))),
        "float64 dense bias",
        "vjp",
    ),
    "nonlinear in dy": (
        dense_whose(lambda dx, c, dy: (dx * jnp.abs(dy).sum(), c)),
        "float64 dx[0]",
        "linearity",
    ),
    "predict unlike forward": (
        changed(DENSE, predict=lambda *a: 1.01 * DENSE.predict(*a)),
        "float64 y[0]",
        "predict",
    ),
    "missing key": (
        dense_whose(lambda dx, c, dy: (dx, nn.LinearCapture(c.inputs, c.deltas, use_bias=False))),
        "float64 gradients",
        "tree",
    ),
    "wrong dtype": (
        dense_whose(lambda dx, c, dy: (dx.astype(jnp.float16), c)),
        "float64 dx",
        "tree",
    ),
    "wrong shape": (dense_whose(lambda dx, c, dy: (dx[:1], c)), "float64 dx", "tree"),
    "not a number": (dense_whose(lambda dx, c, dy: (dx * jnp.nan, c)), "float64 dx[0]", "vjp"),
}


@pytest.mark.parametrize("name", WRONG)
def test_check_layer_finds_a_wrong_layer_and_names_the_quantity(name):
    layer, quantity, methods = WRONG[name]
    report = nn.check_layer(layer, X)
    failed = [(c.quantity, c.methods) for c in report.comparisons if not c.passed]
    assert any(q == quantity and methods in m for q, m in failed), str(report)
    with pytest.raises(AssertionError, match="FAILED"):
        report.require()


def test_check_layer_names_the_layer_inside_of_a_network():
    network = nn.serial(nn.tanh(), nn.serial(WRONG["wrong weight"][0]))
    failed = {c.quantity for c in nn.check_layer(network, X).comparisons if not c.passed}
    assert failed == {"float64 1.0 dense weight", "float32 1.0 dense weight"}


def test_a_right_layer_passes_in_both_precisions_and_require_returns_the_report():
    report = nn.check_layer(DENSE, X)
    assert report.require() is report
    assert {c.quantity.split()[0] for c in report.comparisons} == {"float64", "float32"}
    assert "FAILED" not in str(report)


def test_check_layer_refuses_a_gradient_for_integers():
    layer = nn.parameter_free("cast", lambda x: (x[0] * x[1], x[1]), lambda k, dy: (dy * k, dy))
    with pytest.raises(ValueError, match="expected dx to be None for an input of int"):
        nn.check_layer(layer, (X, jnp.ones((2, 4), int)))


@pytest.mark.parametrize("name", ["wrong weight", "wrong bias"])
def test_check_gradients_names_layer_and_parameter(name, x64):
    network = nn.serial(nn.tanh(), WRONG[name][0])
    x = normal(0, (2, 4))
    params, state = started(network, x)
    loss = nn.mean_squared_error()
    report = nn.check_gradients(network, loss, params, state, x, normal(1, (2, 3)))
    failed = {(c.quantity, c.methods) for c in report.comparisons if not c.passed}
    parameter = "1 dense " + name.removeprefix("wrong ")
    assert failed == {
        (parameter, "backprop against autodiff"),
        (parameter, "backprop against numerical"),
    }
    assert parameter in str(report)


def test_check_gradients_finds_a_wrong_loss_gradient(x64):
    loss = nn.mean_squared_error()
    wrong = ChangedLoss(loss, lambda y, t: 2 * loss.gradient(y, t))
    x = normal(0, (2, 4))
    params, state = started(DENSE, x)
    report = nn.check_gradients(DENSE, wrong, params, state, x, normal(1, (2, 3)))
    assert not report.passed


def test_check_gradients_takes_other_references_and_a_tolerance(x64):
    x, target = normal(0, (2, 4)), normal(1, (2, 3))
    params, state = started(DENSE, x)
    loss = nn.mean_squared_error()
    against = {"differences": nn.numerical(DENSE, loss, 1e-3)}
    report = nn.check_gradients(
        DENSE, loss, params, state, x, target, against=against, tolerance=1e-6
    )
    assert report.require().comparisons[0].methods == "backprop against differences"
    assert {c.tolerance for c in report.comparisons} == {1e-6}


def test_a_gradient_that_is_zero_but_for_rounding_passes():
    # The bias before a normalisation has no influence.
    network = nn.serial(nn.dense(3), nn.batch_norm())
    nn.check_layer(network, jax.random.normal(jax.random.key(0), (5, 4))).require()
