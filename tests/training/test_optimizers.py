import inspect

import chex
import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

from jaxnn.training import OPTIMIZERS, make_optimizer, make_plateau
from jaxnn.training.optimizers import evaluated, options_of, step_with

PARAMS = {"weight": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, -0.2])}
GRADIENTS = {"weight": jnp.array([[0.3, -0.1], [2.0, 0.0]]), "bias": jnp.array([-1.0, 0.5])}


def after_steps(optimizer, steps=3):
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(GRADIENTS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def loss_at(params):
    """A quadratic bowl around 0.9, whose Hessian is the identity."""
    return jax.tree.reduce(lambda a, p: a + jnp.sum((p - 0.9) ** 2) / 2, params, 0.0)


def descended(optimizer, steps):
    """The parameters after steps of a compiled scan, and where they are to be evaluated."""
    update = step_with(optimizer, loss_at)

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            value, gradients = jax.value_and_grad(loss_at)(params)
            updates, state = update(gradients, state, params, value)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0]

    params, state = run(PARAMS)
    return evaluated(state, params)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", optax.sgd(0.1)),
        ("momentum", optax.sgd(0.1, momentum=0.9)),
        ("nesterov", optax.sgd(0.1, momentum=0.9, nesterov=True)),
        ("adagrad", optax.adagrad(0.1)),
        ("adadelta", optax.adadelta(0.1)),
        ("rmsprop", optax.rmsprop(0.1)),
        ("adam", optax.adam(0.1)),
        ("adamw", optax.adamw(0.1, weight_decay=0.0)),
        ("adamax", optax.adamax(0.1)),
        ("adabelief", optax.adabelief(0.1)),
        ("nadam", optax.nadam(0.1)),
        ("radam", optax.radam(0.1)),
        ("lamb", optax.lamb(0.1)),
        ("lion", optax.lion(0.1, weight_decay=0.0)),
    ],
)
def test_an_optimizer_steps_as_the_one_of_optax_does(name, reference):
    chex.assert_trees_all_close(
        after_steps(make_optimizer(name, 0.1)), after_steps(reference), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_with_a_schedule_in_a_compiled_loop(name):
    rate = 1.0 if name in ("prodigy", "dadapt_adamw", "dog", "dowg", "cocob", "momo") else 0.05
    params = descended(make_optimizer(name, lambda count: rate, weight_decay=1e-4), 5)
    chex.assert_tree_all_finite(params)
    assert loss_at(params) < loss_at(PARAMS)


def test_all_of_optax_that_takes_a_learning_rate_is_there_or_refused():
    known = {
        name
        for module in (optax, optax.contrib)
        for name, function in vars(module).items()
        if callable(function)
        and not name.startswith(("_", "scale_by_"))
        and "learning_rate" in getattr(function, "__annotations__", {})
        and not inspect.isclass(function)
    }
    assert {"adafactor", "lbfgs", "muon", "schedule_free_adamw", "sophia"} <= known
    assert known - set(OPTIMIZERS) == {"dpsgd", "schedule_free"}


@pytest.mark.parametrize("name", ["dpsgd", "mechanize", "sam", "schedule_free"])
def test_what_is_no_optimizer_by_itself_is_refused_with_the_way_out(name):
    with pytest.raises(ValueError, match=f"optimizer {name}: expected one that is whole by itself"):
        make_optimizer(name, 0.1)


def test_lbfgs_finds_the_bottom_of_a_bowl_by_its_line_search():
    params = descended(make_optimizer("lbfgs", 1.0), 3)
    chex.assert_trees_all_close(params, jax.tree.map(lambda p: 0 * p + 0.9, PARAMS), rtol=1e-4)


def test_schedule_free_is_evaluated_at_its_average():
    ours = make_optimizer("schedule_free_sgd", 0.1)
    reference = optax.contrib.schedule_free_sgd(0.1)
    params, state = PARAMS, reference.init(PARAMS)
    for _ in range(3):
        updates, state = reference.update(jax.grad(loss_at)(params), state, params)
        params = optax.apply_updates(params, updates)
    expected = optax.contrib.schedule_free_eval_params(state, params)
    chex.assert_trees_all_close(descended(ours, 3), expected, rtol=1e-5)
    assert (expected["weight"] != params["weight"]).any()
    plain = make_optimizer("adam", 0.1)
    assert evaluated(plain.init(PARAMS), PARAMS) is PARAMS


def test_a_plateau_multiplies_the_updates_after_patience_epochs():
    plateau = make_plateau({"factor": 0.5, "patience": 2}, accumulation_size=2)
    optimizer = optax.chain(make_optimizer("sgd", 1.0), plateau)
    update, state = step_with(optimizer, loss_at), optimizer.init(PARAMS)
    sizes = []
    for _ in range(12):
        updates, state = update(GRADIENTS, state, PARAMS, jnp.array(3.0))
        sizes.append(float(updates["bias"][0]))
    # The first mean is the best, two more are not; then every second one.
    assert sizes == [1.0] * 5 + [0.5] * 4 + [0.25] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": 3}, "unknown option of schedule reduce_on_plateau 'patients': did you mean"),
        ({"factor": 1.0}, r"expected factor to lie in \(0, 1\)"),
        ({"patience": 0}, "expected patience"),
        ({"patience": 1.5}, "expected patience"),
        ({"rtol": -1.0}, "expected rtol"),
    ],
)
def test_what_is_wrong_with_a_plateau_is_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_plateau(options)


