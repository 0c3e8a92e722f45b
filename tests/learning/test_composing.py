"""K-FAC inside optax's wrappers, its dampings, micro-batches and EK-FAC, against definitions."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import interop, statistics
from jaxnn.learning.damping import levenberg_marquardt
from jaxnn.learning.preconditioning import kfac, kfac_labels
from jaxnn.training import create_state, make_epoch, make_step
from jaxnn.training.checkpoints import Checkpoints

NETWORK = nn.serial(first=nn.dense(3), norm=nn.layer_norm(), act=nn.tanh(), head=nn.dense(2))
LOSS = nn.softmax_cross_entropy()
BATCH = 6
LABELS = jnp.arange(BATCH) % 2
EXACT = {"damping": 0.1, "samples": None}


@cache
def problem():
    """Params, gradients and the extra arguments of an update, in float64."""
    with jax.enable_x64(True):
        x = normal(0, (BATCH, 4))
        params, state = started(NETWORK, x)
        _, gradients = jax.jit(nn.backprop(NETWORK, LOSS))(params, state, x, LABELS)
        extra = {"arguments": (state, x, LABELS, None, None), "whole_params": params}
        return params, gradients, extra


def make(**options):
    x = jnp.zeros((1, 4))
    return kfac(NETWORK, LOSS, x, LABELS[:1], **EXACT | options)


def after(transformation, steps=1):
    """(updates, state) of so many steps with the same gradients."""
    params, gradients, extra = problem()

    @jax.jit
    def run():
        state = transformation.init(params)
        for _ in range(steps):
            updates, state = transformation.update(gradients, state, params, **extra)
        return updates, state

    return run()


@cache
def whole(steps=1, **options):
    """What `kfac` by itself gives."""
    with jax.enable_x64(True):
        return after(make(**options), steps)


def only(*held):
    """A mask of these layers of the network, with all their parameters."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].name in held, problem()[0])


def prefix(*held):
    """The same with one value for a layer."""
    params = problem()[0]
    by_name = zip(NETWORK.names, params, strict=True)
    return type(params)(*(name in held if own else () for name, own in by_name))


@pytest.mark.parametrize("mask_of", [only, prefix])
def test_masked_preconditions_the_layers_of_its_mask_alone(mask_of, x64):
    found, state = after(optax.masked(make(), mask_of("first", "norm")))
    _, gradients, _ = problem()
    assert_agree(found[0], whole()[0][0], 1e-12)
    assert_agree(found[1:], gradients[1:], 0)
    assert state.inner_state.factors[3] is None  # and no work is done for it


def test_partition_gives_the_layers_that_are_not_covered_to_adam(x64):
    params, gradients, _ = problem()
    labels = kfac_labels(NETWORK, LOSS, jnp.zeros((1, 4)), LABELS[:1], others=["head"])
    assert labels[0] == {"weight": "kfac", "bias": "kfac"}
    assert set(labels[1].values()) == set(labels[3].values()) == {"other"}
    parts = {"kfac": optax.chain(make(), optax.sgd(0.5)), "other": optax.adam(0.1)}
    found, _ = after(optax.partition(parts, labels))
    by_adam = optax.adam(0.1).update(gradients, optax.adam(0.1).init(params))[0]
    assert_agree(found[0], jax.tree.map(lambda u: -0.5 * u, whole()[0][0]), 1e-12)
    assert_agree(found[1:], by_adam[1:], 1e-12)


def test_a_partitioned_optimiser_trains_in_a_scanned_epoch():
    x, target = normal(0, (32, 4), jnp.float32), jnp.arange(32) % 2
    like = (NETWORK, LOSS, x[:1], target[:1])
    adaptive = kfac(*like, damping=levenberg_marquardt(0.1, every=2), ekfac=True, micro_batches=2)
    parts = {"kfac": optax.chain(adaptive, optax.sgd(0.1)), "other": optax.adam(0.01)}
    optimizer = optax.partition(parts, kfac_labels(*like))
    train_state = create_state(NETWORK, optimizer, jax.random.key(0), x[:1])
    epoch = make_epoch(make_step(nn.backprop(NETWORK, LOSS), optimizer), 8)
    losses = []
    for _ in range(5):
        train_state, values = epoch(train_state, x, target)
        losses.append(float(values.mean()))
    assert losses[-1] < losses[0] - 0.05


