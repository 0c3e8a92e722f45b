import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from helpers import PUBLIC, assert_agree, differences, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jaxnn as nn


@st.composite
def geometries(draw, dilations=(1, 2)):
    """Options of a pool over a small input in which every window meets the input."""
    dimensions = draw(st.sampled_from([1, 2, 2, 3]))
    axes = []
    for _ in range(dimensions):
        window = draw(st.integers(1, 3))
        dilation = draw(st.sampled_from(dilations))
        # An input at least as long as the gap between elements leaves no window empty.
        size = draw(st.integers((window - 1) * dilation + 1, 6 if dimensions < 3 else 5))
        stride = draw(st.integers(1, 4))
        low = draw(st.integers(0, (window - 1) * dilation // 2))
        high = draw(st.integers(0, (window - 1) * dilation // 2))
        axes.append((size, window, stride, (low, high), dilation))
    size, window, strides, padding, dilation = zip(*axes, strict=True)
    padding = draw(st.sampled_from(["SAME", "VALID", padding]))
    options = {"window": window, "strides": strides, "padding": padding, "dilation": dilation}
    return (2, *size, 2), options


def reduced(x, window, strides, padding, dilation, start=-jnp.inf, combine=lax.max):
    def around(sizes):
        return (1, *sizes, 1)

    if not isinstance(padding, str):
        padding = ((0, 0), *padding, (0, 0))
    dilation = around(dilation)
    return lax.reduce_window(
        x, start, combine, around(window), around(strides), padding, window_dilation=dilation
    )


def by_definition(x, dy, window, strides, padding, dilation):
    """y and dx of a max-pool with explicit padding, window by window."""
    y, dx = np.zeros_like(dy), np.zeros_like(x)
    for at in np.ndindex(*dy.shape):
        *start, channel = at[1:]
        places = [
            (at[0], *place, channel)
            for element in np.ndindex(*window)
            for place in [
                tuple(
                    o * s + e * d - low
                    for o, s, e, d, (low, _) in zip(
                        start, strides, element, dilation, padding, strict=True
                    )
                )
            ]
            if all(0 <= p < n for p, n in zip(place, x.shape[1:-1], strict=True))
        ]
        winner = places[np.argmax([x[place] for place in places])]
        y[at] = x[winner]
        dx[winner] += dy[at]
    return y, dx


def rounded(seed, shape):
    return jnp.asarray(np.round(normal(seed, shape)))


@partial(jax.jit, static_argnums=0)
def run(layer, x, dy=None):
    y, _, residuals = layer.forward((), (), x, None)
    dy = jnp.ones_like(y) if dy is None else dy
    return y, layer.backward((), residuals, dy)[0]


def with_vjp(layer, reference, x, seed):
    """y and dx of a layer and, by autodiff, of a reference; in one program."""
    dy = normal(seed, jax.eval_shape(reference, x).shape)

    @jax.jit
    def both(x, dy):
        y, vjp = jax.vjp(reference, x)
        return run(layer, x, dy), (y, *vjp(dy))

    return both(x, dy)


@given(geometries(dilations=(1,)), st.integers(0, 2**16), st.booleans())
@settings(max_examples=5)
def test_max_pool_agrees_with_vjp_of_reduce_window_ties_and_borders_included(drawn, seed, ties):
    shape, options = drawn
    with jax.enable_x64(True):
        x = rounded(seed, shape) if ties else normal(seed, shape)
        layer = nn.max_pool(**options)
        (y, dx), (value, expected) = with_vjp(layer, lambda x: reduced(x, **options), x, seed + 1)
        assert_trees_all_equal(y, value)
        assert_agree(dx, expected, 1e-10)


@given(geometries(), st.integers(0, 2**16))
@settings(max_examples=5)
def test_dilated_max_pool_agrees_with_its_definition_window_by_window(drawn, seed):
    shape, options = drawn
    if isinstance(options["padding"], str):
        options["padding"] = ((0, 0),) * len(options["window"])
    with jax.enable_x64(True):
        x = rounded(seed, shape)
        layer = nn.max_pool(**options)
        dy = normal(seed + 1, jax.eval_shape(lambda x: layer.predict((), (), x), x).shape)
        y, dx = by_definition(np.asarray(x), np.asarray(dy), **options)
        value, gradient = run(layer, x, dy)
        assert_trees_all_equal(value, jnp.asarray(y))
        assert_agree(gradient, jnp.asarray(dx), 1e-10)


@given(geometries(), st.integers(0, 2**16), st.booleans())
@settings(max_examples=5)
def test_avg_pool_agrees_with_vjp_of_reduce_window(drawn, seed, count_include_pad):
    shape, options = drawn
    if options["padding"] == "SAME":
        options["dilation"] = (1,) * len(options["window"])
    with jax.enable_x64(True):
        x = normal(seed, shape)

        def mean(x):
            total = reduced(x, **options, start=0.0, combine=lax.add)
            if count_include_pad:
                return total / math.prod(options["window"])
            return total / reduced(jnp.ones_like(x), **options, start=0.0, combine=lax.add)

        layer = nn.avg_pool(**options, count_include_pad=count_include_pad)
        assert_agree(*with_vjp(layer, mean, x, seed + 1), 1e-10)


LAYERS = {
    "max": nn.max_pool(2),
    "max overlapping": nn.max_pool((3, 2), strides=(2, 1), padding="SAME"),
    "max with gaps": nn.max_pool(2, strides=3, padding=1, dilation=2),
    "average": nn.avg_pool(3, strides=2, padding="SAME"),
    "average with padding": nn.avg_pool(3, padding=1, count_include_pad=True),
    "max of large windows": nn.max_pool((5, 4), strides=1, padding=1),
    "average of large windows": nn.avg_pool((5, 4), strides=1, padding=1),
    "max reaching out": nn.max_pool(3, strides=2, ceil_mode=True),
    "average reaching out": nn.avg_pool(
        3, strides=2, padding=1, ceil_mode=True, count_include_pad=True
    ),
    "adaptive max": nn.adaptive_max_pool((3, 4)),
    "adaptive average": nn.adaptive_avg_pool((3, 8)),
    "global max": nn.global_max_pool(),
    "global average": nn.global_avg_pool(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_keeps_the_laws_and_at_ties_its_derivative_is_that_of_the_convention(name):
    x = np.concatenate([normal(0, (2, 5, 6, 2)), np.ones((1, 5, 6, 2))])
    nn.check_layer(LAYERS[name], x).require()


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_batch_passes_both_ways(name):
    y, dx = run(LAYERS[name], jnp.zeros((0, 5, 6, 2)))
    assert y.shape[0] == 0
    assert dx.shape == (0, 5, 6, 2)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_is_the_same_vmapped(name):
    x = normal(0, (3, 5, 6, 2))
    expected = run(LAYERS[name], x)
    single = jax.jit(jax.vmap(lambda x: run(LAYERS[name], x[None])))(x)
    single = jax.tree.map(lambda a: np.asarray(a)[:, 0], single)
    assert_trees_all_close(single, expected, rtol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_agrees_with_differences(name, x64):
    x = normal(0, (1, 5, 6, 1))
    forward = jax.jit(lambda x: jnp.sum(jnp.sin(LAYERS[name].predict((), (), x))))
    dy = jnp.cos(run(LAYERS[name], x)[0])
    assert_agree(run(LAYERS[name], x, dy)[1], differences(forward, x), 1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_the_dtype_is_kept(name):
    inputs = [jnp.ones((1, 5, 6, 1), dtype) for dtype in (jnp.float16, jnp.bfloat16, jnp.float32)]
    outputs = jax.jit(lambda inputs: [run(LAYERS[name], x) for x in inputs])(inputs)
    for x, (y, dx) in zip(inputs, outputs, strict=True):
        assert y.dtype == dx.dtype == x.dtype


@pytest.mark.parametrize(
    ("count", "dtype"), [(256, jnp.uint8), (257, jnp.uint16), (65537, jnp.uint32)]
)
def test_the_winner_is_kept_in_the_smallest_type_that_holds_its_index(count, dtype):
    x = jnp.asarray(np.arange(count) == count - 1, jnp.float32)[None, :, None]
    layer = nn.global_max_pool()
    winner, _ = jax.jit(lambda x: layer.forward((), (), x, None))(x)[2].kept
    assert winner.dtype == dtype
    assert winner.item() == count - 1
    assert_trees_all_equal(run(layer, x)[1], x)


@pytest.mark.parametrize(("window", "dtype"), [((16, 16), jnp.uint8), (257, jnp.uint16)])
def test_the_winner_of_a_window_is_kept_in_the_smallest_type_too(window, dtype):
    sizes = (window,) if isinstance(window, int) else window
    x = jax.ShapeDtypeStruct((1, *sizes, 1), jnp.float32)
    forward = nn.max_pool(window).forward
    winner, _ = jax.eval_shape(lambda x: forward((), (), x, None), x)[2].kept
    assert winner.dtype == dtype


@pytest.mark.parametrize("strides", [1, 2])
def test_of_equal_maxima_the_first_in_row_major_order_receives_the_gradient(strides):
    _, dx = run(nn.max_pool(2, strides=strides), jnp.ones((1, 2, 2, 1)))
    assert_trees_all_equal(np.ravel(dx), jnp.array([1.0, 0, 0, 0]))
    _, dx = run(nn.global_max_pool(), jnp.asarray(np.reshape([0.0, 3, 3, 1], (1, 2, 2, 1))))
    assert_trees_all_equal(np.ravel(dx), jnp.array([0.0, 1, 0, 0]))


@pytest.mark.parametrize("layer", [nn.max_pool(2), nn.global_max_pool()])
def test_a_maximum_over_nan_is_nan_and_the_first_nan_receives_the_gradient(layer):
    x = jnp.asarray(np.reshape([1, np.nan, np.nan, 0], (1, 2, 2, 1)))
    y, dx = run(layer, x)
    assert np.isnan(y).all()
    assert_trees_all_equal(np.ravel(dx), jnp.array([0.0, 1, 0, 0]))


@given(st.integers(0, 2**16))
@settings(max_examples=5)
def test_values_with_nan_and_infinities_are_those_of_reduce_window(seed):
    values = np.random.default_rng(seed).choice([np.nan, np.inf, -np.inf, 0, 1], (2, 5, 4, 2))
    options = {"window": (3, 2), "strides": (1, 2), "padding": ((1, 1), (0, 1)), "dilation": (1, 1)}
    x = jnp.asarray(values, jnp.float32)
    y, _ = run(nn.max_pool(**options), x)
    np.testing.assert_array_equal(y, reduced(x, **options))


def test_padding_never_wins_over_an_element_of_minus_infinity():
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    y, dx = run(nn.max_pool(2, padding=1), x)
    assert_trees_all_equal(y, x)
    assert_trees_all_equal(dx, jnp.ones_like(x))


@pytest.mark.parametrize("layer", [nn.max_pool(2), nn.global_max_pool()])
def test_autodiff_of_forward_gives_dy_to_the_first_maximum_and_to_the_first_nan(layer):
    for values, first in (([0.0, 3, 3, 1], 1), ([1, np.nan, 2, np.nan], 1), ([2.0] * 4, 0)):
        x = jnp.asarray(np.reshape(values, (1, 2, 2, 1)), jnp.float32)
        slope = jax.grad(lambda x: layer.forward((), (), x, None)[0].sum())(x)
        assert_trees_all_equal(np.ravel(slope), np.eye(4, dtype=np.float32)[first])


def test_autodiff_of_forward_gives_nothing_to_padding_beside_minus_infinity():
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    slope = jax.grad(lambda x: nn.max_pool(2, padding=1).forward((), (), x, None)[0].sum())(x)
    assert_trees_all_equal(slope, jnp.ones_like(x))


LARGE = [
    ({"window": (7, 6)}, (15, 13)),
    ({"window": 5, "strides": (1, 2), "padding": "SAME", "dilation": (1, 2)}, (9, 11)),
    ({"window": 20, "strides": 1, "padding": 9}, (25,)),
    ({"window": (3, 4, 3), "strides": 2, "padding": 1}, (4, 5, 4)),
]


@pytest.mark.parametrize(("options", "size"), LARGE)
@pytest.mark.parametrize("make", [nn.max_pool, nn.avg_pool])
def test_large_windows_keep_the_laws_at_ties_too(make, options, size):
    nn.check_layer(make(**options), np.round(normal(0, (2, *size, 2)))).require()


@pytest.mark.parametrize(("options", "size"), LARGE)
def test_large_windows_are_those_of_the_definition(options, size, x64):
    x = rounded(0, (2, *size, 1))
    windows = nn.max_pool(**options).windows(x)
    facts = {n: getattr(windows, n) for n in ("window", "strides", "padding", "dilation")}
    dy = normal(1, (2, *windows.output_size, 1))
    expected = by_definition(np.asarray(x), np.asarray(dy), **facts)
    assert_trees_all_close(run(nn.max_pool(**options), x, dy), expected, rtol=1e-12)
    sums = reduced(x, **facts, start=0.0, combine=lax.add)
    counts = reduced(jnp.ones_like(x), **facts, start=0.0, combine=lax.add)
    y, _ = run(nn.avg_pool(**options), x, dy)
    assert_trees_all_close(y, sums / counts, rtol=1e-12, atol=1e-12)


def test_a_nan_stays_within_the_large_windows_that_hold_it():
    x = jnp.zeros((1, 40, 1)).at[0, 20].set(jnp.nan)
    for pool in (nn.max_pool, nn.avg_pool):
        y, dx = run(pool(18, strides=1), x)
        np.testing.assert_array_equal(
            np.isnan(y[0, :, 0]), (np.arange(23) > 2) * (np.arange(23) < 21)
        )
        assert np.isfinite(dx).all()


def equations(jaxpr):
    """How many there are, those of inner programs included."""
    inner = (v for e in jaxpr.eqns for v in e.params.values())
    return len(jaxpr.eqns) + sum(equations(v.jaxpr) for v in inner if hasattr(v, "jaxpr"))


@pytest.mark.parametrize("make", [nn.max_pool, nn.avg_pool])
@pytest.mark.parametrize("strides", [None, 1])
def test_the_program_of_a_window_is_no_longer_than_that_of_a_small_one(make, strides):
    def length(window):
        x = jax.ShapeDtypeStruct((1, 400, 500, 1), jnp.float32)
        return equations(jax.make_jaxpr(run.__wrapped__, static_argnums=0)(layer(window), x).jaxpr)

    def layer(window):
        return make(window, strides=strides, padding="SAME")

    assert max(map(length, [(7, 9), (30, 40), (300, 400)])) < (length(2) if strides else 450)


@pytest.mark.parametrize(
    ("layer", "of_pytorch"),
    [
        (nn.max_pool(3, strides=2, ceil_mode=True), [5, 8, 7]),
        (nn.max_pool(2, strides=3, padding=1, ceil_mode=True), [1, 8, 7]),
        (nn.max_pool(4, strides=3, ceil_mode=True), [8, 8]),
        (nn.avg_pool(4, strides=3, padding=1, ceil_mode=True), [8 / 3, 5, 5.5]),
        (
            nn.avg_pool(4, strides=3, padding=1, ceil_mode=True, count_include_pad=True),
            [2, 5, 11 / 3],
        ),
        (nn.adaptive_avg_pool(3), [8 / 3, 13 / 3, 14 / 3]),
        (nn.adaptive_max_pool(3), [5, 8, 7]),
    ],
)
def test_windows_that_reach_out_and_bins_are_those_of_pytorch(layer, of_pytorch):
    x = jnp.asarray([1.0, 5, 2, 8, 3, 7, 4]).reshape(1, 7, 1)
    np.testing.assert_allclose(run(layer, x)[0].ravel(), of_pytorch, rtol=1e-6)


def test_more_bins_than_elements_repeat_them():
    x = jnp.asarray([1.0, 5, 2]).reshape(1, 3, 1)
    y, dx = run(nn.adaptive_avg_pool(5), x)
    np.testing.assert_allclose(y.ravel(), [1, 3, 5, 3.5, 2])
    np.testing.assert_allclose(dx.ravel(), [1.5, 2, 1.5])


def test_what_overlapping_bins_share_is_summed_in_float32():
    x = jnp.ones((1, 1, 1), jnp.bfloat16)
    for layer in (nn.adaptive_avg_pool(259), nn.adaptive_max_pool(259)):
        assert run(layer, x)[1].item() == jnp.bfloat16(259)


def test_a_window_that_is_kept_by_ceil_mode_is_not_fused_away():
    network = nn.serial(nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2, ceil_mode=True))
    assert nn.fuse(network) == network


@pytest.mark.parametrize("make", [nn.adaptive_max_pool, nn.adaptive_avg_pool])
def test_no_size_of_an_adaptive_pool_is_that_of_the_input(make):
    x = normal(0, (2, 5, 4, 3))
    for kept, size in (((None, 2), (5, 2)), ((3, None), (3, 4)), (None, (5, 4))):
        layer = make(kept)
        for a, b in zip(run(layer, x), run(make(size), x), strict=True):
            np.testing.assert_array_equal(a, b)
        assert eval(repr(layer), dict(PUBLIC)) == layer


@pytest.mark.parametrize("make", [nn.adaptive_max_pool, nn.adaptive_avg_pool])
def test_sizes_that_no_adaptive_pool_has_are_refused(make):
    with pytest.raises(ValueError, match="expected output_size to be at least 1, got 0"):
        make(0)
    with pytest.raises(ValueError, match="with 3 spatial dimensions, got shape"):
        make((1, 2, 3)).init(None, IMAGES)


def ones(dtype, size=32):
    return jnp.ones((1, size, size, 1), dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_mean_of_a_large_window_of_ones_is_one_in_half_precision(dtype):
    x = ones(dtype)
    assert_trees_all_equal(run(nn.avg_pool(32), x)[0], jnp.ones((1, 1, 1, 1), dtype))
    assert_trees_all_equal(run(nn.global_avg_pool(), x)[0], jnp.ones((1, 1), dtype))


@pytest.mark.parametrize("layer", [nn.avg_pool(8), nn.global_avg_pool()])
def test_the_mean_of_large_half_precision_numbers_does_not_overflow(layer):
    y, _ = run(layer, 2000 * ones(jnp.float16, 8))
    assert y.item() == 2000


def test_what_a_half_precision_element_receives_is_summed_in_float32():
    # 260 windows hold the element in the middle; one by one a sum in bfloat16 stops at 256.
    x = jnp.ones((1, 519, 1), jnp.bfloat16)
    assert run(nn.avg_pool(260, strides=1), x)[1][0, 259, 0] == 1


def test_the_share_of_one_of_more_positions_than_float16_can_count_is_not_zero():
    x = jnp.ones((1, 300, 300, 1), jnp.float16)
    assert (run(nn.global_avg_pool(), x)[1][0, 0, 0, 0] > 0).item()


def test_an_element_that_lies_in_no_window_receives_nothing():
    x = normal(0, (1, 5, 1))
    for layer in (nn.max_pool(1, strides=2), nn.avg_pool(1, strides=2)):
        assert_trees_all_equal(np.ravel(run(layer, x)[1]), jnp.array([1.0, 0, 1, 0, 1]))


def test_an_integer_window_takes_the_number_of_dimensions_from_the_input():
    for spatial in ((4,), (4, 4), (4, 4, 4)):
        x = normal(0, (2, *spatial, 3))
        expected = run(nn.max_pool((2,) * len(spatial)), x)
        assert_trees_all_equal(run(nn.max_pool(2), x), expected)


def test_two_by_two_takes_224_to_112_and_keeps_the_channels():
    x = jax.ShapeDtypeStruct((1, 224, 224, 64), jnp.float32)
    y = jax.eval_shape(lambda x: nn.max_pool(2).predict((), (), x), x)
    assert y.shape == (1, 112, 112, 64)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"window": 2},
        {"window": 3, "strides": 2, "padding": 1},
        {"window": 2, "strides": 1, "dilation": 2},
    ],
)
def test_max_pool_is_that_of_pytorch(dimensions, options):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    pool = [torch.nn.MaxPool1d, torch.nn.MaxPool2d, torch.nn.MaxPool3d][dimensions - 1]
    names = {"window": "kernel_size", "strides": "stride"}
    reference = pool(**{names.get(name, name): value for name, value in options.items()})
    assert_like_pytorch(torch, nn.max_pool(**options), reference, dimensions)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool_is_that_of_pytorch(dimensions, count_include_pad):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    pool = [torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.AvgPool3d][dimensions - 1]
    reference = pool(3, stride=2, padding=1, count_include_pad=count_include_pad)
    layer = nn.avg_pool(3, strides=2, padding=1, count_include_pad=count_include_pad)
    assert_like_pytorch(torch, layer, reference, dimensions)


def assert_like_pytorch(torch, layer, reference, dimensions):
    x = np.round(2 * np.random.default_rng(0).normal(size=(2, *(7, 6, 5)[:dimensions], 3)))
    with jax.enable_x64(True):
        y, dx = run(layer, jnp.asarray(x))
    given = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    expected = reference(given)
    expected.sum().backward()
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(np.moveaxis(dx, -1, 1), given.grad.numpy(), rtol=1e-12)


IMAGES = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)


@pytest.mark.parametrize("pool", [nn.max_pool, nn.avg_pool])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "expected window to be at least 1, got 0"),
        ({"window": (2, -1)}, "expected every entry of window to be at least 1, got -1"),
        ({"window": 2, "strides": 0}, "expected strides to be at least 1, got 0"),
        ({"window": 2, "dilation": (1, 0)}, "expected every entry of dilation to be at least 1"),
        ({"window": 2, "padding": -1}, "expected padding to be at least 0, got -1"),
        ({"window": 2, "padding": ((0, -1), (0, 0))}, "every entry of padding to be at least 0"),
        ({"window": 2, "padding": "SAMME"}, "unknown padding 'SAMME': did you mean 'SAME'?"),
        ({"window": ()}, r"expected window to have 1 to 3 entries, .* got \(\)"),
        ({"window": (1,) * 4}, "expected window to have 1 to 3 entries"),
        (
            {"window": (2, 2), "strides": (1,)},
            r"as many entries .* window=\(2, 2\), strides=\(1,\)",
        ),
    ],
)
def test_arguments_that_are_wrong_by_themselves_are_refused_at_once(pool, options, message):
    with pytest.raises(ValueError, match=message) as error:
        pool(**options)
    assert str(error.value).startswith(pool.__name__)


@pytest.mark.parametrize("pool", [nn.max_pool, nn.avg_pool])
@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        (
            {"window": 5},
            IMAGES,
            r"window to fit into the padded input of size \(4, 4\), got \(5, 5",
        ),
        ({"window": 3, "dilation": 2}, IMAGES, r"got \(3, 3\), \(5, 5\) with dilation \(2, 2\)"),
        ({"window": (2,)}, IMAGES, r"with 1 spatial dimensions, got shape \(2, 4, 4, 3\)"),
        ({"window": 2}, jnp.ones((2, 3)), "with 1 to 3 spatial dimensions"),
        ({"window": 2}, jnp.ones((2, 0, 3)), "every spatial size of x to be at least 1"),
        ({"window": 2, "padding": 2}, IMAGES, "some hold nothing but padding"),
        ({"window": 1, "padding": ((0, 0), (0, 1))}, IMAGES, "some hold nothing but padding"),
        (
            {"window": 2, "dilation": 3, "strides": 1, "padding": 2},
            jnp.ones((1, 2, 1)),
            "some hold nothing but padding",
        ),
    ],
)
def test_windows_that_do_not_suit_the_input_are_refused(pool, options, x, message):
    with pytest.raises(ValueError, match=message):
        pool(**options).init(None, x)


