import pickle
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from helpers import PUBLIC, started

import jaxnn as nn

OPTIONS = [
    {},
    {"strides": 2, "use_bias": False},
    {"strides": (1, 4), "padding": "VALID"},
    {"padding": ((2, 0), (1, 5)), "dilation": 2},
    {"padding": 1, "dilation": (1, 2), "groups": 2},
    {"padding": "CIRCULAR", "strides": (2, 3)},
    {"groups": 4, "strides": 2},
    {"algorithm": "winograd"},
    {"algorithm": "direct"},
    {"algorithm": "direct", "groups": 2},
    {"algorithm": "direct", "padding": ((2, 0), (1, 5)), "dilation": 2},
    {"algorithm": "direct", "padding": "CIRCULAR", "strides": (2, 3)},
    {"algorithm": "patches", "groups": 2, "padding": "CIRCULAR"},
]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_layer_keeps_the_laws(make, options):
    nn.check_layer(make(4, (3, 3), **options), normal(3, 5, 4, 4)).require()


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
def test_one_and_three_dimensions_keep_the_laws(make):
    nn.check_layer(make(2, 3, strides=2), normal(2, 5, 3)).require()
    nn.check_layer(make(2, (2, 3, 1)), normal(2, 3, 4, 2, 3)).require()


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_any_batch_keeps_the_laws(make, batch):
    nn.check_layer(make(2, (2, 3, 1), strides=2), normal(batch, 3, 4, 2, 3)).require()


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(2, 0), (1, 1)]])
@pytest.mark.parametrize("dilation", [1, 2])
def test_forward_is_the_library_convolution(padding, dilation, untyped):
    with jax.enable_x64(True):
        x = jnp.asarray(normal(2, 7, 6, 4))
        layer = nn.conv(6, (3, 2), strides=2, padding=padding, dilation=dilation, groups=2)
        params, state = started(layer, x)
        expected = jax.lax.conv_general_dilated(
            x,
            params["weight"],
            (2, 2),
            padding,
            rhs_dilation=(dilation, dilation),
            feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = layer.predict(params, state, x)
        assert_trees_all_close(y, expected + params["bias"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [1, 2, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_transposed_convolution_is_that_of_the_library(padding, strides, dilation):
    with jax.enable_x64(True):
        x = jnp.asarray(normal(2, 5, 4, 3))
        layer = nn.conv_transpose(2, (3, 2), strides=strides, padding=padding, dilation=dilation)
        params, state = started(layer, x)
        expected = jax.lax.conv_transpose(
            x,
            params["weight"],
            (strides, strides),
            padding,
            rhs_dilation=(dilation, dilation),
            transpose_kernel=True,
        )
        y = layer.predict(params, state, x)
        assert_trees_all_close(y, expected + params["bias"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_are_those_of_pytorch(groups):
    torch = pytest.importorskip("torch")
    x = normal(2, 6, 5, 4)
    images = torch.tensor(x).permute(0, 3, 1, 2)
    with jax.enable_x64(True):
        for padding in ("VALID", 1, "CIRCULAR"):
            layer = nn.conv(6, (3, 3), strides=2, padding=padding, groups=groups)
            params, state = layer.init(jax.random.key(0), jnp.asarray(x))
            if padding == "CIRCULAR":
                given = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="circular")
            else:
                given = images
            expected = torch.nn.functional.conv2d(
                given,
                torch.tensor(np.asarray(params["weight"])).permute(3, 2, 0, 1),
                stride=2,
                padding=1 if padding == 1 else 0,
                groups=groups,
            )
            y = layer.predict(params, state, jnp.asarray(x))
            np.testing.assert_allclose(y, expected.permute(0, 2, 3, 1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("output_padding", [0, 1])
def test_transposed_convolutions_are_those_of_pytorch(groups, output_padding):
    torch = pytest.importorskip("torch")
    x = normal(2, 4, 5, 4)
    with jax.enable_x64(True):
        pair = (1, 1 - output_padding)
        layer = nn.conv_transpose(6, (3, 3), strides=2, padding=(pair, pair), groups=groups)
        params, state = layer.init(jax.random.key(0), jnp.asarray(x))
        expected = torch.nn.functional.conv_transpose2d(
            torch.tensor(x).permute(0, 3, 1, 2),
            torch.tensor(np.asarray(params["weight"])).permute(3, 2, 0, 1),
            stride=2,
            padding=1,
            output_padding=output_padding,
            groups=groups,
        )
        y = layer.predict(params, state, jnp.asarray(x))
        np.testing.assert_allclose(y, expected.permute(0, 2, 3, 1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
def test_a_circular_convolution_commutes_with_shifts(make):
    with jax.enable_x64(True):
        x = jnp.asarray(normal(1, 6, 3))
        layer = make(2, 4, padding="CIRCULAR", dilation=3)  # reaches around x more than once
        params, state = started(layer, x)
        shifted = layer.predict(params, state, jnp.roll(x, 2, axis=1))
        expected = jnp.roll(layer.predict(params, state, x), 2, axis=1)
        assert_trees_all_close(shifted, expected, rtol=1e-12)
        nn.check_layer(layer, x).require()


KERNEL = np.reshape([1.0, 10, 100], (3, 1, 1))


@pytest.mark.parametrize(
    ("layer", "values", "of_pytorch"),
    [
        (
            nn.conv(1, 3, padding=((2, 1),), padding_mode="reflect", use_bias=False),
            (1.0, 5, 2, 8),
            [152, 515, 251, 825, 282],
        ),
        (
            nn.conv(1, 3, padding=((2, 1),), padding_mode="edge", use_bias=False),
            (1.0, 5, 2, 8),
            [111, 511, 251, 825, 882],
        ),
        (
            nn.conv(1, 3, padding=((2, 1),), padding_mode="circular", use_bias=False),
            (1.0, 5, 2, 8),
            [182, 518, 251, 825, 182],
        ),
        (
            nn.conv_transpose(1, 3, strides=3, padding=0, output_padding=2, use_bias=False),
            (1.0, 5, 2),
            [1, 10, 100, 5, 50, 500, 2, 20, 200, 0, 0],
        ),
        (
            nn.conv_transpose(1, 3, strides=2, padding=1, output_padding=1, use_bias=False),
            (1.0, 5, 2),
            [10, 105, 50, 502, 20, 200],
        ),
    ],
)
def test_what_stands_around_is_that_of_pytorch(layer, values, of_pytorch):
    x = jnp.asarray(values).reshape(1, -1, 1)
    y = layer.predict({"weight": jnp.asarray(KERNEL, x.dtype)}, (), x)
    np.testing.assert_allclose(y.ravel(), of_pytorch)


AROUND = [
    nn.conv(2, 3, strides=2, padding=2, padding_mode="reflect"),
    nn.conv(2, 3, padding=1, padding_value=-1.5),
    nn.conv(2, 3, padding_mode="symmetric"),
    nn.conv_transpose(2, 3, strides=3, padding=1, output_padding=2),
    nn.conv_transpose(2, 3, padding="VALID", dilation=2, output_padding=1),
]


@pytest.mark.parametrize("layer", AROUND, ids=str)
def test_what_stands_around_keeps_the_laws(layer):
    nn.check_layer(layer, normal(2, 4, 3)).require()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.conv(2, 3, padding_mode="replicate"), "unknown padding_mode 'replicate'"),
        (
            lambda: nn.conv(2, 3, padding_mode="edge", padding_value=1.0),
            'expected padding_mode to be "constant" where padding_value is given',
        ),
        (
            lambda: nn.conv(2, 3, padding="CIRCULAR", padding_mode="edge"),
            'expected padding to be another than "CIRCULAR"',
        ),
        (
            lambda: nn.conv(2, 9, padding=4, padding_mode="reflect").init(
                jax.random.key(0), jnp.ones((1, 4, 1))
            ),
            "expected padding to mirror at most 3 of 4 elements",
        ),
        (
            lambda: nn.conv_transpose(2, 3, strides=2, padding=1, output_padding=2).init(
                jax.random.key(0), jnp.ones((1, 4, 1))
            ),
            r"expected output_padding to be below the strides \(2,\) or the dilation \(1,\), got 2",
        ),
        (
            lambda: nn.conv_transpose(2, 3, strides=2, output_padding=1),
            'expected padding to be "VALID" or numbers where output_padding is given',
        ),
        (
            lambda: nn.conv_transpose(2, (3, 3), padding=0, output_padding=(1,)),
            "as many entries in each of the tuples",
        ),
    ],
)
def test_what_cannot_stand_around_is_refused(make, message, untyped):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_worked_example_of_a_padded_image_with_three_channels():
    # 5×5×3, zero padding 1, two 3×3×3 kernels, stride 2: the top left window of the first kernel.
    x = np.zeros((1, 5, 5, 3), np.float32)
    x[0, :2, :2, 0] = [[0, 1], [2, 0]]
    x[0, 0, 0, 2] = 1
    weight = np.zeros((3, 3, 3, 2), np.float32)
    weight[..., 0, 0] = [[1, 1, -1], [0, -1, 0], [1, -1, -1]]
    weight[1, 1, 2, 0] = 1
    layer = nn.conv(2, (3, 3), strides=2, padding=1)
    bias = jnp.array([1.0, 0.0])

    def top_left(weight, bias):
        return layer.predict({"weight": jnp.asarray(weight), "bias": bias}, (), jnp.asarray(x))[
            0, 0, 0, 0
        ]

    def channel(index):
        return weight * (np.arange(3) == index)[:, None]

    assert [float(top_left(channel(c), jnp.zeros(2))) for c in range(3)] == [-2, 0, 1]
    assert float(top_left(weight, jnp.zeros(2))) == -1
    assert float(top_left(weight, bias)) == 0
    y = layer.predict({"weight": jnp.asarray(weight), "bias": bias}, (), jnp.asarray(x))
    assert y.shape == (1, 3, 3, 2)


def test_a_one_by_one_convolution_is_a_dense_layer_at_every_pixel():
    x = jnp.asarray(normal(2, 4, 3, 5), jnp.float32)
    layer, dense = nn.conv(7, (1, 1)), nn.dense(7)
    params, _ = layer.init(jax.random.key(0), x)
    flat = params | {"weight": params["weight"][0, 0]}
    y, _, residuals = layer.forward(params, (), x, None)
    assert_trees_all_close(y, dense.predict(flat, (), x), rtol=1e-6)
    dx, capture = layer.backward(params, residuals, y)
    _, _, dense_residuals = dense.forward(flat, (), x, None)
    expected_dx, expected = dense.backward(flat, dense_residuals, y)
    assert_trees_all_close(dx, expected_dx, rtol=1e-5)
    gradients = nn.contract(capture)
    gradients["weight"] = gradients["weight"][0, 0]
    assert_trees_all_close(gradients, nn.contract(expected), rtol=1e-5)


def test_a_network_agrees_with_autodiff_and_differences():
    network = nn.serial(nn.conv(3, (2, 2), strides=2), nn.tanh(), nn.flatten(), nn.dense(2))
    with jax.enable_x64(True):
        x = jnp.asarray(normal(3, 4, 4, 2))
        params, state = started(network, x)
        target = jnp.array([0, 1, 1])
        loss = nn.softmax_cross_entropy()
        nn.check_gradients(network, loss, params, state, x, target).require()


def test_initial_weights_have_the_variance_of_the_channels_that_enter():
    x = jax.ShapeDtypeStruct((1, 8, 8, 64), jnp.float32)
    for make, into in ((nn.conv, 64), (nn.conv_transpose, 64)):
        params, _ = make(256, (3, 3)).init(jax.random.key(0), x)
        np.testing.assert_allclose(np.var(params["weight"]), 1 / (9 * into), rtol=0.05)


def test_integers_stand_for_every_dimension_of_the_input():
    x = jnp.ones((1, 4, 4, 2))
    layer = nn.conv(3, 3, strides=2)
    params, state = started(layer, x)
    assert params["weight"].shape == (3, 3, 2, 3)
    assert layer.predict(params, state, x).shape == (1, 2, 2, 3)
    with pytest.raises(ValueError, match="conv: expected x to have the 2 spatial dimensions"):
        layer.predict(params, state, jnp.ones((1, 4, 2)))


def test_a_parameter_tree_without_bias_has_none_and_no_gradient_for_it():
    layer = nn.conv(3, (2, 2), use_bias=False)
    params, _ = layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    y, _, residuals = layer.forward(params, (), jnp.ones((1, 4, 4, 2)), None)
    gradients = nn.contract(layer.backward(params, residuals, y)[1])
    assert set(params) == set(gradients) == {"weight"}


BAD_ARGUMENTS = [
    (dict(features=0), ValueError, "features to be at least 1, got 0"),
    (dict(features=2.0), TypeError, "features to be an integer, got 2.0"),
    (dict(kernel_size=0), ValueError, "kernel_size to be at least 1, got 0"),
    (dict(kernel_size=(3, -1)), ValueError, "every entry of kernel_size to be at least 1, got -1"),
    (dict(strides=0), ValueError, "strides to be at least 1, got 0"),
    (dict(dilation=(0, 1)), ValueError, "every entry of dilation to be at least 1, got 0"),
    (dict(strides=(1, 1, 1)), ValueError, "as many entries in each of the tuples"),
    (dict(groups=4), ValueError, "groups to divide features, got 4 groups of 6"),
    (dict(groups=0), ValueError, "groups to be at least 1, got 0"),
    (dict(padding="SMAE"), ValueError, "unknown padding 'SMAE': did you mean 'SAME'"),
    (dict(padding=((1, 1), (1, -1))), ValueError, "every entry of padding to be at least 0"),
    (dict(algorithm="winnograd"), ValueError, "unknown algorithm .*did you mean 'winograd'"),
    (dict(use_bias=1), TypeError, "use_bias to be True or False, got 1"),
    (dict(kernel_size=10**10), ValueError, "kernel_size to be at most 2147483647, got 10000000000"),
    (dict(kernel_size=(3, 10**10)), ValueError, "every entry of kernel_size to be at most"),
    (dict(features=10**10), ValueError, "features to be at most 2147483647"),
    (dict(strides=10**10), ValueError, "strides to be at most 2147483647"),
    (dict(padding=10**10), ValueError, "padding to be at most 2147483647"),
    (dict(kernel_size="3"), TypeError, "kernel_size to be an integer, got '3'"),
    (dict(padding=None), TypeError, "padding to be a name, an integer or .*, got None"),
    (dict(weight_init="hee"), ValueError, "weight_init: unknown initializer 'hee'"),
    (dict(algorithm=3), TypeError, "algorithm to be a name or to have forward, input_gradient"),
    (dict(algorithm=np.zeros(2)), TypeError, "algorithm to be a name or to have forward"),
]


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused_by_name(make, arguments, error, message, untyped):
    with pytest.raises(error, match=f"{make.__name__}: .*{message}"):
        make(**({"features": 6, "kernel_size": (3, 3)} | arguments))


BAD_INPUTS = [
    (jnp.ones((1, 4, 4, 2), int), TypeError, "x to be floating-point, got int32"),
    (jnp.ones((1, 4, 2)), ValueError, r"with 2 spatial dimensions, got shape \(1, 4, 2\)"),
    (jnp.ones((1, 0, 4, 2)), ValueError, "every spatial size of x to be at least 1"),
    (jnp.ones((1, 4, 4, 3)), ValueError, "groups to divide the channels of x, got 2 groups of 3"),
    (jnp.ones((1, 4, 4, 0)), ValueError, "groups to divide the channels of x, got 2 groups of 0"),
]


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
@pytest.mark.parametrize(("x", "error", "message"), BAD_INPUTS)
def test_bad_inputs_are_refused(make, x, error, message):
    with pytest.raises(error, match=message):
        make(4, (3, 3), groups=2).init(jax.random.key(0), x)


def test_a_kernel_larger_than_the_padded_input_is_refused():
    layer = nn.conv(4, (3, 3), padding=((0, 1), (1, 1)), dilation=(2, 1))
    message = r"kernel_size to fit into the padded input of size \(4, 7\), got \(3, 3\), \(5, 3\)"
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), jnp.ones((1, 3, 5, 1)))


def test_padding_that_leaves_nothing_of_a_transposed_convolution_is_refused():
    with pytest.raises(ValueError, match="padding to leave something of an output of size"):
        nn.conv_transpose(4, 3, padding=3).init(jax.random.key(0), jnp.ones((1, 2, 2)))


def test_channels_and_dtypes_other_than_the_weights_are_refused():
    layer = nn.conv(4, (3, 3))
    params, state = started(layer, jnp.ones((1, 4, 4, 2)))
    with pytest.raises(ValueError, match="conv: expected the last axis of x to be 2, got 3"):
        layer.predict(params, state, jnp.ones((1, 4, 4, 3)))
    with pytest.raises(TypeError, match="conv: expected x to be float32"):
        layer.predict(params, state, jnp.ones((1, 4, 4, 2), jnp.float16))


@pytest.mark.parametrize("options", [{"strides": 2}, {"dilation": 2}, {"groups": 2}])
def test_algorithms_that_cannot_compute_a_convolution_are_refused(options):
    x = jnp.ones((1, 8, 8, 4))
    with pytest.raises(ValueError, match="algorithm 'winograd' to be given a 3×3 kernel"):
        nn.conv(4, (3, 3), algorithm="winograd", **options).init(jax.random.key(0), x)


def test_jit_and_eager_agree():
    layer = nn.conv(4, (3, 3))
    x = jnp.asarray(normal(2, 5, 5, 3), jnp.float32)
    params, state = started(layer, x)
    assert_trees_all_equal(
        jax.jit(layer.predict)(params, state, x), layer.predict(params, state, x)
    )


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_layer_is_a_value(make, options):
    layer = make(4, (3, 3), **options)
    assert eval(repr(layer), dict(PUBLIC)) == pickle.loads(pickle.dumps(layer)) == layer
    assert hash(layer) == hash(make(4, (3, 3), **options))
    assert layer != replace(layer, features=8)


def test_layers_show_the_arguments_that_were_given():
    assert repr(nn.conv(4, 3)) == "conv(4, 3)"
    layer = nn.conv_transpose(4, (3, 3), strides=2, padding=((1, 0), (0, 1)))
    assert repr(layer) == "conv_transpose(4, (3, 3), strides=2, padding=((1, 0), (0, 1)))"


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
def test_lists_are_taken_for_tuples(make, untyped):
    layer = make(4, [3, 2], strides=[1, 2], padding=[[1, 0], (0, 1)], dilation=[1, 1])
    expected = make(4, (3, 2), strides=(1, 2), padding=((1, 0), (0, 1)), dilation=(1, 1))
    assert layer == expected
    assert hash(layer) == hash(expected)


def test_a_convolution_equals_no_transposed_one():
    assert nn.conv(4, 3) != nn.conv_transpose(4, 3)


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
def test_equal_layers_are_traced_once_as_an_argument_of_jit(make):
    traces = []

    def run(layer, params, x):
        traces.append(layer)
        return layer.predict(params, (), x)

    x = jnp.ones((1, 4, 4, 2))
    params, _ = make(3, 3).init(jax.random.key(0), x)
    run = jax.jit(run, static_argnums=0)
    assert_trees_all_equal(run(make(3, 3), params, x), run(make(3, 3), params, x))
    assert len(traces) == 1


LAYERS = [nn.conv(3, 3), nn.conv_transpose(3, 3), nn.conv_relu_max_pool(nn.conv(3, 3))]
BAD_COTANGENTS = [
    (lambda y: y[:1], ValueError, r"dy to have the shape of y, .* got \(1, "),
    (lambda y: y[0], ValueError, "dy to have the shape of y"),
    (lambda y: y.astype(jnp.float16), TypeError, "dy to be float32 as y is, got float16"),
    (lambda y: (y, y), TypeError, "dy to be an array, got tuple"),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize(("spoil", "error", "message"), BAD_COTANGENTS)
def test_a_cotangent_unlike_y_is_refused(layer, spoil, error, message, untyped):
    x = jnp.ones((2, 4, 4, 1))
    params, state = started(layer, x)
    y, _, residuals = layer.forward(params, state, x, None)
    with pytest.raises(error, match=message):
        layer.backward(params, residuals, spoil(y))


@pytest.mark.parametrize("layer", LAYERS[::2], ids=str)
def test_inputs_of_another_dtype_or_channels_than_the_weights_are_refused(layer):
    params, state = started(layer, jnp.ones((2, 4, 4, 1)))
    with pytest.raises(TypeError, match="conv: expected x to be float32"):
        layer.forward(params, state, jnp.ones((2, 4, 4, 1), jnp.float16), None)
    with pytest.raises(ValueError, match="conv: expected the last axis of x to be 1, got 2"):
        layer.forward(params, state, jnp.ones((2, 4, 4, 2)), None)
