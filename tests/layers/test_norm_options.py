"""Norms over several axes, of single instances, without scale or offset; and unit vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_equal
from helpers import HALVES_AND_FLOATS, assert_agree, normal, passes, started

import jaxnn as nn
from jaxnn.statistics import per_example_gradients, per_example_squared_norms

SHAPE = (1, 2, 3, 2)
X = np.sin(np.arange(12.0).reshape(SHAPE) ** 2 / 10)
DY = np.cos(np.arange(12.0).reshape(SHAPE))
SCALE, OFFSET = [[1, 2], [0.5, -1], [3, 0.1]], [[0, 1], [2, -1], [0.5, 0.25]]


def close(value, printed):
    np.testing.assert_allclose(np.ravel(value), np.ravel(printed), rtol=1e-9, atol=1e-12)


def test_layer_norm_over_two_axes_is_that_of_pytorch(x64):
    params = {"scale": jnp.asarray(SCALE, float), "offset": jnp.asarray(OFFSET, float)}
    y, dx, gradients = passes(nn.layer_norm(axes=(-2, -1)), params, (), X, DY)
    close(
        y,
        [
            *[-1.3450218505656963, -1.128724180245733, 1.8748712155639873, -1.8571299958667442],
            *[4.8951804740513944, 0.2837451355676712, -0.3547545130633414, -1.446968894564046],
            *[2.272383441427959, -2.9177588448507574, -1.0541954600387504, 0.21337783859849385],
        ],
    )
    close(
        dx,
        [
            *[-0.43381829483164136, 0.379002646322129, -1.5433992974801927, 4.1377193042095275],
            *[-2.8883607444972004, 0.3488563862773755, 1.411740753904592, 2.4853371148121792],
            *[-0.4494842005034947, 0.8293435946387742, -4.147053945341169, -0.12988331751088283],
        ],
    )
    close(
        gradients["scale"],
        [
            *[-1.6856465930642357, -1.4974649745319066, 0.024880295734722876],
            *[-2.5958803830597734, -0.5229335060898683, 0.09410140277845754],
        ],
    )
    close(
        gradients["offset"],
        [
            *[1.9601702866503659, 1.2942045602114445, -0.561646870355756],
            *[-1.9011227584851222, -1.4927151499400644, 0.288087883451277],
        ],
    )


def test_rms_norm_over_two_axes_is_that_of_pytorch(x64):
    params = {"scale": jnp.asarray(SCALE, float)}
    y, dx, _ = passes(nn.rms_norm(axes=(3, 2)), params, (), X, DY)
    close(
        y,
        [
            *[0, 0.33490975684449076, 0.32659405716512263, -1.313907875962802],
            *[5.0298832332926775, 0.10038430366913882, -0.6704971604902478, -2.9771808153139974],
            *[0.08829638505263741, -1.4695555290464892, -2.4728661621743138, -0.06812958649939883],
        ],
    )
    close(
        dx,
        [
            *[1.6773429583666928, 1.9021204665698235, 0.0003966740578303374, 2.36340012930893],
            *[-2.392282181859961, 0.5845613893834671, 1.5415926753749978, 2.4772191462757926],
            *[-0.1330807434508811, 1.190360324964697, -3.7073627566926555, 0.08883190422395731],
        ],
    )


def test_instance_norm_is_that_of_pytorch(x64):
    params = {"scale": jnp.asarray([2, -0.5]), "offset": jnp.asarray([0.25, 1])}
    y, dx, _ = passes(nn.instance_norm(1e-3), params, (), X, DY)
    close(
        y,
        [
            *[-0.08321952650262708, 1.0501988400366637, 1.4169180069156377, 0.5605393360839624],
            *[3.7673897448711355, 0.6929705789840391, -1.7879197272069394, 1.8255560975239042],
            *[0.3657573646467442, 0.4268843728628659, -2.1789258627239514, 1.4438507745085654],
        ],
    )
    close(
        dx,
        [
            *[3.749409847120302, -0.3886636998188063, -0.9706992572345614, 0.3517965365056502],
            *[-0.7335869679743995, -0.4644158872063819, 2.7604706284705878, 0.02179253751293356],
            *[-0.443292901304154, 0.19816708805249866, -4.362301349077774, 0.2813234249541059],
        ],
    )


def test_instance_norm_is_group_norm_with_a_group_for_every_channel(x64):
    x, dy = normal(0, (2, 3, 4, 5)), normal(1, (2, 3, 4, 5))
    params, _ = started(nn.instance_norm(), x)
    both = (passes(layer, params, (), x, dy) for layer in (nn.instance_norm(), nn.group_norm(5)))
    assert_agree(*both, 1e-12)


@pytest.mark.parametrize("axes", [1, -1, (1,), (1, 2), (-1, 1), (2, -1), (-3, -2, -1)])
def test_named_axes_are_normalised_together_and_have_the_parameters(axes, x64):
    x, dy = normal(0, (2, 3, 4, 5)), normal(1, (2, 3, 4, 5))
    layer = nn.layer_norm(1e-3, axes=axes)
    params, state = started(layer, x)
    along = tuple(sorted(a % 4 for a in np.ravel(axes)))
    assert params["scale"].shape == tuple(x.shape[a] for a in along)
    around = [a for a in range(4) if a not in along]

    def formula(params, x):
        mean, variance = (f(x, along, keepdims=True) for f in (jnp.mean, jnp.var))
        scale, offset = (jnp.expand_dims(params[name], around) for name in ("scale", "offset"))
        return scale * (x - mean) / jnp.sqrt(variance + 1e-3) + offset

    @jax.jit
    def both(params, x):
        y, vjp = jax.vjp(formula, params, x)
        gradients, dx = vjp(dy)
        return passes(layer, params, state, x, dy), (y, dx, gradients)

    assert_agree(*both(params, x), 1e-10)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.layer_norm(axes=(1, 3)), (2, 3, 4, 2)),
        (nn.rms_norm(axes=(1, 2), use_offset=True), (2, 3, 4, 2)),
        (nn.instance_norm(), (2, 3, 4, 2)),
        (nn.group_norm(2, use_scale=False), (2, 3, 4)),
        (nn.layer_norm(use_offset=False), (2, 3, 4)),
        (nn.layer_norm(use_scale=False), (2, 4)),
    ],
)
def test_the_examples_of_a_norm_have_gradients_of_their_own(layer, shape, x64):
    x, target, loss = normal(0, shape), normal(1, shape), nn.half_squared_error()
    params, state = started(layer, x)

    def of_one(x, t):
        return nn.autodiff(layer, loss)(params, state, x[None], t[None])[1]

    @jax.jit
    def both(*given):
        gradients = per_example_gradients(layer, loss)(*given)
        norms = per_example_squared_norms(layer, loss)(*given)
        return (gradients, norms), jax.vmap(of_one)(x, target)

    (gradients, norms), expected = both(params, state, x, target)
    assert_agree(gradients, expected, 1e-10)
    squares = sum(
        np.sum(np.asarray(g) ** 2, (*range(1, g.ndim),)) for g in jax.tree.leaves(expected)
    )
    assert_agree(norms, squares, 1e-10)
    shared = nn.serial(nn.share(layer), nn.add())  # uses of other positions join
    nn.check_layer(shared, (np.asarray(x), np.asarray(target))).require()


NORMS = {
    "layer_norm": nn.layer_norm,
    "layer_norm over axes": lambda **options: nn.layer_norm(axes=(1, 2), **options),
    "rms_norm": nn.rms_norm,
    "group_norm": lambda **options: nn.group_norm(2, **options),
    "instance_norm": nn.instance_norm,
    "batch_norm": nn.batch_norm,
    "batch_norm at rest": lambda **options: nn.batch_norm(**options).at_rest(),
}
IMAGES = normal(2, (3, 4, 5, 2))


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_scale_and_offset_are_there_as_asked_for_and_else_1_and_0(name, scale, offset):
    layer = NORMS[name](use_scale=scale, use_offset=offset)
    whole = NORMS[name](use_scale=True, use_offset=True)
    full, state = started(whole, IMAGES)
    names = [n for n, there in (("scale", scale), ("offset", offset)) if there]
    params = {n: full[n] for n in names} or ()
    assert jax.tree.structure(layer.init(None, IMAGES)[0]) == jax.tree.structure(params)
    full = {"scale": jnp.ones_like(full["scale"]), "offset": jnp.zeros_like(full["offset"])} | (
        params or {}
    )
    dy = normal(3, IMAGES.shape)
    y, dx, gradients = passes(layer, params, state, IMAGES, dy)
    expected_y, expected_dx, expected = passes(whole, full, state, IMAGES, dy)
    assert_agree((y, dx), (expected_y, expected_dx), 1e-6)
    assert_agree(gradients, {n: expected[n] for n in names} or (), 1e-6)
    assert_agree(layer.predict(params, state, IMAGES), whole.predict(full, state, IMAGES), 1e-6)


@pytest.mark.parametrize("name", ["layer_norm over axes", "instance_norm", "batch_norm"])
def test_norms_without_parameters_keep_the_laws(name):
    layer = NORMS[name](use_scale=False, use_offset=False)
    nn.check_layer(layer, np.asarray(IMAGES)).require()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("value", [123.456, 1000.1, -60000.0])
@pytest.mark.parametrize("name", ["layer_norm over axes", "instance_norm"])
def test_nothing_is_left_of_a_constant_input(name, value, dtype):
    x = jnp.full((2, 14, 15, 16), value, dtype)
    layer = NORMS[name]()
    y, dx, _ = passes(layer, *layer.init(None, x), x)
    assert np.abs(np.asarray(y, float)).max() <= 1e-3
    assert np.abs(np.asarray(dx, float)).max() <= 1e-3


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", [n for n in NORMS if n != "batch_norm at rest"])
def test_half_precision_costs_the_rounding_of_the_results_alone(name, dtype):
    layer, x, dy = NORMS[name](), *(normal(seed, (3, 8, 8, 8), dtype) for seed in (0, 1))
    params, state = started(layer, x)
    narrow = passes(layer, params, state, x, dy)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (params, state, x, dy))
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(passes(layer, *wide)), strict=True):
        assert_agree(np.asarray(a, float), np.asarray(b, float), float(jnp.finfo(dtype).eps))


def test_dy_times_the_scale_of_batch_norm_at_rest_may_exceed_what_a_half_holds():
    x = jnp.ones((1, 2), jnp.float16)
    params = {"scale": jnp.full(2, 3, jnp.float16), "offset": jnp.zeros(2, jnp.float16)}
    state = {"mean": jnp.zeros(2, jnp.float16), "variance": jnp.full(2, 1e4, jnp.float16)}
    dy = jnp.full((1, 2), 50000, jnp.float16)
    _, dx, _ = passes(nn.batch_norm().at_rest(), params, state, x, dy)
    np.testing.assert_allclose(dx, [[1500, 1500]], rtol=1e-3)


def test_running_statistics_in_half_precision_move_by_steps_smaller_than_a_rounding():
    x = jnp.asarray([[1.0], [3.0]], jnp.bfloat16)
    layer = nn.batch_norm(0.99)
    params, state = layer.init(None, x)
    forward = jax.jit(layer.forward)
    for _ in range(300):
        _, state, _ = forward(params, state, x, None)
    assert state["mean"].dtype == jnp.bfloat16
    assert abs(float(state["mean"][0]) - 2) < 0.5


@pytest.mark.parametrize("name", [n for n in NORMS if "batch" not in n])
@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (1, 1, 1, 2), (2, 3, 1, 4)])
def test_any_shape_and_an_empty_batch_keep_the_laws(name, shape):
    nn.check_layer(NORMS[name](), np.asarray(normal(0, shape))).require()


def test_at_rest_a_batch_norm_keeps_its_options():
    layer = nn.batch_norm(0.5, 1e-3, use_scale=False)
    rest = layer.at_rest()
    assert repr(rest) == "batch_norm_at_rest(0.5, 0.001, use_scale=False)"
    assert_trees_all_equal(rest.init(None, IMAGES), layer.init(None, IMAGES))


def test_a_norm_prints_its_arguments_by_position_before_its_options(untyped):
    assert repr(nn.layer_norm(1e-3, axes=(1, 2))) == "layer_norm(0.001, axes=(1, 2))"
    assert repr(nn.group_norm(2, use_offset=False)) == "group_norm(2, use_offset=False)"
    assert nn.layer_norm(axes=[1, 2]) == nn.layer_norm(axes=(1, 2))  # pyright: ignore


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: nn.layer_norm(axes=0), ValueError, "layer_norm: expected axes not to be 0"),
        (lambda: nn.layer_norm(axes=(1, 0)), ValueError, "every one of axes not to be 0"),
        (lambda: nn.layer_norm(axes="x"), TypeError, "layer_norm: expected axes to be an integer"),
        (lambda: nn.layer_norm(axes=()).init(None, IMAGES), ValueError, "axes to name some of x"),
        (lambda: nn.rms_norm(axes=(3, -1)).init(None, IMAGES), ValueError, "each once, got"),
        (lambda: nn.layer_norm(axes=4).init(None, IMAGES), ValueError, "got 4 for shape"),
        (lambda: nn.layer_norm(axes=-4).init(None, IMAGES), ValueError, "got -4 for shape"),
        (lambda: nn.layer_norm(use_scale=1), TypeError, "expected use_scale to be True or False"),
        (lambda: nn.instance_norm().init(None, jnp.ones((2, 3))), ValueError, "at least 3 axes"),
        (lambda: nn.instance_norm(-1.0), ValueError, "instance_norm: expected epsilon"),
        (
            lambda: nn.group_norm(2, use_scale=False, use_offset=False).predict(
                (), (), jnp.ones((2, 3))
            ),
            ValueError,
            "group_norm: expected groups to divide the 3 channels",
        ),
        (
            lambda: nn.batch_norm(use_scale=False, use_offset=False).predict(
                (), {"mean": jnp.zeros(1), "variance": jnp.ones(1)}, jnp.ones((2, 3))
            ),
            ValueError,
            "batch_norm: expected the last axis of x to be 1, got 3",
        ),
        (
            lambda: nn.layer_norm(axes=(1, 2)).predict(
                {"scale": jnp.ones((4, 5)), "offset": jnp.ones((4, 5))}, (), jnp.ones((2, 5, 4))
            ),
            ValueError,
            r"expected the sizes of x along axes \(1, 2\) to be \(4, 5\), got \(5, 4\)",
        ),
        (lambda: nn.normalize(epsilon=0.0), ValueError, "normalize: expected epsilon to lie in"),
        (lambda: nn.normalize(0), ValueError, "normalize: expected axis not to be 0, the batch"),
        (lambda: nn.normalize(2).init(None, jnp.ones((2, 3))), ValueError, "got 2 for shape"),
        (lambda: nn.normalize().init(None, jnp.ones((2, 3), int)), TypeError, "floating-point"),
    ],
)
def test_what_does_not_fit_is_refused(run, error, message, untyped):
    with pytest.raises(error, match=message):
        run()


def test_normalize_is_that_of_pytorch_at_zero_and_below_epsilon_too(x64):
    x = jnp.asarray([[3, 4], [0, 0], [1e-13, 0], [-1, 2]])
    dy = jnp.asarray([[1.0, 2], [3, 4], [1, 1], [0.5, -1]])

    @jax.jit
    def both(x):
        y, vjp = jax.vjp(lambda x: nn.normalize().predict((), (), x), x)
        return passes(nn.normalize(), (), (), x, dy)[:2], (y, *vjp(dy))

    (y, dx), autodiff = both(x)
    close(y, [[0.6, 0.8], [0, 0], [0.1, 0], [-0.4472135954999579, 0.8944271909999159]])
    close(dx, [[-0.064, 0.048], [3e12, 4e12], [1e12, 1e12], [0, 0]])
    assert_agree((y, dx), autodiff, 1e-12)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_normalize_keeps_the_laws_along_any_axis(axis):
    for shape in [(2, 3, 4), (0, 3, 2), (2, 0, 3)]:
        nn.check_layer(nn.normalize(axis), np.asarray(normal(7, shape))).require()


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
@pytest.mark.parametrize("factor", [1e-3, 1.0, 3e4])
def test_the_squares_of_large_and_small_numbers_neither_overflow_nor_vanish(dtype, factor, x64):
    factor = factor**4 if dtype in (jnp.float32, jnp.float64) and factor > 1 else factor
    x = jnp.asarray([[0.6 * factor, -0.8 * factor]], dtype)
    y, dx, _ = passes(nn.normalize(), (), (), x, jnp.asarray([[0.8, 0.6]], dtype))
    assert (y.dtype, dx.dtype) == (dtype, dtype)
    np.testing.assert_allclose(np.asarray(y, float), [[0.6, -0.8]], rtol=1e-2)
    expected = (np.array([[0.8, 0.6]]) - np.array([[0.6, -0.8]]) * 0) / factor
    np.testing.assert_allclose(np.asarray(dx, float), expected, rtol=2e-2, atol=1e-7)