@pytest.mark.parametrize(
    "layer", [nn.max_pool(2), nn.avg_pool(2), nn.global_max_pool(), nn.global_avg_pool()]
)
def test_integer_inputs_are_refused(layer, untyped):
    with pytest.raises(
        TypeError, match=f"{layer.name}: expected x to be floating-point, got int32"
    ):
        layer.predict((), (), jnp.ones((1, 4, 4, 1), jnp.int32))


@pytest.mark.parametrize("layer", [nn.global_max_pool(), nn.global_avg_pool()])
@pytest.mark.parametrize("shape", [(2, 3), (2, 0, 3), (1, 2, 2, 2, 2, 1)])
def test_global_pools_refuse_inputs_without_positions(layer, shape):
    with pytest.raises(ValueError, match=f"{layer.name}: expected"):
        layer.init(None, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 2.0}, "expected window to be an integer, got 2.0"),
        ({"window": (2, True)}, "expected every entry of window to be an integer, got True"),
        ({"window": 2, "strides": "1"}, "expected strides to be an integer, got '1'"),
        ({"window": 2, "padding": (1, 1)}, None),
    ],
)
def test_sizes_that_are_not_integers_are_refused(options, message, untyped):
    with pytest.raises((TypeError, ValueError), match=message or r"\(low, high\) for each"):
        nn.max_pool(**options)
