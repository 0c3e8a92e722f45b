"""Every function of a layer is that layer: value, gradient by x and gradient by the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close
from helpers import assert_agree, normal, passes, started

import jaxnn as nn
from jaxnn import functional as f

ROWS, SEQUENCE, IMAGES = (4, 6), (2, 5, 6), (2, 6, 6, 4)
IDS = jnp.arange(10).reshape(2, 5) % 7


def params_of(params, *names):
    return [params[name] for name in names]


# Layer, shape of x, and the function of params and x.
CASES = {
    "dense": (nn.dense(3), ROWS, lambda p, x: f.dense(x, *params_of(p, "weight", "bias"))),
    "linear": (nn.dense(3, use_bias=False), SEQUENCE, lambda p, x: f.linear(x, p["weight"])),
    "bilinear": (
        nn.bilinear(3),
        (SEQUENCE, SEQUENCE),
        lambda p, x: f.bilinear(*x, *params_of(p, "weight", "bias")),
    ),
    "embedding": (nn.embedding(7, 4), IDS, lambda p, x: f.embedding(x, p["weight"])),
    "embedding_bag": (
        nn.embedding_bag(7, 4, padding_id=3),
        IDS,
        lambda p, x: f.embedding_bag(x, p["weight"], padding_id=3),
    ),
    "embedding_bag with weights": (
        nn.embedding_bag(7, 4, "sum"),
        (IDS, (2, 5)),
        lambda p, x: f.embedding_bag(x[0], p["weight"], "sum", weights=x[1]),
    ),
    "positional_embedding": (
        nn.positional_embedding(),
        SEQUENCE,
        lambda p, x: f.positional_embedding(x),
    ),
    "learned positions": (
        nn.positional_embedding("learned", 9),
        SEQUENCE,
        lambda p, x: f.positional_embedding(x, p["weight"]),
    ),
    "conv": (
        nn.conv(6, (3, 2), strides=2, padding=1, groups=2),
        IMAGES,
        lambda p, x: f.conv(x, p["weight"], p["bias"], strides=2, padding=1, groups=2),
    ),
    "conv that continues x": (
        nn.conv(3, (3, 3), padding=1, padding_mode="reflect", use_bias=False),
        IMAGES,
        lambda p, x: f.conv(x, p["weight"], padding=1, padding_mode="reflect"),
    ),
    "conv_transpose": (
        nn.conv_transpose(6, (3, 2), strides=2, groups=2, padding="VALID"),
        IMAGES,
        lambda p, x: f.conv_transpose(
            x, p["weight"], p["bias"], strides=2, groups=2, padding="VALID"
        ),
    ),
    "conv_relu_max_pool": (
        nn.conv_relu_max_pool(nn.conv(4, (3, 3))),
        IMAGES,
        lambda p, x: f.conv_relu_max_pool(x, p["weight"], p["bias"]),
    ),
    "max_pool": (nn.max_pool(2), IMAGES, lambda p, x: f.max_pool(x, 2)),
    "avg_pool": (
        nn.avg_pool((2, 3), strides=(1, 2), padding="SAME"),
        IMAGES,
        lambda p, x: f.avg_pool(x, (2, 3), strides=(1, 2), padding="SAME"),
    ),
    "adaptive_max_pool": (
        nn.adaptive_max_pool((4, 2)),
        IMAGES,
        lambda p, x: f.adaptive_max_pool(x, (4, 2)),
    ),
    "adaptive_avg_pool": (nn.adaptive_avg_pool(5), IMAGES, lambda p, x: f.adaptive_avg_pool(x, 5)),
    "global_max_pool": (nn.global_max_pool(), SEQUENCE, lambda p, x: f.global_max_pool(x)),
    "global_avg_pool": (nn.global_avg_pool(), IMAGES, lambda p, x: f.global_avg_pool(x)),
    "pad": (
        nn.pad(((1, 0), (0, 2)), mode="edge"),
        IMAGES,
        lambda p, x: f.pad(x, ((1, 0), (0, 2)), mode="edge"),
    ),
    "resize": (nn.resize((4, 9)), IMAGES, lambda p, x: f.resize(x, (4, 9))),
    "resize by a scale": (nn.resize(scale=1.5), IMAGES, lambda p, x: f.resize(x, scale=1.5)),
    "upsample": (nn.upsample(2), IMAGES, lambda p, x: f.upsample(x, 2)),
    "scattering": (nn.scattering(1, 4), IMAGES, lambda p, x: f.scattering(x, 1, orientations=4)),
    "pixel_shuffle": (nn.pixel_shuffle(2), IMAGES, lambda p, x: f.pixel_shuffle(x, 2)),
    "pixel_unshuffle": (
        nn.pixel_unshuffle((2, 1)),
        IMAGES,
        lambda p, x: f.pixel_unshuffle(x, (2, 1)),
    ),
    "layer_norm": (
        nn.layer_norm(1e-3),
        SEQUENCE,
        lambda p, x: f.layer_norm(x, p["scale"], p["offset"], 1e-3),
    ),
    "layer_norm over axes": (
        nn.layer_norm(axes=(1, 3), use_offset=False),
        IMAGES,
        lambda p, x: f.layer_norm(x, p["scale"], axes=(1, 3)),
    ),
    "layer_norm without parameters": (
        nn.layer_norm(use_scale=False, use_offset=False),
        ROWS,
        lambda p, x: f.layer_norm(x),
    ),
    "rms_norm": (nn.rms_norm(), SEQUENCE, lambda p, x: f.rms_norm(x, p["scale"])),
    "group_norm": (
        nn.group_norm(2),
        IMAGES,
        lambda p, x: f.group_norm(x, 2, p["scale"], p["offset"]),
    ),
    "instance_norm": (
        nn.instance_norm(use_scale=False),
        IMAGES,
        lambda p, x: f.instance_norm(x, offset=p["offset"]),
    ),
    "rnn": (nn.rnn(3, activation="relu"), SEQUENCE, lambda p, x: f.rnn(p, x, activation="relu")),
    "gru": (nn.gru(3, output="last"), SEQUENCE, lambda p, x: f.gru(p, x, output="last")),
    "lstm": (nn.lstm(3, reverse=True), SEQUENCE, lambda p, x: f.lstm(p, x, reverse=True)),
    "lstm in chunks": (nn.lstm(3, chunk=2), SEQUENCE, lambda p, x: f.lstm(p, x, chunk=2)),
}


def drawn(shape):
    """Numbers of a shape, or of each in a tuple of them; ids as they are."""
    if isinstance(shape, jax.Array):
        return shape
    if isinstance(shape[0], int):
        return normal(0, shape)
    return tuple(a if isinstance(a, jax.Array) else normal(i, a) for i, a in enumerate(shape))


@pytest.mark.parametrize("name", CASES)
def test_a_function_is_its_layer_with_its_gradients(name, x64):
    layer, shape, function = CASES[name]
    x = drawn(shape)
    params, _ = started(layer, x)

    @jax.jit
    def both(params, x):
        y, vjp = jax.vjp(function, params, x)
        dy = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        of_layer = passes.__wrapped__(layer, params, (), x, dy)
        return (y, *vjp(dy)[::-1]), of_layer

    (y, dx, gradients), (expected, expected_dx, expected_gradients) = both(params, x)
    assert_agree((y, gradients), (expected, expected_gradients), 1e-12)
    floats = [a for a in jax.tree.leaves(dx) if a.dtype != jax.dtypes.float0]
    assert_agree(floats, jax.tree.leaves(expected_dx), 1e-12)


UNBATCHED = {
    "dense": lambda x: f.dense(x[0], jnp.ones((6, 2))),
    "conv in one dimension": lambda x: f.conv(x, jnp.ones((2, 6, 2))),
    "max_pool": lambda x: f.max_pool(x, (2,)),
    "pad": lambda x: f.pad(x, ((1, 2),)),
    "resize": lambda x: f.resize(x, (7,)),
    "adaptive_avg_pool": lambda x: f.adaptive_avg_pool(x, (3,)),
    "layer_norm": lambda x: f.layer_norm(x[0], jnp.full(6, 2.0)),
    "layer_norm over the first axis": lambda x: f.layer_norm(x, jnp.arange(5.0), axes=0),
    "positional_embedding": f.positional_embedding,
    "rotary": f.rotary,
    "embedding": lambda x: f.embedding(IDS[0, 3], x),
    "embedding_bag": lambda x: f.embedding_bag(IDS[0] % 5, x),
    "lstm": lambda x: f.lstm(
        {
            "input": {"weight": jnp.ones((6, 8)), "bias": jnp.zeros(8)},
            "recurrent": {"weight": jnp.ones((2, 8))},
        },
        x,
    ),
}


@pytest.mark.parametrize("name", UNBATCHED)
def test_an_example_without_a_batch_is_that_of_one_of_two_batch_axes(name):
    x = normal(0, (2, 3, 5, 6), np.float32)
    function = UNBATCHED[name]
    single, mapped = jax.jit(lambda x: (function(x[1, 2]), jax.vmap(jax.vmap(function))(x)))(x)
    assert_trees_all_close(single, mapped[1, 2], rtol=1e-5, atol=1e-6)


def test_any_number_of_batch_axes_is_taken():
    x = normal(0, (2, 3, 5, 6), np.float32)
    weight, kernel = normal(1, (6, 4), np.float32), normal(2, (3, 6, 2), np.float32)

    @jax.jit
    def both(x):
        functions = (
            lambda x: f.dense(x, weight),
            lambda x: f.conv(x, kernel, strides=2),
            lambda x: f.avg_pool(x, (2,)),
            lambda x: f.resize(x, (3,)),
            f.rotary,
        )
        return [(g(x), jax.vmap(g)(x)) for g in functions]

    for whole, mapped in both(x):
        assert_trees_all_close(whole, mapped, rtol=1e-5, atol=1e-6)


def value_and_vjp(function, params, x):
    """y, and the gradients by the floating-point leaves from a dy that differs by element."""

    @jax.jit
    def run(params, x):
        y, vjp = jax.vjp(function, params, x)
        dy = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), y)
        return y, [a for a in jax.tree.leaves(vjp(dy)) if a.dtype != jax.dtypes.float0]

    return run(params, x)


def test_conv_is_that_of_lax(x64):
    x, weight = normal(0, (2, 5, 6, 3)), normal(1, (3, 3, 3, 4))

    def of_lax(weight, x):
        order = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, weight, (2, 1), "SAME", dimension_numbers=order)

    by_hand = value_and_vjp(lambda weight, x: f.conv(x, weight, strides=(2, 1)), weight, x)
    assert_agree(by_hand, value_and_vjp(of_lax, weight, x), 1e-10)


def test_linear_and_layer_norm_are_those_of_jax(x64):
    x, weight = normal(0, (2, 3, 4)), normal(1, (4, 5))
    by_hand = value_and_vjp(lambda w, x: f.linear(x, w, jnp.arange(5.0)), weight, x)
    assert_agree(by_hand, value_and_vjp(lambda w, x: x @ w + jnp.arange(5.0), weight, x), 1e-10)
    by_hand = value_and_vjp(lambda w, x: f.layer_norm(x, epsilon=1e-5), weight, x)
    of_jax = value_and_vjp(lambda w, x: jax.nn.standardize(x, epsilon=1e-5), weight, x)
    assert_agree(by_hand, of_jax, 1e-9)


def test_gradients_of_single_examples_come_from_vmap_of_grad(x64):
    images, labels = normal(0, (3, 6, 6, 2)), jnp.asarray([0, 2, 1])
    params = normal(1, (3, 3, 2, 4)), normal(2, (36, 3))

    def by_hand(params, image, label):
        y = f.max_pool(f.relu(f.conv(image, params[0])), (2, 2))
        return f.softmax_cross_entropy(f.linear(y.reshape(-1), params[1]), label)

    def expected(params, image, label):
        order = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            image[None], params[0], (1, 1), "SAME", dimension_numbers=order
        )
        y = jnp.max(jax.nn.relu(y[0]).reshape(3, 2, 3, 2, 4), (1, 3)).reshape(-1)
        return -jax.nn.log_softmax(y @ params[1])[label]

    def of_examples(function):
        return jax.jit(jax.vmap(jax.value_and_grad(function), (None, 0, 0)))(params, images, labels)

    assert_agree(of_examples(by_hand), of_examples(expected), 1e-10)


@pytest.mark.parametrize("name", ["dense", "conv", "layer_norm", "gru"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64], ids=lambda dtype: dtype.__name__)
def test_a_dtype_stays(name, dtype, x64):
    layer, shape, function = CASES[name]
    x = normal(0, shape, dtype)
    params, _ = started(layer, x)
    leaves = jax.tree.leaves(jax.eval_shape(lambda p, x: value_and_vjp(function, p, x), params, x))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


def test_lengths_and_states_of_a_recurrent_function(x64):
    layer, x = nn.lstm(3, output="all"), normal(0, SEQUENCE)
    lengths, state = jnp.asarray([4, 2]), (normal(1, (2, 3)), normal(2, (2, 3)))
    params, _ = started(layer, x)

    def of_layer(params, x):
        sequence, _, state = layer.forward(params, (), (x[0], lengths, x[1]), None)[0]
        return sequence, state

    def of_function(params, x):
        return f.lstm(params, x[0], lengths, x[1], output="all")

    given = (
        value_and_vjp(of_function, params, (x, state)),
        value_and_vjp(of_layer, params, (x, state)),
    )
    assert_agree(*given, 1e-10)
    sequence = f.lstm(params, x, lengths)
    assert sequence.shape == (2, 5, 3)
    assert not sequence[1, 2:].any()
    assert f.lstm(params, x[0], 4, (state[0][0], state[1][0])).shape == (5, 3)


def test_a_key_draws(x64):
    x, key = jnp.ones((2, 4, 4, 3)), jax.random.key(1)
    y, vjp = jax.vjp(lambda x: f.dropout(x, key, 0.5), x)
    assert set(np.unique(y)) == {0.0, 2.0}
    np.testing.assert_array_equal(vjp(x)[0], y)
    channels = f.dropout(x, key, 0.5, spatial=True)
    np.testing.assert_array_equal(channels, channels[:, :1, :1] * x)
    x = normal(0, (2, 4, 4, 3))
    for layer, y in (
        (nn.random_flip(), f.random_flip(x, key)),
        (nn.random_crop((2, 3)), f.random_crop(x, key, (2, 3))),
        (nn.random_shift(1), f.random_shift(x, key, 1)),
    ):
        np.testing.assert_array_equal(y, layer.forward((), (), x, key)[0])


WEIGHT = jnp.ones((6, 3))
LSTM = {
    "input": {"weight": jnp.ones((6, 8)), "bias": jnp.ones(8)},
    "recurrent": {"weight": jnp.ones((2, 8))},
}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: f.dense(x, jnp.ones((5, 3))),
            ValueError,
            r"dense: expected weight to be float32\[6, 3\]",
        ),
        (
            lambda x: f.dense(x, jnp.ones(6)),
            ValueError,
            r"weight to be \[in, features\], got shape",
        ),
        (lambda x: f.dense(x, WEIGHT, jnp.ones(4)), ValueError, r"bias to be float32\[3\]"),
        (
            lambda x: f.dense(x, WEIGHT, jnp.ones(())),
            ValueError,
            r"expected bias to be \[features\]",
        ),
        (
            lambda x: f.dense(x, WEIGHT.astype(int)),
            TypeError,
            "weight to be floating-point, got int",
        ),
        (lambda x: f.dense(IDS, WEIGHT), TypeError, "expected x to be floating-point, got int32"),
        (lambda x: f.dense(2.0, WEIGHT), ValueError, r"x to be \[\*batch, in\], got shape \(\)"),
        (lambda x: f.dense(x, WEIGHT.astype(jnp.bfloat16)), ValueError, "weight to be float32"),
        (
            lambda x: f.bilinear(x, x[:1], jnp.ones((6, 6, 2))),
            ValueError,
            "second to have the batch",
        ),
        (lambda x: f.embedding(x, WEIGHT), TypeError, "expected ids to be integers, got float32"),
        (
            lambda x: f.embedding(IDS, WEIGHT),
            ValueError,
            r"expected ids to lie in 0 … 5, got 0 … 6",
        ),
        (lambda x: f.embedding(-1, WEIGHT), ValueError, r"expected ids to lie in 0 … 5"),
        (
            lambda x: f.conv(x, WEIGHT),
            ValueError,
            r"expected weight to be \[\*kernel_size, in, out\]",
        ),
        (
            lambda x: f.conv(x[0], jnp.ones((3, 3, 6, 2))),
            ValueError,
            "with 2 spatial dimensions, got",
        ),
        (lambda x: f.conv(x, jnp.ones((3, 5, 2))), ValueError, r"weight to be float32\[3, 6, 2\]"),
        (
            lambda x: f.conv_transpose(x, jnp.ones((3, 2, 6)), groups=0),
            ValueError,
            "groups to be at",
        ),
        (lambda x: f.max_pool(x[0], (2, 2)), ValueError, "2 spatial dimensions, got shape"),
        (lambda x: f.max_pool(x[None], 9), ValueError, "expected window to fit into the padded"),
        (lambda x: f.max_pool(IDS[..., None], 2), TypeError, "max_pool: expected x to be floating"),
        (lambda x: f.layer_norm(x, axes=3), ValueError, "every one of axes to name an axis of x"),
        (lambda x: f.layer_norm(x, jnp.ones(5)), ValueError, r"expected scale to be float32\[6\]"),
        (lambda x: f.group_norm(x, 4), ValueError, "expected groups to divide the 6 channels"),
        (lambda x: f.lstm(WEIGHT, x), TypeError, 'lstm: expected params to be {"input"'),
        (lambda x: f.lstm(LSTM, x[0, 0]), ValueError, r"x to be \[\*batch, time, in\]"),
        (lambda x: f.lstm(LSTM | {"input": {}}, x), ValueError, "lstm: expected params to be"),
        (
            lambda x: f.lstm(LSTM, x, jnp.asarray([1])),
            ValueError,
            "expected lengths to have the batch",
        ),
        (lambda x: f.lstm(LSTM, x, state=jnp.ones((2, 2))), TypeError, "state to be a tuple"),
        (
            lambda x: f.dropout(x, None, 0.5),
            ValueError,
            "expected key to be a random key, got None",
        ),
        (lambda x: f.dropout(x, jax.random.key(0), 1.0), ValueError, "expected rate to lie in"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message, untyped):
    x = jnp.ones((2, 5, 6))
    with pytest.raises(error, match=message):
        call(x)
