import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, passes, started

import jaxnn as nn
from jaxnn.core.captures import stack

X = (2, 4)  # a batch of two with four features
NETWORKS = {
    "dense": nn.dense(3),
    "dense without bias": nn.dense(3, use_bias=False),
    "serial": nn.serial(nn.dense(3), nn.tanh(), nn.layer_norm(), nn.dense(2)),
    "batch_norm": nn.serial(nn.dense(3), nn.batch_norm()),
    "fork": nn.serial(nn.fork(nn.dense(3), nn.serial(nn.dense(3), nn.tanh())), nn.add()),
    "share": nn.serial(nn.fork(nn.tanh(), nn.sigmoid()), nn.share(nn.dense(3)), nn.concatenate()),
    "repeat": nn.repeat(nn.serial(nn.dense(4), nn.tanh()), 3),
    "repeat of repeat": nn.repeat(nn.repeat(nn.skip(nn.dense(4), nn.tanh()), 2), 2),
    "share of repeat": nn.serial(
        nn.fork(nn.tanh(), nn.sigmoid()), nn.share(nn.repeat(nn.dense(4), 2)), nn.add()
    ),
}


def is_capture(node):
    return isinstance(node, nn.Capture)


def run(network, x, seed=0):
    """(params, residuals, dy) of one forward pass."""
    params, state = started(network, x, seed)
    y, _, residuals = jax.jit(network.forward)(params, state, x, None)
    return params, residuals, normal(seed + 9, y.shape, y.dtype)


def axes(captures):
    """out_axes of a vmapped backward that maps the deltas alone."""

    def of_one(capture):
        if isinstance(capture, nn.StackedCapture):
            return dataclasses.replace(capture, capture=of_one(capture.capture))
        return dataclasses.replace(capture, inputs=None, deltas=0)

    return jax.tree.map(of_one, captures, is_leaf=is_capture)


@pytest.mark.parametrize("name", NETWORKS)
def test_there_is_one_capture_for_each_dict_and_its_gradients_mirror_the_params(name):
    network = NETWORKS[name]

    def shapes(x):
        params, residuals, dy = run(network, x)
        _, captures = network.backward(params, residuals, dy)
        return params, captures, nn.contract(captures)

    params, captures, gradients = jax.eval_shape(shapes, jax.ShapeDtypeStruct(X, float))
    assert gradients == params
    dicts = jax.tree.map(lambda d: 0, params, is_leaf=lambda node: isinstance(node, dict))
    assert jax.tree.map(lambda c: 0, captures, is_leaf=is_capture) == dicts


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_do_not_depend_on_the_cotangent_so_that_vmap_maps_the_deltas_alone(name, x64):
    network = NETWORKS[name]

    @jax.jit
    def mapped_and_one_by_one(x):
        params, residuals, dy = run(network, x)
        columns = jnp.stack([dy, dy**2])

        def captures_of(column):
            return network.backward(params, residuals, column)[1]

        out_axes = axes(jax.eval_shape(captures_of, dy))  # a batched input would raise
        mapped = jax.vmap(captures_of, out_axes=out_axes)(columns)
        of_second = jax.tree.map(
            lambda axis, a: a if axis is None else a[1],
            out_axes,
            mapped,
            is_leaf=lambda node: node is None,
        )
        return nn.contract(of_second), nn.contract(captures_of(columns[1]))

    assert_agree(*mapped_and_one_by_one(normal(0, X)), 1e-12)


def test_backward_uses_params_only_to_propagate(x64):
    network = nn.serial(nn.layer_norm(), nn.dense(3))
    params, residuals, dy = run(network, normal(0, X))
    other = jax.tree.map(lambda p: np.asarray(p) + 1, params)
    backward = jax.jit(network.backward)
    _, captures = backward(params, residuals, dy)
    _, with_other = backward(other, residuals, dy)
    assert_agree(with_other[1], captures[1], 0)
    expected = np.asarray(dy) @ other[1]["weight"].T
    assert_agree(with_other[0].deltas, expected, 1e-14)


