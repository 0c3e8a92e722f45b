import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close
from helpers import assert_agree, masked, normal, started
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jaxnn as nn
from jaxnn import interop

NETWORK = nn.serial(nn.max_pool(2), nn.flatten(), nn.dense(3), nn.tanh())


def reference(layer):
    """The same function, differentiated by JAX through the forward pass."""

    def function(params, x, key=None):
        return layer.forward(params, nn_state(layer, x), x, key)[0]

    return function


def nn_state(layer, x):
    return layer.init(jax.random.key(0), x)[1]


def test_the_derivative_is_that_of_the_layer_and_agrees_with_autodiff(x64):
    x = normal(0, (2, 4, 4, 3))
    params, _ = started(NETWORK, x)
    function = interop.differentiable(NETWORK)

    def both(function):
        return jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(function(p, x) ** 2), (0, 1)))

    assert_agree(both(function)(params, x), both(reference(NETWORK))(params, x), 1e-10)


def test_the_backward_pass_that_runs_is_the_one_of_the_layer():
    tripled = nn.parameter_free("tripled", lambda x: (x, ()), lambda residuals, dy: 3 * dy)
    function = interop.differentiable(tripled)
    gradient = jax.jit(jax.grad(lambda x: function((), x).sum()))(jnp.ones((1, 2)))
    assert_trees_all_close(gradient, np.full((1, 2), 3, np.float32))
    assert function.__name__ == "tripled"


def test_it_can_be_vmapped_and_scanned(x64):
    x = normal(0, (3, 2, 4, 4, 3))
    params, _ = started(NETWORK, x[0])
    function = interop.differentiable(NETWORK)

    def over_a_map(p):
        return jnp.sum(jax.vmap(function, (None, 0))(p, x) ** 2)

    def over_a_scan(p):
        return lax.scan(lambda total, x: (total + jnp.sum(function(p, x) ** 2), None), 0.0, x)[0]

    def expected(p):
        return sum(jnp.sum(reference(NETWORK)(p, member) ** 2) for member in x)

    gradients = [jax.jit(jax.grad(f))(params) for f in (over_a_map, over_a_scan, expected)]
    assert_agree(gradients[0], gradients[2], 1e-10)
    assert_agree(gradients[1], gradients[2], 1e-10)


def test_per_example_gradients_come_from_vmap_of_grad(x64):
    x = normal(0, (3, 1, 4, 4, 3))
    params, _ = started(NETWORK, x[0])

    def norm(function):
        return jax.jit(jax.vmap(jax.grad(lambda p, x: jnp.sum(function(p, x) ** 2)), (None, 0)))(
            params, x
        )

    assert_agree(norm(interop.differentiable(NETWORK)), norm(reference(NETWORK)), 1e-10)


def test_a_key_draws_and_receives_no_gradient():
    layer = nn.dropout(0.5)
    function = interop.differentiable(layer)
    x, key = jnp.ones((4, 50)), jax.random.key(1)
    y, vjp = jax.vjp(lambda x: function((), x, key), x)
    assert set(np.unique(y)) == {0.0, 2.0}
    assert_trees_all_close(vjp(jnp.ones_like(y))[0], y)
    y, vjp = jax.vjp(function, (), x, key)
    assert vjp(y)[2].dtype == jax.dtypes.float0


def test_integer_inputs_receive_a_cotangent_without_type():
    layer = nn.embedding(4, 2)
    ids = jnp.array([[1, 3, 1]])
    params, _ = layer.init(jax.random.key(0), ids)
    y, vjp = jax.vjp(interop.differentiable(layer), params, ids)
    gradients, of_ids = vjp(jnp.ones_like(y))
    np.testing.assert_array_equal(np.sum(gradients["weight"], -1), [0, 4, 0, 2])
    assert of_ids.dtype == jax.dtypes.float0


def test_members_of_a_tuple_without_gradient_pass_through():
    layer = nn.serial(nn.on(0, nn.tanh()), masked())
    x, mask = normal(0, (2, 3)), jnp.array([[1, 0, 1], [0, 1, 1]])
    only_on = interop.differentiable(nn.on(0, nn.tanh()))
    for function in (
        lambda x: interop.differentiable(layer)((((),), ()), (x, mask)),
        lambda x: only_on(((),), (x, mask))[0] * mask,
    ):
        gradient = jax.jit(jax.grad(lambda x, function=function: function(x).sum()))(x)
        assert_trees_all_close(gradient, mask * (1 - np.tanh(x) ** 2), rtol=1e-6)


