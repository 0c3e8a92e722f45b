import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn.rewrites.precision import POLICIES, with_precision
from jaxnn.sharding import (
    find_layout,
    fully_sharded,
    make_mesh,
    mesh_of,
    place_examples,
    replicated,
    require_divisible,
    take_examples,
    tensor_parallel,
)

DEVICES = jax.devices()


def two(data=2, model=1):
    return make_mesh(data, model, devices=DEVICES[: data * model])


def params_of(*layers, x=(4, 8)):
    network = nn.serial(*layers)
    return network, jax.eval_shape(network.init, jax.random.key(0), jnp.ones(x))[0]


def test_a_mesh_takes_all_devices_unless_told():
    assert make_mesh().shape == {"data": 4, "model": 1}
    assert make_mesh(model=2).shape == {"data": 2, "model": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": 3}, r"expected data · model to be the number of devices, 4 .* got 3 · 1 = 3"),
        ({"model": 3}, r"the number of devices, 4 .* got 1 · 3 = 3"),
        ({"data": 0}, "expected data to be at least 1, got 0"),
        ({"model": 0}, "expected model to be at least 1, got 0"),
    ],
)
def test_a_mesh_that_does_not_match_the_devices_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**arguments)


def test_the_mesh_of_a_tree_is_that_of_its_arrays(untyped):
    x = jnp.ones(4)
    mesh = two()
    placed = place_examples(np.ones(4), mesh)
    assert mesh_of({"a": x}) is None
    assert mesh_of({"a": x, "b": placed}) == mesh
    with pytest.raises(ValueError, match="expected arrays on one mesh, got 2"):
        mesh_of([placed, place_examples(np.ones(4), make_mesh())])


def test_a_batch_that_cannot_be_split_evenly_is_refused():
    require_divisible("train", "batch_size", 8, two())
    require_divisible("train", "batch_size", 7, None)
    with pytest.raises(ValueError, match=r"batch_size to be a multiple of the 4 .* 4 or 8, got 7"):
        require_divisible("train", "batch_size", 7, make_mesh())
    with pytest.raises(ValueError, match="such as 4, got 3"):
        require_divisible("train", "batch_size", 3, make_mesh())


def test_an_unknown_layout_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="unknown layout 'fully': did you mean 'fully_sharded'"):
        find_layout("fully")


def test_replicated_parameters_are_whole():
    network, params = params_of(nn.dense(6), nn.relu())
    specs = replicated(network, params, two())
    assert specs == ({"weight": P(), "bias": P()}, ())


def test_fully_sharded_arrays_are_split_along_the_largest_axis_that_can_be():
    network, params = params_of(nn.dense(6), nn.dense(9), nn.dense(3, use_bias=False))
    specs = fully_sharded(network, params, two())
    assert specs[0] == {"weight": P("data"), "bias": P("data")}  # [8, 6] and [6]
    assert specs[1] == {"weight": P("data"), "bias": P()}  # [6, 9]: 9 is odd
    assert specs[2] == {"weight": P()}  # [9, 3]


def test_dense_layers_are_split_by_columns_and_rows_in_turn():
    layers = (nn.dense(6), nn.relu(), nn.dense(8), nn.dense(8), nn.layer_norm())
    network, params = params_of(*layers)
    specs = tensor_parallel(network, params, two(1, 2))
    assert specs[0] == {"weight": P(None, "model"), "bias": P("model")}
    assert specs[2] == {"weight": P("model", None), "bias": P()}
    assert specs[3] == {"weight": P(), "bias": P()}  # without a second
    assert specs[4] == {"scale": P(), "offset": P()}


def test_a_dense_layer_that_cannot_be_split_is_left_whole_and_the_next_pair_is_split():
    network, params = params_of(nn.dense(7), nn.dense(6), nn.dense(5))
    specs = tensor_parallel(network, params, two(1, 2))
    assert specs[0] == {"weight": P(), "bias": P()}
    assert specs[1]["weight"] == P(None, "model")
    assert specs[2]["weight"] == P("model", None)


def test_stacked_dense_layers_are_split_behind_the_axis_of_their_depth():
    block = nn.serial(nn.dense(6), nn.relu(), nn.dense(8))
    network, params = params_of(nn.repeat(block, 3))
    specs = tensor_parallel(network, params, two(1, 2))
    first, _, second = specs[0][0]
    assert first == {"weight": P(None, None, "model"), "bias": P(None, "model")}
    assert second == {"weight": P(None, "model", None), "bias": P()}


def pair(**options):
    return nn.serial(nn.dense(6, **options), nn.relu(), nn.dense(8, **options))


COLUMNS = {"weight": P(None, "model"), "bias": P("model")}
ROWS = {"weight": P("model", None), "bias": P()}
REWRITTEN = {
    "bfloat16": lambda network: with_precision(network, POLICIES["bfloat16"]),
    "float16": lambda network: with_precision(network, POLICIES["float16"]),
    "feedback": nn.feedback_alignment,
    "signs": nn.sign_concordant,
    "learned feedback": nn.kolen_pollack,
    "feedback in bfloat16": lambda network: nn.feedback_alignment(
        with_precision(network, POLICIES["bfloat16"])
    ),
    "inference": nn.in_inference_mode,
    "fused": nn.fuse,
    "plain": nn.plain,
}