def test_options_reach_optax():
    ours = after_steps(make_optimizer("adam", 0.1, {"b1": 0.5, "eps": 0.1}))
    chex.assert_trees_all_close(ours, after_steps(optax.adam(0.1, b1=0.5, eps=0.1)), rtol=1e-5)


def test_a_schedule_serves_as_learning_rate():
    schedule = optax.linear_schedule(1.0, 0.0, 2)
    params = after_steps(make_optimizer("sgd", schedule))  # rates 1, 1/2, 0
    expected = jax.tree.map(lambda p, g: p - 1.5 * g, PARAMS, GRADIENTS)
    chex.assert_trees_all_close(params, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_shrinks_weights_and_leaves_biases(name):
    with_decay = after_steps(make_optimizer(name, 0.1, weight_decay=0.5), 1)
    without = after_steps(make_optimizer(name, 0.1), 1)
    shrunk = without["weight"] - 0.1 * 0.5 * PARAMS["weight"]
    chex.assert_trees_all_close(with_decay["weight"], shrunk, rtol=1e-5)
    chex.assert_trees_all_equal(with_decay["bias"], without["bias"])


def test_weight_decay_of_adam_is_an_l2_penalty_inside_the_gradient():
    params = after_steps(make_optimizer("adam", 0.1, weight_decay=0.5))
    mask = {"weight": True, "bias": False}
    reference = optax.chain(optax.add_decayed_weights(0.5, mask), optax.adam(0.1))
    chex.assert_trees_all_close(params, after_steps(reference), rtol=1e-5)


def test_clipping_scales_the_whole_gradient_to_the_norm():
    norm = optax.tree.norm(GRADIENTS)
    clipped = after_steps(make_optimizer("sgd", 1.0, clip_norm=0.5), 1)
    expected = jax.tree.map(lambda p, g: p - g * 0.5 / norm, PARAMS, GRADIENTS)
    chex.assert_trees_all_close(clipped, expected, rtol=1e-5)
    chex.assert_trees_all_equal(
        after_steps(make_optimizer("sgd", 1.0, clip_norm=100.0), 1),
        after_steps(make_optimizer("sgd", 1.0), 1),
    )


@pytest.mark.parametrize(("size", "dtype"), [(1e30, jnp.float32), (300, jnp.float16)])
def test_gradients_whose_squares_overflow_are_clipped_all_the_same(size, dtype):
    large = {"weight": jnp.full((3, 4), size, dtype), "bias": jnp.full((4,), -size, dtype)}
    optimizer = make_optimizer("sgd", 1.0, clip_norm=2.0)
    updates, _ = optimizer.update(large, optimizer.init(large))
    expected = jax.tree.map(lambda g: jnp.full(g.shape, -0.5 * jnp.sign(g), dtype), large)
    chex.assert_trees_all_close(updates, expected, rtol=1e-3)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, large)