def test_a_layer_with_state_is_refused_by_name():
    function = interop.differentiable(nn.serial(nn.dense(2), nn.batch_norm()))
    with pytest.raises(ValueError, match=r"without state, but 1 batch_norm .*with_state=True"):
        function((), jnp.ones((2, 3)))


WITH_STATE = nn.serial(nn.dense(3), nn.batch_norm(), nn.tanh(), nn.dropout(0.5))


def test_state_is_returned_as_training_changes_it_and_passes_no_gradient(x64):
    x, key = normal(0, (5, 4)), jax.random.key(1)
    params, state = started(WITH_STATE, x)

    def both(function):
        def loss(params, x):
            y, new_state = function(params, state, x, key)
            return jnp.sum(y**2), new_state

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    by_hand = both(interop.differentiable(WITH_STATE, with_state=True))
    assert_agree(by_hand, both(lambda *given: WITH_STATE.forward(*given)[:2]), 1e-10)
    assert np.abs(by_hand[0][1][1]["mean"] - state[1]["mean"]).min() > 1e-3

    def of_state(params, state):
        function = interop.differentiable(WITH_STATE, with_state=True)
        return sum(map(jnp.sum, jax.tree.leaves(function(params, state, x, key)[1])))

    for gradient in jax.tree.leaves(jax.jit(jax.grad(of_state, (0, 1)))(params, state)):
        assert not gradient.any()


def test_in_inference_the_state_is_what_it_was(x64):
    x = normal(0, (5, 4))
    params, state = started(WITH_STATE, x)
    resting = nn.in_inference_mode(WITH_STATE)
    y, same = interop.differentiable(resting, with_state=True)(params, state, x)
    assert_agree(y, WITH_STATE.predict(params, state, x), 1e-12)
    assert_trees_all_close(same, state, rtol=0)


def test_a_layer_without_state_has_that_form_too():
    x = jnp.ones((1, 2))
    params, state = started(nn.dense(3), x)
    y, same = interop.differentiable(nn.dense(3), with_state=True)(params, state, x)
    assert_trees_all_close(y, interop.differentiable(nn.dense(3))(params, x))
    assert same == ()


def test_state_of_another_layer_is_refused():
    x = jnp.ones((2, 3))
    function = interop.differentiable(nn.batch_norm(), with_state=True)
    params, state = started(nn.batch_norm(), x)
    with pytest.raises(
        ValueError, match=r"batch_norm: expected mean to be float32\[3\], as fits x, got .*\[4\]"
    ):
        function(params, state | {"mean": jnp.ones(4)}, x)


def test_params_of_another_layer_are_refused():
    function = interop.differentiable(nn.dense(3))
    with pytest.raises(
        ValueError, match=r"dense: expected weight to be .*\[2, 3\].* got .*\[5, 3\]"
    ):
        function({"weight": jnp.ones((5, 3)), "bias": jnp.ones(3)}, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"got \{'weight'"):
        function({"weight": jnp.ones((2, 3))}, jnp.ones((1, 2)))


def test_something_that_is_no_layer_is_refused(untyped):
    with pytest.raises(TypeError, match="expected layer to be a Layer"):
        interop.differentiable(nn.dense)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("strides", [None, (2, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 0), (0, 1))])