def test_a_training_with_a_damping_that_adapts_goes_on_from_a_checkpoint_with_the_same_numbers(
    tmp_path,
):
    x, target = normal(0, (12, 4), jnp.float32), jnp.arange(12) % 2
    rule = levenberg_marquardt(0.1, every=2)
    optimizer = optax.chain(
        kfac(NETWORK, LOSS, x[:1], target[:1], damping=rule, samples=None), optax.sgd(0.1)
    )
    epoch = make_epoch(make_step(nn.backprop(NETWORK, LOSS), optimizer), 4, donate=False)
    start = create_state(NETWORK, optimizer, jax.random.key(0), x[:1])
    once, _ = epoch(start, x, target)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, once)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        number, restored = checkpoints.restore(like=start)
    damping = restored.optimizer_state[0].damping.damping
    assert number == 1
    assert damping != rule.initial
    assert_agree(epoch(restored, x, target)[1], epoch(once, x, target)[1], 0)
    both = (epoch(train_state, x, target)[0] for train_state in (restored, once))
    assert_agree(*((own.params, own.optimizer_state) for own in both), 0)


def test_multi_steps_precondition_the_mean_gradient_with_the_last_factors(x64):
    params, gradients, extra = problem()
    optimizer = optax.MultiSteps(make(), 2)
    other = jax.tree.map(lambda g: 3 * g, gradients)

    @jax.jit
    def run():
        state = optimizer.init(params)
        first, state = optimizer.update(gradients, state, params, **extra)
        second, state = optimizer.update(other, state, params, **extra)
        return first, second, state.inner_opt_state.count

    first, second, count = run()
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(first))
    # optax adds up in float32.
    assert_agree(second, jax.tree.map(lambda u: 2 * u, whole()[0]), 1e-6)
    assert count == 1


def test_multi_steps_are_told_in_training_what_k_fac_needs():
    x = normal(0, (6, 4), jnp.float32)
    inner = optax.chain(kfac(NETWORK, LOSS, x[:1], LABELS[:1], **EXACT), optax.sgd(0.1))
    optimizer = optax.MultiSteps(inner, 2).gradient_transformation()
    start = create_state(NETWORK, optimizer, jax.random.key(0), x[:1])
    step = jax.jit(make_step(nn.backprop(NETWORK, LOSS), optimizer))
    first, _ = step(start, x, LABELS)
    second, _ = step(first, x, LABELS)
    alone = jax.jit(make_step(nn.backprop(NETWORK, LOSS), inner))
    whole, _ = alone(create_state(NETWORK, inner, jax.random.key(0), x[:1]), x, LABELS)
    assert_agree(first.params, start.params, 0)
    assert_agree(second.params, whole.params, 1e-5)


def test_multi_steps_inside_of_a_chain_are_told_how_to_hand_on_what_k_fac_needs(x64):
    params, gradients, extra = problem()
    steps = optax.MultiSteps(make(), 2)
    chained = optax.chain(steps, optax.scale(0.5))
    with pytest.raises(ValueError, match=r"optax\.GradientTransformationExtraArgs\(steps\.init"):
        jax.eval_shape(lambda: chained.update(gradients, chained.init(params), params, **extra))
    mended = optax.GradientTransformationExtraArgs(steps.init, steps.update)
    found, _ = after(optax.chain(mended, optax.scale(0.5)), steps=2)
    assert_agree(found, jax.tree.map(lambda u: u / 2, whole()[0]), 1e-6)


STATIC = ("factors_every", "inverse_every", "samples", "micro_batches")


def test_injected_hyperparameters_are_numbers_and_schedules_of_k_fac(x64):
    def injected(**options):
        static = (*STATIC, "x", "target")
        with_state = optax.inject_hyperparams(kfac, static_args=static)
        x = jnp.zeros((1, 4))
        return with_state(NETWORK, LOSS, x, LABELS[:1], **EXACT | options)

    found, state = after(injected(damping=0.3, norm_constraint=1e-3))
    assert_agree(found, after(make(damping=0.3, norm_constraint=1e-3))[0], 1e-6)
    assert state.hyperparams["damping"] == pytest.approx(0.3)
    options = {"inverse_every": 1, "decay": 0.0}
    found, _ = after(injected(damping=lambda count: 0.2 * (1 + count), **options), steps=2)
    assert_agree(found, whole(damping=0.4, **options)[0], 1e-6)


def test_whole_numbers_that_are_injected_are_refused_by_name(untyped, x64):
    params = problem()[0]
    injected = optax.inject_hyperparams(kfac)(NETWORK, LOSS, jnp.zeros((1, 4)), LABELS[:1], **EXACT)
    with pytest.raises(
        TypeError, match=r"factors_every .* static_args of optax.inject_hyperparams"
    ):
        injected.init(params)