@pytest.mark.parametrize("features", [4, 8192])  # a product below SMALL_PRODUCT, and one above
def test_a_linear_capture_contracts_over_batch_and_positions(x64, features):
    inputs, deltas = normal(0, (2, 3, 11, features)), normal(1, (2, 3, 11, 6))
    gradient = nn.LinearCapture(inputs, deltas).gradient()
    weight = np.einsum("bpqi,bpqo->io", inputs, deltas)
    assert_agree(gradient, {"weight": weight, "bias": np.sum(deltas, (0, 1, 2))}, 1e-13)


@pytest.mark.parametrize(
    ("platform", "features", "transposed"),
    [("cpu", 4, True), ("cpu", 2**17, False), ("cuda", 4, False), ("tpu", 4, False)],
)
def test_small_products_alone_are_of_transposed_inputs_and_on_a_cpu_alone(
    platform, features, transposed
):
    def gradient(inputs, deltas):
        return nn.LinearCapture(inputs, deltas).gradient()

    arrays = (jax.ShapeDtypeStruct((8, n), jnp.float32) for n in (features, 4))
    lowered = jax.jit(gradient).trace(*arrays).lower(lowering_platforms=(platform,))
    assert ("optimization_barrier" in lowered.as_text()) == transposed


def test_a_gradient_of_transposed_inputs_can_be_mapped_and_differentiated(x64):
    inputs, deltas = normal(0, (3, 2, 4)), normal(1, (3, 2, 5))

    def of_captures(inputs, deltas):
        return nn.LinearCapture(inputs, deltas).gradient()["weight"]

    def by_einsum(inputs, deltas):
        return jnp.einsum("bi,bo->io", inputs, deltas)

    for of in (jax.vmap, lambda f: jax.vmap(jax.jacrev(f)), lambda f: jax.vmap(jax.jacfwd(f))):
        assert_agree(of(of_captures)(inputs, deltas), of(by_einsum)(inputs, deltas), 1e-13)


def test_an_affine_capture_contracts_over_batch_and_positions(x64):
    inputs, deltas = normal(0, (2, 3, 4)), normal(1, (2, 3, 4))
    gradient = nn.AffineCapture(inputs, deltas).gradient()
    inputs, deltas = np.asarray(inputs), np.asarray(deltas)
    expected = {"scale": (inputs * deltas).sum((0, 1)), "offset": deltas.sum((0, 1))}
    assert_agree(gradient, expected, 1e-13)


@pytest.mark.parametrize("capture", [nn.LinearCapture, nn.AffineCapture])
def test_the_gradient_of_an_empty_batch_is_zero(capture):
    gradient = capture(jnp.zeros((0, 3, 2)), jnp.zeros((0, 3, 2))).gradient()
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("capture", [nn.LinearCapture, nn.AffineCapture])
def test_sums_over_a_half_precision_batch_accumulate_in_float32(capture, dtype):
    # 1 + 1 + … ends at 2048 in float16 and at 256 in bfloat16 when it is summed in that dtype.
    ones = jnp.ones((8192, 1), dtype)
    for leaf in jax.tree.leaves(capture(ones, ones).gradient()):
        assert leaf.dtype == dtype
        assert np.all(np.asarray(leaf, float) == 8192)


@pytest.mark.parametrize("capture", [nn.LinearCapture, nn.AffineCapture])
def test_products_beyond_half_precision_may_cancel(capture):
    inputs = jnp.asarray([[300.0], [-300.0]], jnp.float16)  # 300² overflows float16
    gradient = capture(inputs, jnp.full((2, 1), 300, jnp.float16)).gradient()
    assert np.all(np.asarray(jax.tree.leaves(gradient)[-1], float) == 0)


