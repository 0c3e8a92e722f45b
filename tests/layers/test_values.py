"""Layers are values: they print as what builds them, and equal arguments make equal layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PUBLIC, started

import jaxnn as nn

IMAGES = (2, 6, 5, 4)
SEQUENCES = (2, 3, 4)
# Texts as they print, and a shape that the layer takes.
LAYERS = {
    "dense(3)": SEQUENCES,
    "dense(3, use_bias=False, weight_init='he')": SEQUENCES,
    "relu()": SEQUENCES,
    "leaky_relu(0.2)": SEQUENCES,
    "gelu(False)": SEQUENCES,
    "softmax()": SEQUENCES,
    "log_softmax(1)": SEQUENCES,
    "dropout(0.5)": SEQUENCES,
    "dropout(0.5, spatial=True)": IMAGES,
    "embedding(5, 3)": (2, 3),
    "embedding(5, 3, weight_init='zeros', dtype='float16')": (2, 3),
    "positional_embedding()": SEQUENCES,
    "positional_embedding('learned', 5)": SEQUENCES,
    "random_flip()": IMAGES,
    "random_crop(3)": IMAGES,
    "random_crop((3, 2))": IMAGES,
    "center_crop(3)": IMAGES,
    "random_shift(1)": IMAGES,
    "random_shift((0, 1))": IMAGES,
    "flatten()": IMAGES,
    "reshape(5, 24)": IMAGES,
    "upsample(2)": IMAGES,
    "upsample((1, 2))": IMAGES,
    "pad(1)": IMAGES,
    "pad(((1, 0), (2, 1)))": IMAGES,
    "layer_norm()": SEQUENCES,
    "rms_norm(0.001)": SEQUENCES,
    "group_norm(2)": IMAGES,
    "batch_norm()": IMAGES,
    "batch_norm(0.5, 0.001)": IMAGES,
    "batch_norm_at_rest(epsilon=0.1)": IMAGES,
    "max_pool(2)": IMAGES,
    "max_pool((3, 2), strides=1, padding=((1, 1), (0, 1)), dilation=(1, 2))": IMAGES,
    "avg_pool(2, padding='SAME')": IMAGES,
    "avg_pool(3, padding=1, count_include_pad=True)": IMAGES,
    "avg_pool(3, ceil_mode=True)": IMAGES,
    "adaptive_max_pool(2)": IMAGES,
    "adaptive_avg_pool((2, 7))": IMAGES,
    "resize(3)": IMAGES,
    "resize(scale=(0.5, 2.0), method='nearest')": IMAGES,
    "pad(1, mode='edge')": IMAGES,
    "pad(1, value=2.0)": IMAGES,
    "scattering(1)": IMAGES,
    "scattering(2, 4)": IMAGES,
    "global_max_pool()": IMAGES,
    "global_avg_pool()": IMAGES,
    "feed_forward(4)": SEQUENCES,
    "feed_forward(4, 6, activation=relu(), dropout=0.1, use_bias=False)": SEQUENCES,
    "transformer_block(4, 2)": SEQUENCES,
    "transformer_block(4, 2, norm='rms_norm', causal=True)": SEQUENCES,
    "bidirectional(dense(3), dense(2))": SEQUENCES,
}
MIXING = {"batch_norm()", "batch_norm(0.5, 0.001)"}


def build(text):
    return eval(text, dict(PUBLIC))


def given(text):
    shape = LAYERS[text]
    return jnp.zeros(shape, int) if text.startswith("embedding") else jnp.ones(shape)


@pytest.mark.parametrize("text", LAYERS)
def test_a_layer_prints_as_what_builds_it(text):
    assert " ".join(repr(build(text)).split()) == text
    assert build(repr(build(text))) == build(text)


@pytest.mark.parametrize("text", LAYERS)
def test_equal_layers_are_equal_with_one_hash_and_others_are_not(text):
    assert build(text) == build(text)
    assert hash(build(text)) == hash(build(text))
    assert [other for other in LAYERS if build(other) == build(text)] == [text]


@pytest.mark.parametrize("text", LAYERS)
def test_a_layer_says_whether_it_mixes_the_examples(text):
    found = {layer.mixes for _, layer in nn.walk(build(text))}
    assert found == {text in MIXING}


@pytest.mark.parametrize("text", LAYERS)
def test_at_rest_the_params_and_the_state_are_the_same_and_forward_is_predict(text):
    layer, x = build(text), given(text)
    rest = nn.in_inference_mode(layer)
    params, state = started(layer, x)
    at_rest = jax.eval_shape(rest.init, jax.random.key(0), x)
    for own, other in zip((params, state), at_rest, strict=True):
        assert jax.tree.structure(own) == jax.tree.structure(other)

    @jax.jit
    def run(params, state, x):
        y, new_state, residuals = rest.forward(params, state, x, None)
        gradients = nn.contract(rest.backward(params, residuals, y)[1])
        return (y, new_state, gradients), layer.predict(params, state, x)

    (y, new_state, gradients), predicted = run(params, state, x)
    np.testing.assert_allclose(y, predicted, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("with_lists", "with_tuples"),
    [
        (
            lambda: nn.max_pool([2, 2], strides=[1, 1], padding=[[0, 1], [1, 0]], dilation=[1, 1]),
            nn.max_pool((2, 2), strides=(1, 1), padding=((0, 1), (1, 0)), dilation=(1, 1)),
        ),
        (lambda: nn.avg_pool([2]), nn.avg_pool((2,))),
        (lambda: nn.pad([[0, 1], (1, 0)]), nn.pad(((0, 1), (1, 0)))),
        (lambda: nn.upsample([2, 3]), nn.upsample((2, 3))),
        (lambda: nn.random_crop([2, 3]), nn.random_crop((2, 3))),
        (lambda: nn.random_shift([2, 0]), nn.random_shift((2, 0))),
    ],
)
def test_lists_become_tuples(with_lists, with_tuples, untyped):
    assert with_lists() == with_tuples
    assert hash(with_lists()) == hash(with_tuples)


LARGE = 10**10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.dense(LARGE), "dense: expected features to be at most 2147483647"),
        (lambda: nn.max_pool(LARGE), "max_pool: expected window to be at most 2147483647"),
        (lambda: nn.max_pool(2, strides=(1, LARGE)), "every entry of strides to be at most"),
        (lambda: nn.avg_pool(2, padding=LARGE), "avg_pool: expected padding to be at most"),
        (lambda: nn.avg_pool(2, padding=((0, LARGE),)), "every entry of padding to be at most"),
        (lambda: nn.max_pool(2, dilation=LARGE), "max_pool: expected dilation to be at most"),
        (lambda: nn.pad(LARGE), "pad: expected widths to be at most"),
        (lambda: nn.upsample(LARGE), "upsample: expected factor to be at most"),
        (lambda: nn.random_crop(LARGE), "random_crop: expected size to be at most"),
        (lambda: nn.random_shift(LARGE), "random_shift: expected distance to be at most"),
        (lambda: nn.embedding(LARGE, 2), "embedding: expected vocabulary to be at most"),
        (lambda: nn.positional_embedding("learned", LARGE), "expected length to be at most"),
        (lambda: nn.group_norm(LARGE), "group_norm: expected groups to be at most"),
        (lambda: nn.reshape(2, LARGE), "reshape: expected every one of shape to be at most"),
        (lambda: nn.transformer_block(LARGE, 2), "transformer_block: expected features to be at"),
        (lambda: nn.feed_forward(4, LARGE), "feed_forward: expected hidden to be at most"),
    ],
)
def test_sizes_that_no_axis_can_have_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.dense("3"), "dense: expected features to be an integer, got '3'"),
        (lambda: nn.dropout([0.5]), r"dropout: expected rate to be a Python number, got \[0.5\]"),
        (lambda: nn.embedding(3, 2.0), "embedding: expected features to be an integer, got 2.0"),
        (lambda: nn.embedding(3, 2, weight_init=3), "embedding: weight_init: .* got 3"),
        (lambda: nn.max_pool({2}), r"max_pool: expected window to be an integer, got \{2\}"),
        (lambda: nn.max_pool(np.ones(2)), "max_pool: expected window to be an integer"),
        (lambda: nn.max_pool(2, padding=1.5), "max_pool: expected padding to be a name, an integ"),
        (lambda: nn.avg_pool(2, count_include_pad=1), "expected count_include_pad to be True or"),
        (lambda: nn.bidirectional(nn.relu, nn.relu()), "bidirectional: expected forward to be a L"),
        (lambda: nn.bidirectional(nn.relu(), 3), "bidirectional: expected backward to be a Layer"),
        (lambda: nn.feed_forward(4, activation="relu"), "expected activation to be a Layer"),
        (lambda: nn.transformer_block(4, 2, mask=1), "expected mask to be True or False, got 1"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_by_name(make, message, untyped):
    with pytest.raises(TypeError, match=message):
        make()


def test_two_directions_stay_two_directions_where_their_layers_are_rewritten():
    network = nn.bidirectional(nn.dense(3), nn.serial(nn.dropout(0.5), nn.dense(2)))
    rest = nn.in_inference_mode(network)
    assert rest == nn.bidirectional(nn.dense(3), nn.serial(nn.identity(), nn.dense(2)))
    assert nn.bidirectional(forward=nn.dense(3), backward=nn.relu()).parts[0].parts[0].parts == (
        nn.dense(3),
        nn.relu(),
    )