def test_a_damping_may_be_a_schedule_of_the_number_of_the_step(x64):
    options = {"inverse_every": 1, "decay": 0.0}
    found, _ = after(make(damping=lambda count: 0.2 * (1 + count), **options), steps=3)
    assert_agree(found, whole(damping=0.6, **options)[0], 1e-12)


def test_a_damping_may_be_traced_and_mapped(x64):
    params, gradients, extra = problem()

    @jax.jit
    @jax.vmap
    def mapped(damping):
        transformation = make(damping=damping)
        return transformation.update(gradients, transformation.init(params), params, **extra)[0]

    found = mapped(jnp.array([0.1, 1.0]))
    for i, damping in enumerate((0.1, 1.0)):
        one = jax.tree.map(lambda a, i=i: a[i], found)
        assert_agree(one, after(make(damping=damping))[0], 1e-10)


@cache
def ratio_and_damping():
    """size -> (ρ, λ) after a step of so many gradients: ρ by its definition, with the Gauss-Newton
    matrix of `jax.jvp` and `jax.hessian`, and λ of the rule that began with ½."""
    params, gradients, extra = problem()
    state, x, labels, *_ = extra["arguments"]
    transformation = make(damping=levenberg_marquardt(0.5, every=1))
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def predict(flat):
        return NETWORK.forward(unravel(flat), state, x, None)[0]

    def mean(y):
        return LOSS.value(y, labels).mean()

    @jax.jit
    def run(size):
        moved = jax.tree.map(lambda p, g: p - size * g, params, gradients)
        step = jax.flatten_util.ravel_pytree(moved)[0] - flat
        y = predict(flat)
        along = jax.jvp(predict, (flat,), (step,))[1].ravel()
        bent = along @ jax.hessian(lambda y: mean(y.reshape(BATCH, 2)))(y.ravel()) @ along
        slope = jax.grad(lambda flat: mean(predict(flat)))(flat) @ step
        ratio = (mean(predict(flat + step)) - mean(y)) / (slope + bent / 2)
        memory = transformation.init(params)
        _, memory = transformation.update(gradients, memory, params, **extra)
        given = extra | {"whole_params": moved}
        _, memory = transformation.update(gradients, memory, moved, **given)
        return ratio, memory.damping.damping

    return run


@pytest.mark.parametrize(
    ("size", "expected"), [(1e-3, 0.95), (2.0, 1.0), (-1e-3, 0.95), (40.0, 1 / 0.95)]
)
def test_the_damping_follows_the_reduction_ratio(size, expected, x64):
    ratio, damping = ratio_and_damping()(size)
    by_rule = 0.95 if ratio > 0.75 else 1 / 0.95 if ratio < 0.25 else 1.0
    assert by_rule == expected, ratio
    assert damping == pytest.approx(0.5 * by_rule)


def test_the_damping_grows_where_the_loss_is_not_finite_and_keeps_its_bounds(x64):
    params, gradients, extra = problem()
    lost = jax.tree.map(lambda p: p * jnp.nan, params)
    rule = levenberg_marquardt(0.5, every=1, largest=0.55)
    transformation = make(damping=rule)

    @jax.jit
    def run(second):
        memory = transformation.init(params)
        for p in (params, second, second):
            _, memory = transformation.update(gradients, memory, p, **extra)
        return memory.damping.damping

    assert run(lost) == pytest.approx(0.55)
    assert run(params) == pytest.approx(0.5)  # nothing has moved


@pytest.mark.parametrize("ekfac", [False, True])
def test_micro_batches_have_the_factors_and_moments_of_the_whole_batch(ekfac, x64):
    found, state = after(make(micro_batches=4, ekfac=ekfac))
    expected, memory = whole(ekfac=ekfac)
    assert_agree(found, expected, 1e-9)
    assert_agree(state.factors, memory.factors, 1e-10)


