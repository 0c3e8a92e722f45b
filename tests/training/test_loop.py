import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_problems as problems

import jaxnn as nn
from jaxnn.core.checking import relative_errors
from jaxnn.learning.privacy import private
from jaxnn.training import (
    Crosscheck,
    Disagreement,
    Diverged,
    Streamed,
    create_state,
    make_optimizer,
    poisson,
    shuffled,
    task_of,
    train,
)


def run(start, **options):
    few = {"epochs": 3, "batch_size": problems.BATCH_SIZE, "crosscheck": None}
    return list(train(*start, **few | options))


def plain(train_state):
    return train_state._replace(key=jax.random.key_data(train_state.key))


def changed(function):
    """A network whose second dense layer has another backward pass."""
    dense = nn.dense(problems.CLASSES)

    def backward(params, residuals, dy):
        return function(*dense.backward(params, residuals, dy))

    other = nn.layer("dense", dense.init, dense.forward, backward)
    return nn.serial(nn.dense(6), nn.tanh(), other)


def validation():
    x, target = problems.data()
    return x, target, task_of(nn.softmax_cross_entropy(), problems.CLASSES)


@pytest.fixture(scope="module")
def uninterrupted():
    return run(problems.start(problems.network()), epochs=4)


def test_epochs_are_numbered_and_the_loss_falls(uninterrupted):
    assert [epoch.number for epoch in uninterrupted] == [1, 2, 3, 4]
    assert [len(epoch.losses) for epoch in uninterrupted] == [3] * 4
    assert int(uninterrupted[-1].train_state.step) == 12
    first, *_, last = [epoch.losses.mean() for epoch in uninterrupted]
    assert last < first


def test_the_same_seed_gives_the_same_numbers(uninterrupted):
    again = run(problems.start(problems.network()), epochs=4)
    chex.assert_trees_all_equal(plain(again[-1].train_state), plain(uninterrupted[-1].train_state))


def test_another_seed_gives_others(uninterrupted):
    other = run(problems.start(problems.network(), seed=1), epochs=1)
    assert (other[0].losses != uninterrupted[0].losses).any()


def test_going_on_from_a_saved_epoch_is_bit_for_bit_the_uninterrupted_run(uninterrupted):
    network, loss, optimizer, _, x, target = problems.start(problems.network())
    saved = uninterrupted[1].train_state
    resumed = run((network, loss, optimizer, saved, x, target), epochs=4)
    assert [epoch.number for epoch in resumed] == [3, 4]
    for ours, theirs in zip(resumed, uninterrupted[2:], strict=True):
        np.testing.assert_array_equal(ours.losses, theirs.losses)
        chex.assert_trees_all_equal(plain(ours.train_state), plain(theirs.train_state))


def test_autodiff_gives_the_same_training(uninterrupted):
    start = problems.start(problems.network())
    epochs = run(start, gradient=nn.autodiff(*start[:2]))
    ours, theirs = (plain(e[2].train_state) for e in (epochs, uninterrupted))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert [epoch.disagreement for epoch in epochs] == [None] * 3


def test_crosscheck_gives_the_same_training(uninterrupted):
    epochs = run(problems.start(problems.network()), crosscheck=Crosscheck(every=2))
    ours, theirs = (plain(e[2].train_state) for e in (epochs, uninterrupted))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert all(0 <= epoch.disagreement < 1e-5 for epoch in epochs)


def test_accumulated_micro_batches_give_the_same_training():
    network = nn.serial(nn.dense(6), nn.tanh(), nn.dense(problems.CLASSES))
    start = problems.start(network)
    gradient = nn.accumulate(nn.backprop(*start[:2]), 3, network=network)
    ours, theirs = (run(start, gradient=g)[-1].train_state for g in (gradient, None))
    chex.assert_trees_all_close(ours.params, theirs.params, rtol=1e-3, atol=1e-5)


def test_crosschecks_come_at_the_first_step_and_not_more_often_than_asked():
    epochs = run(problems.start(nn.serial(nn.dense(3))), crosscheck=Crosscheck(every=6), epochs=5)
    assert [epoch.disagreement is not None for epoch in epochs] == [True, False, True, False, True]


def test_crosscheck_compares_the_gradient_that_is_given():
    start = problems.start(nn.serial(nn.dense(3)))
    right = nn.backprop(*start[:2])

    def wrong(*arguments):
        result, gradients = right(*arguments)
        return result, jax.tree.map(lambda g: 1.5 * g, gradients)

    message = "the gradient given and autodiff disagree at step 0 in 0 dense bias, 0 dense weight\n"
    with pytest.raises(Disagreement, match=message):
        run(start, gradient=wrong, crosscheck=Crosscheck())


def test_crosscheck_compares_with_another_gradient_than_autodiff_if_told():
    start = problems.start(nn.serial(nn.dense(3)))
    gradient = nn.backprop(*start[:2])

    def against(*arguments):
        result, gradients = gradient(*arguments)
        return result, jax.tree.map(lambda g: 2 * g, gradients)

    with pytest.raises(Disagreement, match="backprop and the one to compare with disagree"):
        run(start, crosscheck=Crosscheck(against=against))


