"""Difference target propagation: its targets and updates, and the script from end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal

import jaxnn as nn
from experiments.studies import target_propagation as experiment
from experiments.studies.target_propagation import init_inverses, target_propagation
from experiments.support.config import DataConfig

LOSS = nn.half_squared_error()
BATCH = 5


def example(*blocks):
    """(blocks, params, state, x, target) of a network from three numbers to three."""
    x, target = normal(0, (BATCH, 3)), normal(1, (BATCH, 3))
    params, state = nn.serial(*blocks).init(jax.random.key(2), x)
    return blocks, params, state, x, target


def updates(blocks, inverses, params, inverse_params, state, x, target, **options):
    gradient = target_propagation(
        blocks, inverses, LOSS, **{"step_size": 0.5, "noise": 0, **options}
    )
    states = (state, ((),) * len(blocks))
    return jax.jit(gradient)((params, inverse_params), states, x, target, jax.random.key(3))


@pytest.mark.parametrize("corrected", [True, False])
def test_exact_inverses_of_linear_layers_bring_the_targets_of_the_inverse_matrices(x64, corrected):
    """(y − b) W⁻¹ takes h − η̂ δ to (h − η̂ δ − b) W⁻¹, whose distance in units of η̂ is δ W⁻¹."""
    blocks, params, state, x, target = example(nn.dense(3), nn.dense(3), nn.dense(3))
    weights = [p["weight"] for p in params]
    inverse_weights = [jnp.linalg.inv(w) for w in weights]
    inverse_params = (
        (),
        *(
            {"weight": v, "bias": -p["bias"] @ v}
            for p, v in zip(params[1:], inverse_weights[1:], strict=True)
        ),
    )
    inverses = (None, nn.dense(3), nn.dense(3))
    (value, _), (found, learned) = updates(
        blocks, inverses, params, inverse_params, state, x, target, corrected=corrected
    )
    h = [x, x @ weights[0], x @ weights[0] @ weights[1]]
    delta = h[2] @ weights[2] - target
    np.testing.assert_allclose(value, jnp.sum(delta**2) / 2 / BATCH)
    for i in (2, 1, 0):
        np.testing.assert_allclose(found[i]["weight"], h[i].T @ delta / BATCH, rtol=1e-9)
        np.testing.assert_allclose(found[i]["bias"], delta.mean(0), rtol=1e-9)
        delta = delta @ inverse_weights[i]
    # What inverts exactly has nothing to learn.
    assert max(jnp.abs(g).max() for g in jax.tree.leaves(learned)) < 1e-12


def test_without_inverses_it_is_backprop(x64):
    blocks, params, state, x, target = example(
        nn.serial(nn.dense(4), nn.tanh()), nn.serial(nn.dense(4), nn.tanh()), nn.dense(3)
    )
    none = (None,) * 3
    (value, _), (found, _) = updates(blocks, none, params, ((),) * 3, state, x, target)
    (expected_value, _), expected = nn.backprop(nn.serial(*blocks), LOSS)(params, state, x, target)
    np.testing.assert_allclose(value, expected_value)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)


def test_where_the_output_is_on_target_only_the_difference_leaves_every_layer_alone(x64):
    blocks, params, state, x, _ = example(nn.serial(nn.dense(4), nn.tanh()), nn.dense(3))
    inverses = (None, nn.dense(4))
    drawn, _ = init_inverses(blocks, inverses, params, state, jax.random.key(4), x)
    on_target = nn.serial(*blocks).predict(params, state, x)
    arguments = (blocks, inverses, params, drawn, state, x, on_target)
    (_, (found, _)), (_, (plain, _)) = updates(*arguments), updates(*arguments, corrected=False)
    assert all((g == 0).all() for g in jax.tree.leaves(found))
    assert jnp.abs(plain[0][0]["weight"]).max() > 0.1


def test_inverses_descend_their_reconstruction_of_noisy_inputs(x64):
    blocks, params, state, x, target = example(nn.dense(4), nn.serial(nn.dense(3), nn.tanh()))
    inverses = (None, nn.dense(4))
    drawn, _ = init_inverses(blocks, inverses, params, state, jax.random.key(4), x)
    _, (_, (_, found)) = updates(blocks, inverses, params, drawn, state, x, target, noise=0.7)
    h = x @ params[0]["weight"]
    noisy = h + 0.7 * jax.random.normal(jax.random.fold_in(jax.random.key(3), 1), h.shape)
    y = jnp.tanh(noisy @ params[1][0]["weight"])

    def error(inverse):
        rebuilt = y @ inverse["weight"] + inverse["bias"]
        return jnp.mean(jnp.sum((rebuilt - noisy) ** 2, -1)) / 2

    expected = jax.grad(error)(drawn[1])
    for name, g in found.items():
        np.testing.assert_allclose(g, expected[name], atol=1e-12)


def test_numbers_outside_of_their_range_are_refused():
    with pytest.raises(ValueError, match="expected step_size to lie in"):
        target_propagation((), (), LOSS, step_size=0.0, noise=0.0)
    with pytest.raises(ValueError, match="expected noise to lie in"):
        target_propagation((), (), LOSS, step_size=1.0, noise=-1.0)


def test_rules_are_compared_by_accuracy_and_angle(tmp_path, monkeypatch):
    wine = DataConfig("wine", standardize="features")
    problem = experiment.Problem(wine, (8, 8), 32, 3, 0.01)
    monkeypatch.setattr(experiment, "PROBLEMS", {"wine": problem})
    rules = ("backprop", "difference targets, from the output")
    monkeypatch.setattr(experiment, "RULES", {r: experiment.RULES[r] for r in rules})
    arguments = ["--problems", "wine", "--output", str(tmp_path)]
    experiment.main(arguments)
    assert (tmp_path / "target_propagation.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "target_propagation.json").read_text())["wine"]
    by_backprop, by_targets = (found[rule] for rule in rules)
    assert len(by_backprop["accuracy"]) == len(by_targets["accuracy"]) == 3
    assert max(max(a) for a in by_backprop["angles"].values()) < 0.1
    first, second, last = by_targets["angles"].values()
    assert min(first + second) > 1
    assert max(last) < 0.1
    with pytest.raises(FileExistsError):
        experiment.main(arguments)


def test_an_unknown_problem_is_named():
    with pytest.raises(ValueError, match="unknown problem 'digit': did you mean 'digits'"):
        experiment.main(["--problems", "digit", "--output", "pictures"])