def test_with_micro_batches_the_captures_of_one_are_held():
    network, loss = nn.serial(*[nn.dense(32), nn.gelu()] * 4), nn.half_squared_error()
    x = jax.ShapeDtypeStruct((2048, 32), jnp.float32)
    params, state = jax.eval_shape(network.init, jax.random.key(0), x)

    def temporary_bytes(parts):
        transformation = kfac(network, loss, x, x, damping=0.1, micro_batches=parts)

        def run(params, x, key):
            memory = transformation.init(params)
            given = {"arguments": (state, x, x, key, None)}
            return transformation.update(params, memory, params, **given)

        compiled = jax.jit(run).lower(params, x, jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(16) < temporary_bytes(1) / 4


def test_ekfac_divides_by_second_moments_along_the_eigenvectors(x64):
    """Of the head by dense matrices: C = U diag(Λ) Uᵀ with U = U_A ⊗ U_B of the factors."""
    params, gradients, extra = problem()
    found, memory = whole(ekfac=True)
    state, x, labels, *_ = extra["arguments"]
    factors = statistics.kfac_factors(NETWORK, LOSS, samples=None)(params, state, x, labels)[3]
    (_, u), (_, v) = (np.linalg.eigh(factors[name]) for name in ("inputs", "deltas"))
    basis = np.kron(u, v)

    def own(head, example):
        y = NETWORK.forward((*params[:3], head), state, example[None], None)[0]
        return y[0]

    jacobian = jax.jit(jax.vmap(jax.jacobian(own), (None, 0)))(params[3], x)
    rows = np.concatenate([jacobian["weight"], np.asarray(jacobian["bias"])[:, :, None]], 2)
    rows = rows.reshape(BATCH, 2, -1)  # [batch, outputs, (in + 1) · out]
    p = np.asarray(jax.nn.softmax(NETWORK.predict(params, state, x)))
    moments = np.zeros(rows.shape[-1])
    for jac, probability in zip(rows, p, strict=True):
        hessian = np.diag(probability) - np.outer(probability, probability)
        turned = jac @ basis
        moments += np.einsum("kp,kl,lp->p", turned, hessian, turned) / BATCH
    assert_agree(memory.inverses[3]["values"].ravel(), moments, 1e-9)
    dense = basis @ np.diag(moments + EXACT["damping"]) @ basis.T
    flat = np.concatenate([gradients[3]["weight"], np.asarray(gradients[3]["bias"])[None]])
    solved = np.linalg.solve(dense, flat.ravel()).reshape(flat.shape)
    assert_agree(found[3], {"weight": solved[:-1], "bias": solved[-1]}, 1e-9)


def test_second_moments_are_means_since_the_eigenvectors_were_computed(x64):
    """Eigenvectors at the steps 0 and 4, moments at 0, 2, 4 and 6, each of its own batch."""
    network, loss = nn.dense(2, use_bias=False), nn.half_squared_error()
    batches = [normal(i, (BATCH, 3)) for i in range(7)]
    target = jnp.zeros((BATCH, 2))
    params, state = started(network, batches[0])
    options = {"factors_every": 2, "inverse_every": 4, "ekfac": True}
    transformation = kfac(network, loss, batches[0], target, **EXACT | options)
    update, memory = jax.jit(transformation.update), transformation.init(params)
    seen = []
    for x in batches:
        _, memory = update(params, memory, params, arguments=(state, x, target, None, None))
        seen.append(memory.inverses)
    # With a Hessian of ones, gradients of columns are x eₖᵀ, along u: (xᵀ u)² for either column.
    for step, of in ((0, (0,)), (1, (0,)), (2, (0, 2)), (3, (0, 2)), (4, (4,)), (6, (4, 6))):
        basis = np.asarray(seen[step]["inputs"])
        moments = np.mean([((np.asarray(batches[i]) @ basis) ** 2).mean(0) for i in of], 0)
        assert_agree(seen[step]["values"], np.stack([moments] * 2, 1), 1e-9)


def test_a_model_of_another_arrangement_is_partitioned_too(x64):
    """A matrix that stands transposed in its own tree, and a scale that no factors cover."""

    def apply(params, x):
        return jnp.tanh(x @ params["kernel"]["w"].T + params["kernel"]["b"]) * params["scale"]

    def start(key, x):
        own = {"w": normal(1, (2, 4)), "b": normal(2, (2,))}
        return {"kernel": own, "scale": normal(3, (2,))}

    network, x = interop.layer(apply, start=start), normal(0, (BATCH, 4))
    params, state = start(None, x), ()
    labels = kfac_labels(network, LOSS, x, LABELS)
    assert labels == {"kernel": {"w": "kfac", "b": "kfac"}, "scale": "other"}
    assert kfac_labels(network, LOSS, x, LABELS, others=["kernel"])["kernel"]["w"] == "other"
    own = kfac(network, LOSS, x, LABELS, **EXACT)
    optimizer = optax.partition({"kfac": own, "other": optax.sgd(1.0)}, labels)
    extra = {"arguments": (state, x, LABELS, None, None), "whole_params": params}

    @jax.jit
    def run():
        _, gradients = nn.backprop(network, LOSS)(params, state, x, LABELS)
        of = [
            one.update(gradients, one.init(params), params, **extra)[0] for one in (own, optimizer)
        ]
        return gradients, *of

    gradients, whole, found = run()
    assert_agree(found["kernel"], whole["kernel"], 1e-12)
    assert_agree(found["scale"], -gradients["scale"], 1e-12)


def test_a_mask_that_divides_a_layer_is_refused(x64):
    params = problem()[0]
    mask = jax.tree.map(lambda _: True, params)
    mask[3]["bias"] = False
    with pytest.raises(ValueError, match=r"that divides head\.bias, head\.weight"):
        optax.masked(make(), mask).init(params)


def test_masked_without_the_whole_parameters_says_what_it_needs(x64):
    params, gradients, extra = problem()
    optimizer = optax.masked(make(), only("first"))
    given = {"arguments": extra["arguments"]}
    with pytest.raises(ValueError, match="whole_params=params with all of them"):
        optimizer.update(gradients, optimizer.init(params), params, **given)


def test_flatten_is_refused_by_name(x64):
    with pytest.raises(ValueError, match=r"inside optax.flatten nothing tells layers apart"):
        optax.flatten(make()).init(problem()[0])


def test_gradients_of_another_network_are_refused(x64):
    with pytest.raises(ValueError, match="expected init to be given the tree of the parameters of"):
        make().init(problem()[0][:2])


def test_a_path_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"kfac_labels: unknown path 'haed': did you mean"):
        kfac_labels(NETWORK, LOSS, jnp.zeros((1, 4)), LABELS[:1], others=["haed"])