def test_decay_is_not_clipped_away():
    params = after_steps(make_optimizer("sgd", 1.0, weight_decay=0.5, clip_norm=0.5), 1)
    clipped = after_steps(make_optimizer("sgd", 1.0, clip_norm=0.5), 1)
    shrunk = clipped["weight"] - 0.5 * PARAMS["weight"]
    chex.assert_trees_all_close(params["weight"], shrunk, rtol=1e-5)


def test_every_option_of_every_optimizer_is_checked_and_its_default_passes():
    for name in OPTIMIZERS:
        defaults = options_of(name)
        make_optimizer(name, 0.1, defaults)
        for option in defaults:
            with pytest.raises(ValueError, match=f"optimizer {name}: .*{option}"):
                make_optimizer(name, 0.1, {option: {}})


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("adamm", 0.1), {}, "unknown optimizer 'adamm': did you mean 'adam'"),
        (("sgd", 0.1, {"momentun": 0.5}), {}, "unknown option of optimizer sgd.*'momentum'"),
        (("adam", 0.1, {"weight_decay": 0.5}), {}, "unknown option of optimizer adam"),
        (("adam", 0.1, {"b1": "x"}), {}, "optimizer adam: cannot work with the options"),
        (("adam", 0.1, {"b1": 2}), {}, r"expected b1 to lie in \[0, 1\), got 2"),
        (("adam", 0.1, {"b2": -0.1}), {}, r"expected b2 to lie in \[0, 1\)"),
        (("rmsprop", 0.1, {"decay": 1.0}), {}, r"expected decay to lie in \[0, 1\)"),
        (("nesterov", 0.1, {"momentum": float("nan")}), {}, r"expected momentum to lie in"),
        (("adam", 0.1, {"eps": -1e-8}), {}, r"expected eps to lie in \[0, inf\)"),
        (("adam", 0.1, {"eps": [1]}), {}, "expected eps to be a Python number"),
        (("adam", 0.1, {"nesterov": 1}), {}, "expected nesterov to be True or False, got 1"),
        (("adam", 0.1, {"mu_dtype": "int8"}), {}, "unknown mu_dtype 'int8'"),
        (("adam", 0.1, {"mu_dtype": "f4,'"}), {}, "unknown mu_dtype"),
        (("prodigy", 1.0, {"betas": (0.9, 1.5)}), {}, "expected betas to lie in"),
        (("prodigy", 1.0, {"betas": 0.9}), {}, r"expected betas to be such as \(0.9, 0.999\)"),
        (("dog", 1.0, {"init_step": ("x", 1.0)}), {}, "expected init_step to be such as"),
        (("muon", 0.1, {"ns_steps": 0}), {}, "expected ns_steps"),
        (("muon", 0.1, {"preconditioning": "aoi"}), {}, "unknown preconditioning 'aoi'.*'aol'"),
        (("lbfgs", 0.1, {"memory_size": 1.5}), {}, "expected memory_size"),
        (("adopt", 0.1, {"clip_value_fn": 3}), {}, "unknown option of optimizer adopt"),
        (("sgd", 0.0), {}, "learning_rate"),
        (("sgd", -1.0), {}, "learning_rate"),
        (("sgd", float("nan")), {}, "learning_rate"),
        (("sgd", 0.1), {"weight_decay": -1.0}, "weight_decay"),
        (("sgd", 0.1), {"clip_norm": 0.0}, "clip_norm"),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(*arguments, **options)