def right_and_wrong_networks(wrap):
    def wrong(dx, capture):
        return dx, type(capture)(capture.inputs, 1.5 * capture.deltas)

    right = nn.serial(nn.dense(6), nn.dropout(0.3), nn.dense(problems.CLASSES))
    return wrap(right), wrap(changed(wrong))


NOT_THE_GRADIENT = {
    "feedback": (nn.feedback_alignment, None),
    "bfloat16": (lambda network: nn.with_precision(network, nn.POLICIES["bfloat16"]), None),
    "float16": (lambda network: nn.with_precision(network, nn.POLICIES["float16"]), None),
    "private": (
        lambda network: network,
        lambda *given: private(*given, clip_norm=1.0, noise_multiplier=1.0, batch_size=8),
    ),
    "accumulated": (
        lambda network: network,
        lambda *given: nn.accumulate(nn.backprop(*given), 2, network=given[0]),
    ),
}


@pytest.mark.parametrize("name", NOT_THE_GRADIENT)
def test_what_differs_from_the_gradient_by_intent_is_checked_where_it_does_not(name):
    wrap, make = NOT_THE_GRADIENT[name]
    right, wrong = right_and_wrong_networks(wrap)
    draw = poisson if name == "private" else shuffled
    for network in (right, wrong):
        start = problems.start(network)
        gradient = None if make is None else make(*start[:2])
        options = {"gradient": gradient, "draw": draw, "epochs": 1, "crosscheck": Crosscheck()}
        if network is right:
            (epoch,) = run(start, **options)
            assert 0 <= epoch.disagreement < 1e-5
        else:
            with pytest.raises(Disagreement, match="2 dense weight"):
                run(start, **options)


def test_training_is_crosschecked_unless_told_otherwise():
    start = problems.start(changed(lambda dx, captures: (2 * dx, captures)))
    with pytest.raises(Disagreement, match="train with crosscheck=None"):
        list(train(*start, epochs=3, batch_size=8))
    assert [epoch.disagreement for epoch in run(start, crosscheck=None)] == [None] * 3


def test_a_long_epoch_is_checked_within():
    start = problems.start(nn.serial(nn.dense(3)))
    wrong_later = wrong_after_step(2, nn.backprop(*start[:2]))
    with pytest.raises(Disagreement, match="at step 3 in"):
        run(start, gradient=wrong_later, batch_size=3, crosscheck=Crosscheck(every=3))


def wrong_after_step(step, gradient):
    key = problems.start(nn.serial(nn.dense(3)))[3].key
    keys = jnp.stack([jax.random.key_data(jax.random.fold_in(key, i)) for i in range(step)])

    def wrong(params, state, x, target, key, weights=None):
        result, gradients = gradient(params, state, x, target, key, weights)
        early = (keys == jax.random.key_data(key)).all(-1).any()
        return result, jax.tree.map(lambda g: jnp.where(early, 1, 2) * g, gradients)

    return wrong