@pytest.mark.parametrize("rewrite", REWRITTEN.values(), ids=REWRITTEN.keys())
def test_a_rewritten_network_is_split_as_the_network_itself(rewrite):
    network, _ = params_of(pair(), nn.layer_norm(), nn.skip(pair()), nn.dropout(0.5), nn.dense(3))
    specs = []
    for version in (network, rewrite(network)):
        params = jax.eval_shape(version.init, jax.random.key(0), jnp.ones((4, 8)))[0]
        specs.append(tensor_parallel(version, params, two(1, 2)))
    assert specs[0] == specs[1]
    assert specs[0][0] == (COLUMNS, (), ROWS)


def test_direct_feedback_is_split_as_its_two_parts():
    network = nn.direct_feedback_alignment(pair(), nn.serial(nn.relu(), nn.dense(3)))
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((4, 8)))[0]
    specs = tensor_parallel(network, params, two(1, 2))
    assert jax.tree.structure(specs) == jax.tree.structure(params)
    assert jax.tree.leaves(specs)[:4] == [*jax.tree.leaves((COLUMNS, ROWS))]


@pytest.mark.parametrize(
    "wrap", [nn.recompute, lambda layer: nn.on(0, layer), nn.skip, nn.straight_through]
)
def test_what_stands_between_two_dense_layers_does_not_keep_them_from_being_split(wrap):
    between = wrap(nn.tanh())
    first, second = nn.dense(6), nn.dense(8)
    if isinstance(between, nn.on):
        first, second = nn.on(0, first), nn.on(0, second)
        x = (jnp.ones((4, 8)), jnp.ones(4))
    else:
        x = jnp.ones((4, 8))
    network = nn.serial(first, between, second)
    params = jax.eval_shape(network.init, jax.random.key(0), x)[0]
    leaves = jax.tree.leaves(tensor_parallel(network, params, two(1, 2)))
    assert leaves == [*jax.tree.leaves((COLUMNS, ROWS))]


def test_named_parts_are_split_like_those_without_names():
    inner = nn.serial(up=nn.dense(6), act=nn.relu(), down=nn.dense(8))
    network = nn.serial(stem=nn.skip(block=inner), head=nn.dense(3))
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((4, 8)))[0]
    specs = tensor_parallel(network, params, two(1, 2))
    assert jax.tree.structure(specs) == jax.tree.structure(params)
    assert jax.tree.leaves(specs)[:4] == [*jax.tree.leaves((COLUMNS, ROWS))]
    assert specs.head == {"weight": P(), "bias": P()}


def test_a_dense_layer_of_ones_own_is_split_and_what_is_only_called_dense_is_not():
    class wide_dense(nn.dense):
        pass

    called = nn.layer("dense", nn.rms_norm().init, nn.rms_norm().forward, nn.rms_norm().backward)
    network, params = params_of(wide_dense(6), called, wide_dense(8, use_bias=False))
    specs = tensor_parallel(network, params, two(1, 2))
    assert specs == (COLUMNS, {"scale": P()}, {"weight": P("model", None)})


def test_members_of_a_parallel_network_with_shared_and_repeated_layers_are_split():
    network = nn.parallel(nn.repeat(pair(), 3), nn.skip(nn.dense(6), nn.relu(), nn.dense(8)))
    network = nn.serial(network, nn.share(nn.serial(nn.dense(6), nn.dense(4))))
    x = (jnp.ones((4, 8)), jnp.ones((4, 8)))
    params = jax.eval_shape(network.init, jax.random.key(0), x)[0]
    specs = tensor_parallel(network, params, two(1, 2))
    assert jax.tree.structure(specs) == jax.tree.structure(params)
    stacked = {"weight": P(None, None, "model"), "bias": P(None, "model")}
    assert specs[0][0][0][0] == stacked
    assert jax.tree.leaves(specs[0][1]) == [*jax.tree.leaves((COLUMNS, ROWS))]
    assert jax.tree.leaves(specs[1]) == [*jax.tree.leaves((COLUMNS, ROWS))]


@pytest.mark.parametrize(("examples", "batch"), [(8, 4), (7, 4), (9, 3), (1, 1)])
def test_examples_split_over_devices_are_taken_in_the_order_asked_for(examples, batch):
    rng = np.random.default_rng(0)
    data = (
        rng.normal(size=(examples, 3)).astype(np.float32),
        rng.integers(0, 9, examples, np.int32),
        rng.integers(0, 2, (examples, 2)).astype(bool),
    )
    index = rng.permutation(examples)[:batch]
    placed = place_examples(data, make_mesh())
    with jax.set_mesh(make_mesh()):
        taken = jax.jit(take_examples)(placed, jnp.asarray(index))
    for given, found in zip(data, taken, strict=True):
        np.testing.assert_array_equal(found, given[index], strict=True)


def test_a_device_reads_no_other_examples_than_its_own():
    class Watched(np.ndarray):
        read = ()

        def __getitem__(self, index):
            Watched.read += (index,)
            return super().__getitem__(index)

    place_examples(np.arange(8.0).view(Watched), make_mesh())
    assert Watched.read == (slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8))