@pytest.mark.parametrize(
    ("others", "layer"), [(["head.weight"], "'head'"), (["norm", "first.b*"], "'first'")], ids=repr
)
def test_a_path_that_divides_a_layer_is_refused_at_once_with_the_layer_to_name(others, layer):
    with pytest.raises(ValueError, match=f"all parameters of a layer or none.*name {layer}"):
        kfac_labels(NETWORK, LOSS, jnp.zeros((1, 4)), LABELS[:1], others=others)


@pytest.mark.parametrize(
    ("make_rule", "message"),
    [
        (lambda: levenberg_marquardt(0.0), "expected initial to lie in"),
        (lambda: levenberg_marquardt(1.0, factor=1.0), "expected factor to lie in"),
        (lambda: levenberg_marquardt(1.0, largest=0.5), "smallest <= initial <= largest"),
        (lambda: make(damping=jnp.zeros(())), "expected damping to lie above 0"),
        (lambda: make(micro_batches=0), "expected micro_batches to be at least 1"),
    ],
)
def test_wrong_options_are_named(make_rule, message):
    with pytest.raises(ValueError, match=message):
        make_rule()


@pytest.mark.parametrize("name", ["decay", "norm_constraint"])
def test_numbers_of_an_array_that_is_none_are_named(name, x64):
    with pytest.raises(ValueError, match=rf"kfac: expected {name} to be one number, got shape"):
        make(**{name: jnp.ones(2)})


@pytest.mark.parametrize("value", [0.0, -1.0, "a", None, jnp.ones(2)], ids=repr)
def test_a_schedule_of_damping_that_says_no_number_above_0_is_named(value, x64):
    params, gradients, extra = problem()
    optimizer = make(damping=lambda step: value)
    with pytest.raises((TypeError, ValueError), match="kfac: expected damping to"):
        optimizer.update(gradients, optimizer.init(params), params, **extra)


@pytest.mark.parametrize("arguments", [None, 5, ((), 1)], ids=repr)
def test_arguments_that_are_none_of_a_gradient_function_are_refused(arguments, x64):
    params, gradients, _ = problem()
    optimizer = make()
    with pytest.raises(ValueError, match=r"arguments=\(state, x, target, key, weights\).*got"):
        optimizer.update(gradients, optimizer.init(params), params, arguments=arguments)


@pytest.mark.parametrize("others", ["head", [0]], ids=repr)
def test_paths_that_are_no_sequence_of_strings_are_refused(others, untyped):
    with pytest.raises(TypeError, match=r"kfac_labels: expected .*others to be"):
        kfac_labels(NETWORK, LOSS, jnp.zeros((1, 4)), LABELS[:1], others=others)