def test_rounding_alone_is_no_disagreement():
    # All examples are classified but for rounding: what is left of the deltas is rounding too.
    network, loss, optimizer, _, x, target = problems.start(nn.serial(nn.dense(problems.CLASSES)))
    x = 40 * jax.nn.one_hot(target, problems.CLASSES)
    params = ({"weight": jnp.eye(problems.CLASSES) * 0.41, "bias": jnp.zeros(problems.CLASSES)},)
    start = create_state(network, optimizer, jax.random.key(0), x)._replace(params=params)
    run((network, loss, optimizer, start, x, target), epochs=1, crosscheck=Crosscheck())
    found, reference = (
        jax.jit(make(network, loss))(params, start.state, x, target)[1]
        for make in (nn.backprop, nn.autodiff)
    )
    errors = relative_errors(jax.tree.leaves(found), jax.tree.leaves(reference))
    assert max(map(float, errors)) > 1e-3, "a problem without this difficulty"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "Crosscheck: expected every to be at least 1, got 0"),
        ({"tolerance": -1.0}, r"Crosscheck: expected tolerance to lie in \[0, inf\), got -1.0"),
        ({"against": "autodiff"}, "expected against to be a Callable, got 'autodiff'"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_a_crosscheck_that_cannot_be_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Crosscheck(**options)


def test_crosscheck_stops_at_a_wrong_weight_gradient_naming_the_layer_and_keeps_the_state():
    def wrong(dx, capture):
        return dx, type(capture)(capture.inputs, capture.deltas.at[0].multiply(1.5))

    start = problems.start(changed(wrong))
    with pytest.raises(
        Disagreement, match="disagree at step 0 in 2 dense bias, 2 dense weight\n"
    ) as info:
        run(start, crosscheck=Crosscheck())
    chex.assert_trees_all_equal(plain(info.value.train_state), plain(start[3]))
    failed = [c.quantity for c in info.value.report.comparisons if not c.passed]
    assert failed == ["2 dense bias", "2 dense weight"]


def test_crosscheck_stops_at_a_wrong_input_gradient_naming_the_layers_before():
    start = problems.start(changed(lambda dx, captures: (2 * dx, captures)))
    with pytest.raises(Disagreement, match="in 0 dense bias, 0 dense weight\n"):
        run(start, crosscheck=Crosscheck())


def test_crosscheck_stops_at_a_gradient_that_is_not_a_number():
    start = problems.start(changed(lambda dx, captures: (dx * jnp.nan, captures)))
    with pytest.raises(Disagreement, match="0 dense weight"):
        run(start, crosscheck=Crosscheck())


def test_training_follows_the_layers_own_backward():
    start = problems.start(changed(lambda dx, captures: (0 * dx, captures)))
    before, after = start[3].params, run(start, crosscheck=None)[-1].train_state.params
    chex.assert_trees_all_equal(before[0], after[0])
    assert (before[2]["weight"] != after[2]["weight"]).any()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_layer():
    start = problems.start(problems.network(), make_optimizer("sgd", 1e30))
    with pytest.raises(
        Diverged, match=r"at step \d.* the first gradient not finite is that of 4 dense"
    ):
        run(start)


def test_a_run_that_diverges_keeps_the_state_of_the_last_good_epoch():
    x, target = problems.data()
    network, optimizer = nn.serial(nn.dense(1)), make_optimizer("sgd", 3.0)
    train_state = create_state(network, optimizer, jax.random.key(0), x)
    numbers = target[:, None].astype(jnp.float32)
    epochs, kept = (
        train(
            network,
            nn.sum_squared_error(),
            optimizer,
            train_state,
            x,
            numbers,
            epochs=99,
            batch_size=8,
        ),
        [],
    )
    with pytest.raises(Diverged, match=r"diverged at step (\d+): the loss is (inf|nan)") as info:
        kept.extend(epochs)
    assert kept
    assert info.value.train_state is kept[-1].train_state
    chex.assert_tree_all_finite(info.value.train_state.params)


def test_an_update_that_is_not_finite_after_the_last_loss_is_no_good_epoch():
    x, _ = problems.data()
    network, optimizer = nn.serial(nn.dense(1)), make_optimizer("sgd", 3e38)
    train_state = create_state(network, optimizer, jax.random.key(0), x)
    numbers = 100 * jnp.ones((len(x), 1))
    epochs = train(
        network, nn.sum_squared_error(), optimizer, train_state, x, numbers, epochs=2, batch_size=23
    )
    with pytest.raises(Diverged, match="at step 0: its update made 0 dense weight not finite"):
        next(epochs)


def test_infinity_in_the_data_is_met_at_the_step_that_has_it():
    network, loss, optimizer, train_state, x, target = problems.start(nn.serial(nn.dense(3)))
    with pytest.raises(Diverged, match="the loss is nan"):
        run((network, loss, optimizer, train_state, x.at[3, 0].set(jnp.inf), target))


def test_validation_metrics_come_after_every_epoch():
    epochs = run(problems.start(nn.serial(nn.dense(3))), validation=validation())
    assert all(set(epoch.validation) == {"loss", "accuracy"} for epoch in epochs)
    assert epochs[-1].validation["loss"] < epochs[0].validation["loss"]


def test_patience_ends_the_run_after_epochs_without_a_smaller_validation_loss():
    # It climbs the loss: the first epoch is the best.
    start = problems.start(changed(lambda dx, c: (dx, type(c)(c.inputs, -c.deltas))))
    epochs = run(start, epochs=20, patience=2, validation=validation(), crosscheck=None)
    losses = [epoch.validation["loss"] for epoch in epochs]
    best = int(np.argmin(losses))
    assert len(epochs) == best + 3 < 20


def test_patience_counts_the_epochs_of_a_resumed_run():
    start = problems.start(nn.serial(nn.dense(3)))
    past = [0.0, 1.0]
    epochs = run(start, epochs=20, patience=3, validation=validation(), past_validation_losses=past)
    assert len(epochs) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gradient": "manual"},
            r"expected gradient to be a gradient function, such as .* got 'manual'; to compare",
        ),
        ({"draw": "shuffled"}, "expected draw to be a Draw, got 'shuffled'"),
        (
            {"draw": Streamed},
            r"expected draw to be a Draw, got .*Streamed'> \(a factory: call it\)",
        ),
        ({"crosscheck": 100}, "expected crosscheck to be a Crosscheck, got 100"),
        ({"measure": ["norms"]}, "expected measure to be quantities .* by name, got"),
        (
            {"batch_size": 24},
            "batch_size to be at most the number of training examples, 23, got 24",
        ),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"patience": 0, "validation": ()}, "patience"),
        ({"patience": 2}, "expected validation data where patience is given"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_wrong_options_are_named_before_the_first_epoch_is_asked_for(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train(*problems.start(nn.serial(nn.dense(3))), **{"epochs": 3, "batch_size": 8} | options)


def test_fewer_epochs_than_were_seen_are_refused(uninterrupted):
    network, loss, optimizer, _, x, target = problems.start(problems.network())
    start = (network, loss, optimizer, uninterrupted[1].train_state, x, target)
    with pytest.raises(ValueError, match="at least the 2 that train_state has seen, got 1"):
        run(start, epochs=1)
    assert run(start, epochs=2) == []