def test_a_shared_layer_keeps_one_array_and_sums_the_gradients_of_its_uses(x64):
    layer = nn.serial(nn.dense(3), nn.layer_norm())
    network = nn.share(layer)
    x = (normal(0, (2, 4)), normal(1, (2, 4)), normal(2, (2, 4)))
    params, state = started(network, x)
    alone, _ = jax.eval_shape(layer.init, jax.random.key(0), x[0])
    assert jax.tree.leaves(params)[0].shape == jax.tree.leaves(alone)[0].shape
    dy = tuple(normal(5 + i, (2, 3)) for i in range(3))
    _, dx, gradients = passes(network, params, state, x, dy)
    uses = []
    for member, d, part in zip(x, dy, dx, strict=True):
        _, own_dx, own = passes(layer, params[0], state[0], member, d)
        assert_agree(part, own_dx, 1e-14)
        uses.append(own)
    total = jax.tree.map(lambda *g: np.sum(g, 0), *uses)
    assert_agree(gradients, (total,), 1e-13)


def test_uses_are_joined_as_positions_of_the_same_example(x64):
    first = nn.LinearCapture(normal(0, (2, 3)), normal(1, (2, 4)))
    second = nn.LinearCapture(normal(2, (2, 5, 2, 3)), normal(3, (2, 5, 2, 4)))
    joined = nn.join(first, second)
    assert joined.inputs.shape == (2, 11, 3)
    of_examples = jax.jit(jax.vmap(lambda c: jax.tree.map(lambda a: a[None], c).gradient()))
    parts = (of_examples(first), of_examples(second))
    total = jax.tree.map(lambda *g: np.sum(g, 0), *parts)
    assert_agree(of_examples(joined), total, 1e-13)


def test_joining_keeps_static_facts():
    affine = nn.AffineCapture(jnp.ones((2, 3)), jnp.ones((2, 3)), mixes="batch_norm")
    assert nn.join(affine, affine).mixes == "batch_norm"
    linear = nn.LinearCapture(jnp.ones((2, 3)), jnp.ones((2, 3)), use_bias=False)
    assert set(nn.join(linear, linear).gradient()) == {"weight"}


def test_a_stacked_capture_contracts_each_layer_by_itself(x64):
    inputs, deltas = normal(0, (5, 2, 3)), normal(1, (5, 2, 4))
    gradient = stack(nn.LinearCapture(inputs, deltas)).gradient()
    contract = jax.jit(lambda *capture: nn.LinearCapture(*capture).gradient())
    each = [contract(*one) for one in zip(inputs, deltas, strict=True)]
    assert_agree(gradient, jax.tree.map(lambda *g: np.stack(g), *each), 1e-13)


def test_a_contracted_capture_gives_its_gradient_and_joins_by_sum():
    first, second = (
        nn.ContractedCapture({"weight": jnp.full((2,), value)}, layer="tied")
        for value in (1.0, 2.0)
    )
    assert_agree(first.gradient(), {"weight": jnp.ones(2)}, 0)
    joined = nn.join(first, second)
    assert joined.layer == "tied"
    assert_agree(joined.gradient(), {"weight": jnp.full((2,), 3.0)}, 0)


@pytest.mark.parametrize(
    "capture",
    [
        nn.LinearCapture(1.0, 2.0, use_bias=False),
        nn.AffineCapture(1.0, 2.0, mixes="norm"),
        nn.StackedCapture(nn.LinearCapture(1.0, 2.0)),
        nn.ContractedCapture({"weight": 1.0}, layer="tied"),
    ],
    ids=lambda capture: type(capture).__name__,
)
def test_a_capture_is_rebuilt_with_placeholder_leaves(capture):
    leaves, treedef = jax.tree.flatten(capture)
    rebuilt = treedef.unflatten([object() for _ in leaves])
    assert jax.tree.structure(rebuilt) == treedef
    assert treedef.unflatten(leaves) == capture


def test_contract_refuses_an_array_in_place_of_a_capture():
    with pytest.raises(TypeError, match="expected a Capture for each dict of parameters"):
        nn.contract(({"weight": jnp.ones(2)},))


def test_layers_without_parameters_have_no_captures():
    network = nn.serial(nn.fork(nn.relu(), nn.heaviside()), nn.add())
    params, residuals, dy = run(network, normal(0, X))
    assert jax.tree.leaves(network.backward(params, residuals, dy)[1]) == []


def test_a_capture_without_its_own_contraction_says_so():
    with pytest.raises(NotImplementedError):
        nn.Capture().gradient()
    with pytest.raises(NotImplementedError):
        nn.Capture().join()
