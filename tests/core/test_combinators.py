import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_equal
from helpers import assert_agree, changed, initialized, masked, normal, passes, started

import jaxnn as nn

A = normal(0, (2, 4), np.float32)
B = normal(1, (2, 3), np.float32)
C = normal(4, (2, 4), np.float32)
MASK = jnp.asarray([[1, 0, 1, 1], [0, 1, 1, 0]])
DENSE_TANH = nn.serial(nn.dense(4), nn.tanh())
NETWORKS = {
    "serial in serial": (nn.serial(nn.dense(3), nn.serial(nn.tanh(), nn.dense(2))), A),
    "fork and add": (nn.serial(nn.fork(nn.dense(3), nn.serial(nn.dense(3))), nn.add()), A),
    "fork of a tuple": (nn.fork(nn.concatenate(), nn.on(0, nn.dense(3))), (A, B)),
    "parallel": (nn.serial(nn.parallel(nn.dense(2), nn.tanh()), nn.concatenate()), (A, B)),
    "skip in skip": (nn.skip(nn.dense(4), nn.skip(nn.layer_norm(), nn.dense(4))), A),
    "share": (nn.serial(nn.share(DENSE_TANH), nn.add()), (A, C, A)),
    "repeat of a repeat": (nn.repeat(nn.repeat(nn.skip(DENSE_TANH), 2), 2), A),
    "repeat of a share": (nn.repeat(nn.share(DENSE_TANH), 2), (A, C)),
    "share of a repeat": (nn.share(nn.repeat(DENSE_TANH, 2)), (A, C)),
    "mask in a fork": (
        nn.serial(nn.fork(masked(), nn.serial(nn.on(0, nn.dense(4)), masked())), nn.add()),
        (A, MASK),
    ),
    "mask in a parallel": (
        nn.serial(nn.parallel(nn.serial(masked(), nn.dense(2)), nn.tanh()), nn.concatenate()),
        ((A, MASK), B),
    ),
    "mask through a repeat": (nn.serial(nn.repeat(nn.on(0, DENSE_TANH), 2), masked()), (A, MASK)),
    "joined along positions": (
        nn.serial(nn.parallel(nn.identity(), nn.dense(4)), nn.concatenate(1), nn.layer_norm()),
        (normal(2, (2, 3, 4), np.float32), normal(3, (2, 1, 2), np.float32)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_backward_agrees_with_autodiff(name):
    network, x = NETWORKS[name]
    nn.check_layer(network, x).require()


@pytest.mark.parametrize("name", NETWORKS)
def test_init_needs_shapes_and_dtypes_alone(name):
    network, x = NETWORKS[name]
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    key = jax.random.key(0)
    by_shape = jax.eval_shape(lambda: network.init(key, shapes))
    by_array = jax.eval_shape(lambda x: network.init(key, x), x)
    assert by_shape == by_array


def test_serial_applies_its_layers_in_order():
    x = jnp.asarray([[-1.0, 2.0]])
    network = nn.serial(nn.relu(), nn.heaviside())
    assert_trees_all_equal(network.predict(((), ()), ((), ()), x), jnp.asarray([[0.0, 1.0]]))


def test_fork_gives_one_input_to_all_and_parallel_to_each_its_own():
    x = jnp.asarray([[-1.0, 2.0]])
    nothing = ((), ())
    fork, parallel = nn.fork(nn.relu(), nn.tanh()), nn.parallel(nn.relu(), nn.tanh())
    a, b = np.asarray(x), 2 * np.asarray(x)
    assert_agree(fork.predict(nothing, nothing, x), (np.maximum(a, 0), np.tanh(a)), 1e-6)
    y = parallel.predict(nothing, nothing, (x, jnp.asarray(b)))
    assert_agree(y, (np.maximum(a, 0), np.tanh(b)), 1e-6)


def test_add_and_concatenate_compute_what_numpy_does():
    x = (np.asarray(A), np.asarray(A) + 1, np.asarray(A) * 2)
    assert_agree(nn.add().predict((), (), tuple(map(jnp.asarray, x))), x[0] + x[1] + x[2], 1e-6)
    joined = nn.concatenate().predict((), (), (A, B))
    assert_trees_all_equal(joined, np.concatenate([A, B], -1))


def test_identity_passes_anything_through():
    x = (A, (MASK, B))
    y, _, residuals = nn.identity().forward((), (), x, None)
    assert_trees_all_equal(y, x)
    dy = (A, (None, B))
    assert nn.identity().backward((), residuals, dy)[0] is dy


def test_on_passes_the_other_members_through_untouched():
    network = nn.on(1, nn.tanh())
    y, _, _ = network.forward(((),), ((),), (MASK, A, B), None)
    assert y[0] is MASK
    assert y[2] is B
    assert_trees_all_equal(y[1], jnp.tanh(A))


def test_members_without_a_gradient_have_none_in_dx():
    network, x = NETWORKS["mask in a fork"]
    _, dx, _ = passes(network, *started(network, x), x)
    assert dx[0].shape == A.shape
    assert dx[1] is None


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_fork_takes_none_for_a_whole_subtree_as_no_gradient(order):
    ignores = nn.parameter_free("first", lambda x: (x[0], ()), lambda kept, dy: (dy, None))
    uses = nn.parameter_free(
        "sum", lambda x: (x[0] + x[1][0], ()), lambda kept, dy: (dy, (dy, None))
    )
    network = nn.fork(*((ignores, uses)[i] for i in order))
    x = (A, (A, MASK))
    _, _, residuals = network.forward(((), ()), ((), ()), x, None)
    dx, _ = network.backward(((), ()), residuals, (A, A))
    assert_trees_all_equal(dx, (2 * np.asarray(A), (A, None)))


def test_repeat_equals_serial_copies(x64):
    layer, n = nn.skip(nn.dense(4), nn.tanh(), nn.layer_norm()), 3
    repeated, copies = nn.repeat(layer, n), nn.serial(*[layer] * n)
    x = normal(0, (2, 4))
    params, state = started(repeated, x)
    slices = tuple(
        jax.tree.map(lambda p: jnp.asarray(np.asarray(p)[i]), params[0])  # noqa: B023
        for i in range(n)
    )
    dy = normal(1, x.shape)
    expected_y, expected_dx, gradients = passes(copies, slices, (state[0],) * n, x, dy)
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, dx, (stacked,) = both(repeated, params, state, x, dy)
        assert_agree(y, expected_y, 1e-14)
        assert_agree(dx, expected_dx, 1e-13)
        assert_agree(stacked, jax.tree.map(lambda *g: np.stack(g), *gradients), 1e-12)
    assert_agree(jax.jit(repeated.predict)(params, state, x), expected_y, 1e-14)


def test_repeat_initialises_each_copy_differently():
    (params,), _ = initialized(nn.repeat(nn.dense(4), 3), A)
    assert len(np.unique(np.asarray(params["weight"]))) == 3 * 4 * 4


def test_repeat_without_a_key_is_for_layers_that_need_none():
    (params,), _ = nn.repeat(nn.layer_norm(), 2).init(None, A)
    assert_trees_all_equal(params["scale"], jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="dense: expected key to be a random key, got None"):
        nn.repeat(nn.dense(4), 2).init(None, A)


def test_repeat_draws_other_random_numbers_for_each_copy():
    network = nn.repeat(nn.dropout(0.5), 2)
    x = jnp.ones((2, 64))
    params, state = network.init(None, x)
    _, _, residuals = jax.jit(network.forward)(params, state, x, jax.random.key(0))
    kept = residuals.kept[0].kept
    assert not np.array_equal(kept[0], kept[1])


def test_repeat_keeps_a_state_for_each_copy(x64):
    network = nn.repeat(nn.serial(nn.batch_norm(), nn.tanh()), 2)
    x = 3 * np.asarray(normal(0, (5, 3))) + 1
    params, state = initialized(network, x)
    _, new_state, _ = jax.jit(network.forward)(params, state, x, None)
    running = new_state[0][0]["mean"]
    second = np.tanh((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5))
    assert_agree(running, 0.1 * np.stack([x.mean(0), second.mean(0)]), 1e-10)


def test_share_passes_state_from_use_to_use(x64):
    layer = nn.batch_norm()
    x = (normal(0, (5, 3)), normal(1, (5, 3)))
    params, state = initialized(nn.share(layer), x)
    _, new_state, _ = jax.jit(nn.share(layer).forward)(params, state, x, None)
    passing, forward = state[0], jax.jit(layer.forward)
    for member in x:
        _, passing, _ = forward(params[0], passing, member, None)
    assert_agree(new_state, (passing,), 1e-15)


def test_serial_gives_every_layer_another_key():
    network = nn.serial(nn.dropout(0.5), nn.dropout(0.5))
    forward = jax.jit(network.forward)
    _, _, residuals = forward(((), ()), ((), ()), jnp.ones((2, 64)), jax.random.key(0))
    first, second = (of_part.kept for of_part in residuals.kept)
    assert not np.array_equal(first, second)


def test_a_network_runs_under_jit_vmap_and_scan(x64):
    network = nn.serial(nn.repeat(DENSE_TANH, 2), nn.skip(nn.dense(4)))
    x = normal(0, (3, 2, 4))
    params, state = started(network, x[0])

    def predict(member):
        return network.predict(params, state, member)

    one_by_one = np.stack([predict(member) for member in x])
    assert_agree(jax.jit(jax.vmap(predict))(x), one_by_one, 1e-14)
    assert_agree(jax.lax.map(predict, x), one_by_one, 1e-14)


DENSE = nn.dense(3)
BROKEN = changed(DENSE, "broken", backward=lambda *a: 1 / 0)


@pytest.mark.parametrize(
    ("network", "x", "notes"),
    [
        (nn.serial(nn.tanh(), BROKEN), A, ["in part 1 (broken) of serial"]),
        (nn.fork(nn.tanh(), BROKEN), A, ["in part 1 (broken) of fork"]),
        (nn.parallel(nn.tanh(), BROKEN), (A, A), ["in part 1 (broken) of parallel"]),
        (nn.on(1, BROKEN), (A, A), ["in part 0 (broken) of on"]),
        (nn.share(BROKEN), (A, A), ["in part 0 (broken) of share"]),
        (nn.repeat(BROKEN, 2), B, ["in part 0 (broken) of repeat"]),
        (
            nn.serial(nn.tanh(), nn.fork(BROKEN, nn.relu())),
            A,
            ["in part 0 (broken) of fork", "in part 1 (fork) of serial"],
        ),
    ],
    ids=lambda value: value.name if isinstance(value, nn.Layer) else None,
)
def test_an_error_in_backward_carries_the_path(network, x, notes):
    params, state = started(network, x)
    with pytest.raises(ZeroDivisionError) as caught:
        jax.eval_shape(lambda x: passes(network, params, state, x), x)
    assert [note for note in caught.value.__notes__ if note.startswith("in part")] == notes


@pytest.mark.parametrize("method", ["init", "predict", "forward"])
def test_an_error_carries_the_path_from_the_inside_out(method):
    network = nn.serial(nn.tanh(), nn.fork(nn.serial(nn.dense(2), nn.dense(3)), nn.relu()))
    params, state = jax.eval_shape(network.init, jax.random.key(0), A)
    wrong = {
        "init": lambda: network.init(jax.random.key(0), jnp.ones(3)),
        "predict": lambda: network.predict(params, state, B),
        "forward": lambda: network.forward(params, state, B, None),
    }
    with pytest.raises(ValueError, match="dense: expected") as caught:
        wrong[method]()
    assert [note for note in caught.value.__notes__ if note.startswith("in part")] == [
        "in part 0 (dense) of serial",
        "in part 0 (serial) of fork",
        "in part 1 (fork) of serial",
    ]


COMBINATORS = [nn.serial, nn.fork, nn.parallel, nn.skip]


@pytest.mark.parametrize("combinator", COMBINATORS)
def test_a_combinator_of_nothing_is_refused(combinator):
    with pytest.raises(ValueError, match="expected at least one layer, got none"):
        combinator()


@pytest.mark.parametrize(
    "combinator",
    [*COMBINATORS, nn.share, lambda layer: nn.repeat(layer, 2), lambda layer: nn.on(0, layer)],
)
def test_a_factory_that_was_not_called_is_refused_with_a_hint(combinator, untyped):
    with pytest.raises(TypeError, match=r"expected (argument 0|layer) to be a Layer, .*call it"):
        combinator(nn.relu)


@pytest.mark.parametrize("count", [0, -1])
def test_repeat_needs_at_least_one_copy(count):
    with pytest.raises(ValueError, match="repeat: expected n to be at least 1"):
        nn.repeat(nn.relu(), count)


@pytest.mark.parametrize("count", [2.0, True, "2"])
def test_repeat_needs_an_integer(count, untyped):
    with pytest.raises(TypeError, match="repeat: expected n to be an integer"):
        nn.repeat(nn.relu(), count)


def test_repeat_refuses_a_layer_that_changes_the_shape():
    with pytest.raises(ValueError, match="repeat: expected dense to return the shape and dtype"):
        nn.repeat(nn.dense(3), 2).init(jax.random.key(0), A)


@pytest.mark.parametrize("x", [A, (A,), (A, A, A), [A, A]])
def test_parallel_refuses_anything_but_a_tuple_of_its_length(x):
    with pytest.raises(TypeError, match="parallel: expected x to be a tuple of 2"):
        nn.parallel(nn.relu(), nn.relu()).init(None, x)


@pytest.mark.parametrize("layer", [nn.add(), nn.concatenate(), nn.share(nn.relu())])
def test_layers_of_tuples_refuse_an_array(layer):
    with pytest.raises(TypeError, match=f"{layer.name}: expected x to be a tuple"):
        layer.predict((), (), A)


def test_add_refuses_to_broadcast():
    with pytest.raises(ValueError, match="add: expected the members of x to have one shape"):
        nn.add().predict((), (), (A, A[:, :1]))


@pytest.mark.parametrize("layer", [nn.add(), nn.concatenate()])
@pytest.mark.parametrize(
    ("member", "given"), [(MASK, "floating-point, got int32"), ((A,), "an array, got tuple")]
)
def test_joining_layers_refuse_members_that_are_no_floating_point_arrays(layer, member, given):
    with pytest.raises(TypeError, match=f"{layer.name}: expected every member of x to be {given}"):
        layer.predict((), (), (A, member))


@pytest.mark.parametrize(
    "x",
    [(A, A[:1]), (A, A[:, None]), (A, A.astype(jnp.float16))],
    ids=["batch", "rank", "dtype"],
)
def test_concatenate_refuses_members_that_differ_elsewhere(x):
    with pytest.raises(ValueError, match="differ in axis -1 alone"):
        nn.concatenate().predict((), (), x)


def test_concatenate_refuses_the_batch_axis_however_it_is_written(untyped):
    with pytest.raises(ValueError, match="concatenate: expected axis not to be 0, the batch"):
        nn.concatenate(0)
    with pytest.raises(ValueError, match="differ in axis -2 alone"):
        nn.concatenate(-2).predict((), (), (A, A))
    with pytest.raises(TypeError, match="concatenate: expected axis to be an integer"):
        nn.concatenate("features")


@pytest.mark.parametrize("index", [-1, 1.0, True, "0"])
def test_on_refuses_what_is_no_index(index, untyped):
    with pytest.raises((TypeError, ValueError), match="on: expected index to be"):
        nn.on(index, nn.relu())


def test_on_refuses_an_index_beyond_the_members():
    with pytest.raises(ValueError, match="on: expected index to be below 2"):
        nn.on(2, nn.relu()).init(None, (A, B))


def test_many_members_of_half_precision_are_added_in_float32():
    # One by one in bfloat16 the sum would stop at 256, where adding 1 no longer changes it.
    x = (jnp.ones((1, 1), jnp.bfloat16),) * 300
    fork = nn.fork(*[nn.identity()] * 300)
    no_parameters = ((),) * 300
    residuals = fork.forward(no_parameters, no_parameters, x[0], None)[2]
    for total in (nn.add().predict((), (), x), fork.backward(no_parameters, residuals, x)[0]):
        assert total.dtype == jnp.bfloat16
        assert float(total[0, 0]) == 300
