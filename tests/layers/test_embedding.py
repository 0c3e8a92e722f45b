import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from helpers import normal, passes, started
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import checkify

import jaxnn as nn


@given(
    vocabulary=st.integers(1, 5),
    features=st.integers(1, 4),
    shape=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_the_gradient_agrees_with_vjp_for_any_shape_with_repeated_ids(
    vocabulary, features, shape, seed
):
    with jax.enable_x64(True):
        ids = np.random.default_rng(seed).integers(vocabulary, size=shape)
        ids = jnp.asarray(ids, jnp.int32)
        layer = nn.embedding(vocabulary, features)
        params, state = started(layer, ids)
        dy = jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, features)))

        @jax.jit
        def both(params, dy):
            y, _, residuals = layer.forward(params, state, ids, None)
            dx, capture = layer.backward(params, residuals, dy)
            assert dx is None
            _, vjp = jax.vjp(lambda p: layer.predict(p, state, ids), params)
            return y, nn.contract(capture), vjp(dy)[0]

        y, gradients, expected = both(params, dy)
        assert y.dtype == jnp.float64
        assert y.shape == (*shape, features)
        assert_trees_all_close(gradients, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(4,), (3, 2), (0,), (0, 5), (2, 0)])
def test_the_layer_keeps_the_laws(shape):
    ids = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 3
    nn.check_layer(nn.embedding(3, 2), ids.astype(np.int32)).require()


def test_an_embedding_is_a_dense_layer_on_one_hot_vectors():
    ids = jnp.array([[2, 0, 2], [1, 1, 3]])
    table, projection = nn.embedding(4, 5), nn.dense(5, use_bias=False)
    params, _ = started(table, ids)
    one_hot, dy = jnp.asarray(np.eye(4, dtype=np.float32)[ids]), normal(1, (2, 3, 5))
    expected, _, gradients = passes(projection, params, (), one_hot, dy)
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, _, by_hand = both(table, params, (), ids, dy)
        assert_trees_all_close(y, expected, rtol=1e-6)
        assert_trees_all_close(by_hand, gradients, rtol=1e-6)


def test_a_repeated_id_receives_the_sum_of_its_deltas():
    capture = nn.EmbeddingCapture(jnp.array([1, 1, 0]), jnp.array([[1.0], [2.0], [4.0]]), 3)
    assert_trees_all_equal(capture.gradient(), {"weight": jnp.array([[4.0], [3.0], [0.0]])})


def test_half_precision_deltas_are_summed_in_float32():
    # One by one in bfloat16 the sum would stop at 256, where adding 1 no longer changes it.
    capture = nn.EmbeddingCapture(jnp.zeros(1000, int), jnp.ones((1000, 1), jnp.bfloat16), 2)
    weight = capture.gradient()["weight"]
    assert weight.dtype == jnp.bfloat16
    assert float(weight[0, 0]) == 1000


def test_uses_joined_along_positions_give_the_sum_of_their_gradients():
    ids = jnp.array([[0, 1], [2, 1]])
    once = nn.EmbeddingCapture(ids, jnp.arange(8.0).reshape(2, 2, 2), 3)
    again = nn.EmbeddingCapture(ids[:, 0], jnp.ones((2, 2)), 3)
    joined = nn.join(once, again)
    assert joined.ids.shape == (2, 3)
    total = jax.tree.map(np.add, once.gradient(), again.gradient())
    assert_trees_all_close(joined.gradient(), total)


def test_shared_and_stacked_embeddings_agree_with_autodiff():
    shared = nn.serial(nn.share(nn.embedding(4, 3)), nn.concatenate(), nn.dense(1))
    ids = (jnp.array([0, 1, 3]), jnp.array([1, 1, 0]))
    params, state = started(shared, ids)
    target = jnp.ones((3, 1))
    nn.check_gradients(shared, nn.half_squared_error(), params, state, ids, target).require()

    ids = jnp.array([[0, 2, 2], [1, 1, 0]])
    stacked = nn.StackedCapture(nn.EmbeddingCapture(ids, jnp.ones((2, 3, 2)), 3))
    expected = [[[1, 1], [0, 0], [2, 2]], [[1, 1], [2, 2], [0, 0]]]
    assert_trees_all_equal(stacked.gradient(), {"weight": jnp.array(expected, jnp.float32)})


def test_a_backward_pass_mapped_over_cotangents_maps_the_deltas_alone():
    layer = nn.embedding(3, 2)
    ids = jnp.array([0, 2, 2])
    params, _ = layer.init(jax.random.key(0), ids)
    residuals = layer.forward(params, (), ids, None)[2]
    columns = jnp.stack([jnp.ones((3, 2)), 2 * jnp.ones((3, 2))])
    mapped = jax.vmap(
        lambda dy: layer.backward(params, residuals, dy)[1],
        out_axes=nn.EmbeddingCapture(None, 0, 3),  # type: ignore[arg-type]
    )(columns)
    assert mapped.ids.shape == (3,)
    assert mapped.deltas.shape == (2, 3, 2)