def test_max_pool_takes_the_arguments_of_flax(batch, strides, padding):
    linen = pytest.importorskip("flax.linen", reason="Flax is the reference here")
    x = jnp.asarray(np.round(normal(0, (*batch, 5, 6, 2))))

    def value_and_dx(pool, x):
        y, vjp = jax.vjp(lambda x: pool(x, (2, 2), strides, padding), x)
        return y, *vjp(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    pools = (interop.max_pool, linen.max_pool)
    by_hand, by_flax = jax.jit(lambda x: [value_and_dx(pool, x) for pool in pools])(x)
    assert_trees_all_close(by_hand, by_flax, rtol=1e-6)


def test_max_pool_takes_any_number_of_batch_axes():
    x = normal(0, (2, 3, 4, 4, 1))

    @jax.jit
    def both(x):
        return interop.max_pool(x, (2, 2)), jax.vmap(lambda x: interop.max_pool(x, (2, 2)))(x)

    assert_trees_all_close(*both(x))


def test_max_pool_refuses_an_input_of_too_few_axes():
    with pytest.raises(ValueError, match="2 spatial dimensions, got shape"):
        interop.max_pool(jnp.ones((4, 4)), (2, 2))


@given(
    size=st.tuples(st.integers(4, 6), st.integers(4, 6)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.sampled_from([None, (1, 2)]),
    spread=st.sampled_from([None, (1, 1), (2, 1)]),
    padding=st.sampled_from(["SAME", "VALID", ((1, 0), (0, 2))]),
    order=st.sampled_from([("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NHWC")]),
    groups=st.sampled_from([1, 2]),
)
@settings(max_examples=6)
def test_conv_general_dilated_is_that_of_lax(
    size, strides, dilation, spread, padding, order, groups
):
    if spread == (2, 1) and isinstance(padding, str):
        padding = ((1, 1), (1, 1))
    shapes = {"N": 2, "C": 4, "I": 4 // groups, "O": 6, "H": size[0], "W": size[1]}
    kernel = shapes | {"H": 3, "W": 2}

    def run(convolve, lhs, rhs):
        def function(lhs, rhs):
            return convolve(
                lhs,
                rhs,
                strides,
                padding,
                lhs_dilation=spread,
                rhs_dilation=dilation,
                dimension_numbers=order,
                feature_group_count=groups,
            )

        y, vjp = jax.vjp(function, lhs, rhs)
        return y, vjp(jnp.cos(y))

    @jax.jit
    def both(*arguments):
        functions = (interop.conv_general_dilated, lax.conv_general_dilated)
        return [run(convolve, *arguments) for convolve in functions]

    with jax.enable_x64(True):
        lhs = normal(0, [shapes[axis] for axis in order[0]])
        rhs = normal(1, [kernel[axis] for axis in order[1]])
        assert_agree(*both(lhs, rhs), 1e-10)


def test_options_that_only_lax_has_are_refused_by_name():
    x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    with pytest.raises(ValueError, match="expected preferred_element_type to be None"):
        interop.conv_general_dilated(x, kernel, (1, 1), "SAME", preferred_element_type=jnp.float32)
    with pytest.raises(ValueError, match="'SAME' has no agreed meaning"):
        interop.conv_general_dilated(x, kernel, (1, 1), "SAME", lhs_dilation=(2, 2))


def flax_linen_gradients(linen, convolution, pool, x):
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(4, (3, 3), conv_general_dilated=convolution)(x))
            x = pool(x, (2, 2), (2, 2))
            return linen.Dense(3)(x.reshape(x.shape[0], -1))

    model = Model()
    params = jax.jit(model.init)(jax.random.key(0), x)
    return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(p, x)))))(params)


def test_two_lines_of_a_flax_linen_model_give_the_same_gradients_by_hand():
    linen = pytest.importorskip("flax.linen", reason="Flax is what this integrates with")
    x = normal(0, (2, 6, 6, 2), jnp.float32)
    by_hand = flax_linen_gradients(linen, interop.conv_general_dilated, interop.max_pool, x)
    expected = flax_linen_gradients(linen, lax.conv_general_dilated, linen.max_pool, x)
    assert_agree(by_hand, expected, 1e-5)


def flax_nnx_gradients(nnx, convolution, pool, x):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), conv_general_dilated=convolution, rngs=rngs)
            self.dense = nnx.Linear(36, 3, rngs=rngs)

        def __call__(self, x):
            x = pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))
            return self.dense(x.reshape(x.shape[0], -1))

    gradients = nnx.jit(nnx.grad(lambda model: jnp.sum(jnp.sin(model(x)))))(Model(nnx.Rngs(0)))
    return jax.tree.leaves(gradients)


def test_two_lines_of_a_flax_nnx_model_give_the_same_gradients_by_hand():
    nnx = pytest.importorskip("flax.nnx", reason="Flax is what this integrates with")
    x = normal(0, (2, 6, 6, 2), jnp.float32)
    by_hand = flax_nnx_gradients(nnx, interop.conv_general_dilated, interop.max_pool, x)
    expected = flax_nnx_gradients(nnx, lax.conv_general_dilated, nnx.max_pool, x)
    assert_agree(by_hand, expected, 1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.with_precision(nn.dense(3), nn.POLICIES["float16"]),
        nn.direct_feedback_alignment(nn.dense(4), nn.dense(3)),
    ],
)
def test_state_that_a_wrapper_owns_is_refused(layer):
    x = normal(0, (2, 5), jnp.float32)
    params, _ = layer.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"expected layers without state, but \w+ has some"):
        interop.differentiable(layer)(params, x)
