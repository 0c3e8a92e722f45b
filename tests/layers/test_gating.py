import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, passes

import jaxnn as nn

ONE = ((), ((),), ())  # params and state of `glu` around a layer that has none
GATED = {
    "glu": (nn.glu(), jax.nn.sigmoid),
    "glu of tanh": (nn.glu(activation=nn.tanh()), jnp.tanh),
    "swiglu": (nn.swiglu(), jax.nn.silu),
    "geglu": (nn.geglu(), jax.nn.gelu),
    "exact geglu": (nn.geglu(approximate=False), lambda b: jax.nn.gelu(b, approximate=False)),
}


@pytest.mark.parametrize("name", GATED)
def test_the_first_half_is_multiplied_by_the_function_of_the_second(name, x64):
    layer, function = GATED[name]
    x, dy = 3 * normal(0, (4, 2, 6)), normal(1, (4, 2, 3))

    @jax.jit
    def both(x, dy):
        y, vjp = jax.vjp(lambda x: x[..., :3] * function(x[..., 3:]), x)
        return passes(layer, ONE, ONE, x, dy)[:2], (y, *vjp(dy))

    assert_agree(*both(x, dy), 1e-12)


def test_glu_is_that_of_pytorch(x64):
    x = jnp.asarray([[1, -2, 0.5, 3, 0.25, -1]])
    y, dx, _ = passes(nn.glu(), ONE, ONE, x, jnp.asarray([[1.0, 2, -1]]))
    np.testing.assert_allclose(
        y, [[0.9525741268224334, -1.1243530017715961, 0.13447071068499755]], rtol=1e-14
    )
    expected = [0.9525741268224334, 1.1243530017715961, -0.2689414213699951]
    expected += [0.045176659730912, -0.9845363309503934, -0.09830596662074093]
    np.testing.assert_allclose(dx, [expected], rtol=1e-12)


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_the_halves_lie_along_the_axis(axis):
    x = normal(0, (2, 4, 6))
    a, b = np.split(np.asarray(x), 2, axis)
    y = nn.glu(axis, nn.relu()).predict(ONE, ONE, x)
    np.testing.assert_allclose(y, a * np.maximum(b, 0), rtol=1e-6)
    nn.check_layer(nn.glu(axis, nn.relu()), x).require()


def test_a_gate_with_parameters_has_them_in_its_place_and_is_rewritten_as_any_layer():
    layer, x = nn.glu(activation=nn.serial(nn.dense(3), nn.sigmoid())), normal(0, (2, 6))
    nn.check_layer(layer, x).require()
    assert [path for path, _ in nn.walk(layer)] == ["0", "1.0.0", "1.0.1", "2"]
    other = nn.rewrite(layer, lambda path, part: nn.tanh() if part == nn.sigmoid() else part)
    assert "tanh()" in repr(other)


def test_half_precision_is_kept_and_an_infinite_gate_gives_no_nan_to_others():
    x = jnp.asarray([[2, -jnp.inf]], jnp.float16)
    y, dx, _ = passes(nn.glu(), ONE, ONE, x)
    assert (y.dtype, dx.dtype) == (jnp.float16, jnp.float16)
    np.testing.assert_array_equal(y, [[0]])
    np.testing.assert_array_equal(dx, [[0, 0]])


@pytest.mark.parametrize("layer", [nn.glu(), nn.swiglu(), nn.geglu(), nn.split(2)])
def test_an_empty_batch_and_empty_halves_are_kept(layer):
    for shape in [(0, 4), (2, 0), (1, 0, 2)]:
        nn.check_layer(layer, np.ones(shape)).require()


def test_the_product_of_several_members_is_right_where_some_are_zero(x64):
    x = tuple(jnp.asarray([[v, 2.0, 0.0]]) for v in (0.0, 3.0, 5.0))
    y, dx, _ = passes(nn.multiply(), (), (), x, jnp.asarray([[1.0, 10, 1]]))
    np.testing.assert_array_equal(y, [[0, 8, 0]])
    np.testing.assert_array_equal(np.concatenate(dx), [[15, 40, 0], [0, 40, 0], [0, 40, 0]])
    nn.check_layer(nn.multiply(), x).require()
    nn.check_layer(nn.multiply(), x[:1]).require()


def test_split_is_the_inverse_of_concatenate():
    x = normal(0, (2, 4, 6))
    for axis in (1, 2, -1):
        parts = nn.split(2, axis).predict((), (), x)
        np.testing.assert_array_equal(nn.concatenate(axis).predict((), (), parts), x)
        nn.check_layer(nn.split(2, axis), x).require()


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: nn.glu(0), ValueError, "glu: expected axis not to be 0, the batch"),
        (lambda: nn.split(2, 0), ValueError, "split: expected axis not to be 0, the batch"),
        (lambda: nn.split(0), ValueError, "split: expected n to be at least 1, got 0"),
        (
            lambda: nn.glu().init(None, jnp.ones((2, 3))),
            ValueError,
            "split: expected n to divide the 3 elements of axis -1, got 2",
        ),
        (lambda: nn.glu(2).init(None, jnp.ones((2, 4))), ValueError, "got 2 for shape"),
        (lambda: nn.split(2).init(None, jnp.ones((2, 4), int)), TypeError, "floating-point"),
        (lambda: nn.glu(activation=nn.relu), TypeError, "glu: expected activation .*call it"),
        (
            lambda: nn.multiply().predict((), (), (jnp.ones((2, 3)), jnp.ones((1, 3)))),
            ValueError,
            "multiply: expected the members of x to have one shape and dtype",
        ),
        (lambda: nn.multiply().predict((), (), ()), ValueError, "multiply: expected"),
        (lambda: nn.multiply().predict((), (), jnp.ones(2)), TypeError, "x to be a tuple"),
    ],
)
def test_what_does_not_fit_is_refused(run, error, message, untyped):
    with pytest.raises(error, match=message):
        run()
