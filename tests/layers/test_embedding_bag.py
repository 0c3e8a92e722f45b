import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, passes

import jaxnn as nn
from jaxnn import statistics

IDS = [[1, 3, 3, 0], [2, 4, 0, 0], [0, 0, 0, 0]]
DY = [[1.0, 2], [3, -1], [5, 6]]
SHARES = [[0.5, -1, 2, 3], [1, 0.25, 7, 7], [1, 1, 1, 1]]
LOSS = nn.half_squared_error()


def table():
    return {"weight": jnp.cos(jnp.arange(10.0).reshape(5, 2) ** 2 / 7)}


PRINTED = {
    "sum": (
        [
            [1.6757218141799393, 1.789040690714621],
            [-1.6160783026562304, -0.3644826379068813],
            [0, 0],
        ],
        [[0, 0], [1, 2], [3, -1], [2, 4], [3, -1]],
    ),
    "mean": (
        [
            [0.5585739380599798, 0.5963468969048736],
            [-0.8080391513281152, -0.18224131895344065],
            [0, 0],
        ],
        [[0, 0], [1 / 3, 2 / 3], [1.5, -0.5], [2 / 3, 4 / 3], [1.5, -0.5]],
    ),
    "max": (
        [
            [0.8411292134152362, 0.7539022543433046],
            [-0.6555554658253439, 0.5445515005938875],
            [0, 0],
        ],
        [[0, 0], [1, 0], [3, 0], [0, 2], [0, -1]],
    ),
}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("mode", PRINTED)
def test_values_and_gradients_are_those_of_pytorch_with_padding(mode, dtype, x64):
    layer = nn.embedding_bag(5, 2, mode, padding_id=0)
    ids, (values, gradient) = jnp.asarray(IDS, dtype), PRINTED[mode]
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, dx, gradients = both(layer, table(), (), ids, jnp.asarray(DY))
        np.testing.assert_allclose(y, values, rtol=1e-12)
        np.testing.assert_allclose(gradients["weight"], gradient, rtol=1e-12)
        assert dx is None


def test_weights_of_the_ids_are_those_of_pytorch(x64):
    layer, x = nn.embedding_bag(5, 2, "sum", padding_id=0), (jnp.asarray(IDS), jnp.asarray(SHARES))
    y, (none, dw), gradients = passes(layer, table(), (), x, jnp.asarray(DY))
    expected = [[0.8378609070899696, 0.8945203453573105]]
    expected += [[-0.8956861750330655, -0.7728962633522969], [0, 0]]
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    expected = [[0, 0], [0.5, 1], [3, -1], [1, 2], [0.75, -0.25]]
    np.testing.assert_allclose(gradients["weight"], expected, rtol=1e-12)
    expected = [[1.4036015774712598, 1.9251008090689607, 1.9251008090689607, 0]]
    expected += [[-1.057632258975263, -3.4261200110865473, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(dw, expected, rtol=1e-12)
    assert none is None


@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_padding_may_be_no_id_of_the_vocabulary(dtype):
    layer, ids = nn.embedding_bag(300, 2, padding_id=-1), jnp.asarray([[-1, 100], [127, -1]], dtype)
    params, _ = layer.init(jax.random.key(0), ids)
    y, _, gradients = passes(layer, params, (), ids)
    np.testing.assert_array_equal(y, params["weight"][np.array([100, 127])])
    counts = np.bincount([100, 127], minlength=300)
    np.testing.assert_array_equal(gradients["weight"][:, 0], counts)


def test_what_padding_holds_does_not_matter():
    weight = jnp.asarray([[np.nan, np.inf], [1, 2], [3, 4]])
    for mode in ("sum", "mean", "max"):
        layer = nn.embedding_bag(3, 2, mode, padding_id=0)
        y, _, gradients = passes(layer, {"weight": weight}, (), jnp.asarray([[0, 1], [2, 0]]))
        np.testing.assert_array_equal(y, [[1, 2], [3, 4]])
        np.testing.assert_array_equal(gradients["weight"], [[0, 0], [1, 1], [1, 1]])
    layer = nn.embedding_bag(3, 2, "sum", padding_id=0)
    x = (jnp.asarray([[0, 1], [2, 0]]), jnp.asarray([[np.nan, 1], [1, np.inf]]))
    y, dx, _ = passes(layer, {"weight": weight}, (), x)
    np.testing.assert_array_equal(y, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(dx[1], [[0, 3], [7, 0]])


def test_ties_of_the_maximum_go_to_the_first_position():
    layer, weight = nn.embedding_bag(3, 1, "max"), jnp.asarray([[1.0], [2], [2]])
    ids = jnp.asarray([[0, 2, 1]])
    _, _, gradients = passes(layer, {"weight": weight}, (), ids)
    np.testing.assert_array_equal(gradients["weight"], [[0], [0], [1]])
    autodiff = jax.grad(lambda p: layer.predict(p, (), ids).sum())({"weight": weight})
    np.testing.assert_array_equal(autodiff["weight"], [[0], [0], [1]])


@pytest.mark.parametrize("mode", PRINTED)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1), (2, 3, 2)])
def test_any_shape_and_empty_bags_keep_the_laws(mode, shape):
    ids = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 3
    nn.check_layer(nn.embedding_bag(3, 2, mode, padding_id=2), ids.astype(np.int32)).require()