@pytest.mark.parametrize("bad", [3, 100, -1])
def test_under_jit_an_id_outside_of_the_vocabulary_gives_nan_and_no_gradient(bad):
    layer = nn.embedding(3, 2)
    ids = jnp.array([0, bad])
    params, state = layer.init(jax.random.key(0), ids[:1])
    y = jax.jit(layer.predict)(params, state, ids)
    assert not np.isnan(y[0]).any()
    assert np.isnan(y[1]).all()

    @jax.jit
    def both(params, ids, dy):
        residuals = layer.forward(params, state, ids, None)[2]
        by_hand = nn.contract(layer.backward(params, residuals, dy)[1])
        return by_hand, jax.vjp(lambda p: layer.predict(p, state, ids), params)[1](dy)[0]

    by_hand, by_autodiff = both(params, ids, jnp.ones((2, 2)))
    assert_trees_all_equal(by_hand, by_autodiff)
    assert_trees_all_equal(by_hand["weight"], jnp.array([[1.0, 1], [0, 0], [0, 0]]))


@pytest.mark.parametrize(("ids", "given"), [([0, 3], "0 … 3"), ([-1, 2], "-1 … 2")])
def test_concrete_ids_outside_of_the_vocabulary_are_refused(ids, given):
    layer = nn.embedding(3, 2)
    params, state = layer.init(jax.random.key(0), jnp.array([0]))
    with pytest.raises(ValueError, match=f"ids to lie in 0 … 2, got {given}"):
        layer.predict(params, state, jnp.array(ids))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_ids_of_every_integer_type_find_their_rows(dtype):
    layer = nn.embedding(300, 2)
    ids = jnp.array([[5, 100], [127, 5]], dtype)
    params, _ = started(layer, ids)
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, _, gradients = both(layer, params, (), ids)
        assert_trees_all_equal(y, params["weight"][np.asarray(ids, int)])
        counts = np.bincount(np.ravel(ids), minlength=300)
        assert_trees_all_equal(gradients["weight"][:, 0], counts.astype(np.float32))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_runtime_checks_of_narrow_ids_compare_with_the_whole_vocabulary(dtype):
    layer = nn.embedding(70_000, 2)
    params, state = layer.init(jax.random.key(0), jnp.zeros((1,), dtype))
    checked = jax.jit(checkify.checkify(layer.predict, errors=checkify.user_checks))
    assert checked(params, state, jnp.array([100, 3], dtype))[0].get() is None


@pytest.mark.parametrize("dtype", [jnp.float16, np.float16, np.dtype("float16"), "float16"])
def test_the_dtype_is_kept_by_its_name(dtype):
    assert repr(nn.embedding(3, 2, dtype=dtype)) == "embedding(3, 2, dtype='float16')"


@pytest.mark.parametrize("dtype", ["flot32", "int8", 3, bool])
def test_a_dtype_that_is_none_of_floating_point_numbers_is_refused(dtype):
    with pytest.raises(TypeError, match="embedding: expected dtype to be floating-point, got"):
        nn.embedding(3, 2, dtype=dtype)


@pytest.mark.parametrize("x", [jnp.ones(2), jnp.array([True]), [0, 1]])
def test_ids_that_are_not_integers_are_refused(x):
    with pytest.raises(TypeError, match="embedding: expected x to be an array of integer ids"):
        nn.embedding(3, 2).init(jax.random.key(0), x)


def test_sizes_and_dtype_are_validated():
    with pytest.raises(ValueError, match="vocabulary to be at least 1, got 0"):
        nn.embedding(0, 2)
    with pytest.raises(ValueError, match="features to be at least 1, got -2"):
        nn.embedding(3, -2)
    with pytest.raises(TypeError, match="dtype to be floating-point"):
        nn.embedding(3, 2, dtype=jnp.int32)
    params, _ = nn.embedding(3, 2, dtype=jnp.float16).init(jax.random.key(0), jnp.array([0]))
    assert params["weight"].dtype == jnp.float16


def test_runtime_checks_report_an_id_outside_of_the_vocabulary():
    layer = nn.embedding(3, 2)
    params, state = layer.init(jax.random.key(0), jnp.zeros((1,), int))
    checked = jax.jit(checkify.checkify(layer.predict, errors=checkify.user_checks))
    assert "ids to lie in 0 … 2, got [ 1 -1]" in str(
        checked(params, state, jnp.array([1, -1]))[0].get()
    )
    assert checked(params, state, jnp.array([0, 2]))[0].get() is None