@pytest.mark.parametrize("mode", PRINTED)
def test_the_examples_have_gradients_of_their_own(mode, x64):
    layer, ids, target = (
        nn.embedding_bag(5, 2, mode, padding_id=0),
        jnp.asarray(IDS),
        normal(0, (3, 2)),
    )

    def of_one(x, t):
        return nn.autodiff(layer, LOSS)(table(), (), x[None], t[None])[1]

    expected = jax.vmap(of_one)(ids, target)
    found = statistics.per_example_gradients(layer, LOSS)(table(), (), ids, target)
    assert_agree(found, expected, 1e-10)
    norms = statistics.per_example_squared_norms(layer, LOSS)(table(), (), ids, target)
    assert_agree(norms, jnp.sum(expected["weight"] ** 2, (1, 2)), 1e-10)


def test_half_precision_bags_are_summed_in_float32():
    ids = jnp.zeros((1, 4096), int)
    params = {"weight": jnp.ones((1, 1), jnp.bfloat16)}
    for mode, expected in (("sum", 4096), ("mean", 1)):
        y, _, gradients = passes(nn.embedding_bag(1, 1, mode, dtype="bfloat16"), params, (), ids)
        assert y.dtype == jnp.bfloat16
        assert float(y[0, 0]) == expected
        np.testing.assert_allclose(float(gradients["weight"][0, 0]), expected, rtol=1e-2)


def test_under_jit_an_id_outside_of_the_vocabulary_shows_as_nan():
    layer, ids = nn.embedding_bag(3, 2), jnp.asarray([[0, 5], [1, 2]])
    params, _ = layer.init(jax.random.key(0), ids % 3)
    y = jax.jit(layer.predict)(params, (), ids)
    assert np.isnan(y[0]).all()
    assert not np.isnan(y[1]).any()


@pytest.mark.parametrize(
    ("options", "x", "error", "message"),
    [
        (
            {},
            jnp.asarray([[0, 3]]),
            ValueError,
            "embedding_bag: expected ids to lie in 0 … 2, got 0",
        ),
        ({"padding_id": -1}, jnp.asarray([[-1, -2]]), ValueError, "got -2 … 0"),
        ({}, jnp.asarray([0, 1]), ValueError, "expected x to have at least 2 axes"),
        ({}, jnp.ones((1, 2)), TypeError, "expected x to be an array of integer ids"),
        ({}, (jnp.asarray([[0, 1]]), jnp.ones((1, 2))), ValueError, "mode 'sum' alone, got 'mean'"),
        (
            {"mode": "sum"},
            (jnp.asarray([[0, 1]]), jnp.ones((1, 1))),
            ValueError,
            r"one weight for each id, of shape \(1, 2\), got \(1, 1\)",
        ),
        (
            {"mode": "sum"},
            (jnp.asarray([[0, 1]]), jnp.ones((1, 2), jnp.float16)),
            TypeError,
            "to be float32 as its parameter is, got float16",
        ),
        ({"mode": "sum"}, (jnp.asarray([[0, 1]]),), TypeError, "x to be a tuple of 2"),
    ],
)
def test_what_does_not_fit_is_refused(options, x, error, message):
    layer = nn.embedding_bag(3, 2, **options)
    params, _ = layer.init(jax.random.key(0), jnp.zeros((1, 2), int))
    with pytest.raises(error, match=message):
        layer.predict(params, (), x)


def test_an_unknown_mode_is_refused(untyped):
    with pytest.raises(ValueError, match="embedding_bag: unknown mode 'avg'"):
        nn.embedding_bag(3, 2, "avg")  # pyright: ignore
