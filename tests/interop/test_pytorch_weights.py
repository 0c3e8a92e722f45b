"""Weights of PyTorch models: what PyTorch predicts, the network with its weights predicts."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import started

import jaxnn as nn
from jaxnn import interop

IDS = np.array([[4, 0]])


def first_beside(features):
    """x ↦ (x, its first features)."""
    return nn.fork(nn.identity(), own_layer(lambda x: x[..., :features]))


def own_layer(function):
    return nn.parameter_free("own", lambda x: (function(x), ()), lambda residuals, dy: dy)


def block(**options):
    return nn.transformer_block(4, 2, hidden=6, activation=nn.relu(), **options)


# The network, the shape of x (of cosines) as it stands here, the names and shapes of PyTorch 2.13's
# state_dict (each array of sines, see `weights`), and what PyTorch predicts with them.
MODELS = {
    "dense and batch norm": (
        nn.serial(nn.dense(4), nn.batch_norm(), nn.relu(), nn.dense(2)),
        (2, 3),
        "0.weight:4,3 0.bias:4 1.weight:4 1.bias:4 1.running_mean:4 1.running_var:4 "
        "1.num_batches_tracked: 3.weight:2,4 3.bias:2",
        [0.682265, -0.076801, 0.597717, 0.06576],
    ),
    "conv, flatten, dense": (
        nn.serial(nn.conv(3, 2, padding=1), nn.relu(), nn.max_pool(2), nn.flatten(), nn.dense(2)),
        (1, 3, 4, 2),
        "0.weight:3,2,2,2 0.bias:3 4.weight:2,12 4.bias:2",
        [0.219176, -0.198183],
    ),
    "norms of flattened features": (
        nn.serial(
            nn.conv(2, 2, padding="VALID", groups=2),
            nn.flatten(),
            nn.batch_norm(),
            nn.prelu(per_channel=True),
            nn.layer_norm(),
            nn.dense(2),
        ),
        (1, 2, 3, 2),
        "0.weight:2,1,2,2 0.bias:2 2.weight:4 2.bias:4 2.running_mean:4 2.running_var:4 "
        "2.num_batches_tracked: 3.weight:4 4.weight:4 4.bias:4 5.weight:2,4 5.bias:2",
        [-0.521885, 0.243478],
    ),
    "conv of one dimension": (
        nn.serial(nn.conv(3, 2, padding="VALID"), nn.prelu(), nn.flatten(), nn.dense(2)),
        (1, 3, 2),
        "0.weight:3,2,2 0.bias:3 1.weight:1 3.weight:2,6 3.bias:2",
        [-0.19438, -0.497716],
    ),
    "conv of three dimensions": (
        nn.serial(nn.conv(2, (1, 2, 1), padding="VALID"), nn.flatten(), nn.dense(2)),
        (1, 2, 3, 1, 2),
        "0.weight:2,2,1,2,1 0.bias:2 2.weight:2,8 2.bias:2",
        [0.65819, -0.745668],
    ),
    "conv_transpose": (
        nn.serial(nn.conv_transpose(2, (2, 3), strides=2, padding=((0, 0), (1, 1)), groups=2)),
        (1, 1, 2, 2),
        "0.weight:2,1,2,3 0.bias:2",
        [
            0.841471,
            0.632134,
            0.875384,
            0.860235,
            0.245648,
            0.129443,
            0.042334,
            0.307681,
            -0.08809,
            -0.019497,
            0.578206,
            0.723937,
        ],
    ),
    "norms of images": (
        nn.serial(nn.layer_norm(axes=(1, 2, 3)), nn.group_norm(2), nn.instance_norm()),
        (1, 1, 2, 4),
        "0.weight:4,1,2 0.bias:4,1,2 1.weight:4 1.bias:4 2.weight:4 2.bias:4",
        [-0.857847, -0.618758, 0.468175, 0.82294, -0.101078, 0.339343, 0.188811, 0.166418],
    ),
    "embedding and rms_norm": (
        nn.serial(nn.embedding(5, 3), nn.rms_norm(), nn.dense(2)),
        IDS,
        "0.weight:5,3 1.weight:3 2.weight:2,3 2.bias:2",
        [-0.095969, -0.227855, 0.074357, -0.423658],
    ),
    "embedding_bag": (
        nn.serial(nn.embedding_bag(5, 3)),
        IDS,
        "0.weight:5,3",
        [-0.134143, 0.315409, 0.474976],
    ),
    "bilinear": (
        nn.serial(first_beside(2), nn.bilinear(2)),
        (2, 3),
        "b.weight:2,3,2 b.bias:2",
        [1.179581, 1.045475, 1.212508, 1.107532],
    ),
    "lstm, two layers both ways": (
        nn.serial(*(nn.bidirectional(nn.lstm(2), nn.lstm(2, reverse=True)) for _ in range(2))),
        (1, 2, 3),
        "rnn.weight_ih_l0:8,3 rnn.weight_hh_l0:8,2 rnn.bias_ih_l0:8 rnn.bias_hh_l0:8 "
        "rnn.weight_ih_l0_reverse:8,3 rnn.weight_hh_l0_reverse:8,2 "
        "rnn.bias_ih_l0_reverse:8 rnn.bias_hh_l0_reverse:8 rnn.weight_ih_l1:8,4 "
        "rnn.weight_hh_l1:8,2 rnn.bias_ih_l1:8 rnn.bias_hh_l1:8 "
        "rnn.weight_ih_l1_reverse:8,4 rnn.weight_hh_l1_reverse:8,2 "
        "rnn.bias_ih_l1_reverse:8 rnn.bias_hh_l1_reverse:8",
        [0.07095, 0.019713, -0.128203, 0.223038, 0.101959, 0.033154, -0.079251, 0.1924],
    ),
    "gru": (
        nn.gru(2),
        (1, 3, 3),
        "rnn.weight_ih_l0:6,3 rnn.weight_hh_l0:6,2 rnn.bias_ih_l0:6 rnn.bias_hh_l0:6",
        [-0.208555, 0.445508, 0.087922, 0.252279, -0.053463, 0.478875],
    ),
    "rnn without biases": (
        nn.rnn(2),
        (1, 3, 3),
        "rnn.weight_ih_l0:2,3 rnn.weight_hh_l0:2,2",
        [0.038105, 0.065541, -0.09988, 0.019366, 0.214443, -0.160736],
    ),
    "attention": (
        nn.attention(2),
        (1, 3, 4),
        "attn.in_proj_weight:12,4 attn.in_proj_bias:12 attn.out_proj.weight:4,4 "
        "attn.out_proj.bias:4",
        [
            0.479698,
            -1.036603,
            -0.028141,
            -0.071512,
            0.328599,
            -0.648115,
            -0.384907,
            0.006396,
            0.580878,
            -1.136792,
            0.001654,
            -0.010275,
        ],
    ),
    "attention to a memory": (
        nn.serial(first_beside(3), nn.attention(2)),
        (1, 2, 4),
        "attn.q_proj_weight:4,4 attn.k_proj_weight:4,3 attn.v_proj_weight:4,3 "
        "attn.in_proj_bias:12 attn.out_proj.weight:4,4 attn.out_proj.bias:4",
        [-0.093906, -0.643267, 0.601233, 0.641689, 0.016258, -0.705177, 0.572003, 0.741811],
    ),
    "transformer, norm behind": (
        nn.serial(*[block(norm_first=False)] * 2),
        (1, 2, 4),
        "layers.0.self_attn.in_proj_weight:12,4 layers.0.self_attn.in_proj_bias:12 "
        "layers.0.self_attn.out_proj.weight:4,4 layers.0.self_attn.out_proj.bias:4 "
        "layers.0.linear1.weight:6,4 layers.0.linear1.bias:6 "
        "layers.0.linear2.weight:4,6 layers.0.linear2.bias:4 layers.0.norm1.weight:4 "
        "layers.0.norm1.bias:4 layers.0.norm2.weight:4 layers.0.norm2.bias:4 "
        "layers.1.self_attn.in_proj_weight:12,4 layers.1.self_attn.in_proj_bias:12 "
        "layers.1.self_attn.out_proj.weight:4,4 layers.1.self_attn.out_proj.bias:4 "
        "layers.1.linear1.weight:6,4 layers.1.linear1.bias:6 "
        "layers.1.linear2.weight:4,6 layers.1.linear2.bias:4 layers.1.norm1.weight:4 "
        "layers.1.norm1.bias:4 layers.1.norm2.weight:4 layers.1.norm2.bias:4",
        [-0.428868, -0.338776, -0.250345, 0.476465, -0.429768, -0.245437, -0.153781, 0.46121],
    ),
    "transformer, norm before": (
        nn.repeat(block(), 2),
        (1, 2, 4),
        "layers.0.self_attn.in_proj_weight:12,4 layers.0.self_attn.in_proj_bias:12 "
        "layers.0.self_attn.out_proj.weight:4,4 layers.0.self_attn.out_proj.bias:4 "
        "layers.0.linear1.weight:6,4 layers.0.linear1.bias:6 "
        "layers.0.linear2.weight:4,6 layers.0.linear2.bias:4 layers.0.norm1.weight:4 "
        "layers.0.norm1.bias:4 layers.0.norm2.weight:4 layers.0.norm2.bias:4 "
        "layers.1.self_attn.in_proj_weight:12,4 layers.1.self_attn.in_proj_bias:12 "
        "layers.1.self_attn.out_proj.weight:4,4 layers.1.self_attn.out_proj.bias:4 "
        "layers.1.linear1.weight:6,4 layers.1.linear1.bias:6 "
        "layers.1.linear2.weight:4,6 layers.1.linear2.bias:4 layers.1.norm1.weight:4 "
        "layers.1.norm1.bias:4 layers.1.norm2.weight:4 layers.1.norm2.bias:4",
        [3.029202, 0.779071, 0.119075, -0.649223, 1.455306, 0.597975, 1.569714, 1.158002],
    ),
    "weight_norm": (
        nn.serial(nn.weight_norm(nn.dense(2)), nn.tanh(), nn.weight_norm(nn.dense(2))),
        (2, 3),
        "0.bias:2 0.parametrizations.weight.original0:2,1 "
        "0.parametrizations.weight.original1:2,3 2.bias:2 "
        "2.parametrizations.weight.original0:2,1 "
        "2.parametrizations.weight.original1:2,2",
        [0.215476, -0.450397, 0.001388, -0.562053],
    ),
    "spectral_norm": (
        nn.serial(
            nn.spectral_norm(nn.conv(3, (2, 1), padding="VALID")),
            nn.flatten(),
            nn.spectral_norm(nn.dense(2)),
        ),
        (1, 2, 2, 2),
        "0.bias:3 0.parametrizations.weight.original:3,2,2,1 0.parametrizations.weight.0._u:3 "
        "0.parametrizations.weight.0._v:4 2.bias:2 2.parametrizations.weight.original:2,6 "
        "2.parametrizations.weight.0._u:2 2.parametrizations.weight.0._v:6",
        [-1.383969, -1.372633],
    ),
}


def cosines(shape):
    """x here; PyTorch was given images with their channels first."""
    return jnp.asarray(np.cos(np.arange(np.prod(shape))).reshape(shape), np.float32)


def weights(shapes):
    """A state_dict of arrays of sines, the running variances around 1."""
    found = {}
    for number, entry in enumerate(shapes.split()):
        name, _, axes = entry.partition(":")
        shape = tuple(map(int, axes.split(","))) if axes else ()
        numbers = 0.5 * np.sin(np.arange(np.prod(shape)) + number) + name.endswith("running_var")
        found[name] = numbers.reshape(shape).astype(np.float32 if axes else np.int64)
    return found


def model(name):
    network, x, shapes, expected = MODELS[name]
    return network, cosines(x) if isinstance(x, tuple) else x, weights(shapes), expected


@functools.cache
def loaded(name):
    network, x, state_dict, _ = model(name)
    return interop.from_state_dict(network, x, state_dict)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_predicts_what_pytorch_does_with_the_same_weights(name):
    network, x, _, expected = model(name)
    y = jax.jit(network.predict)(*loaded(name), x)
    np.testing.assert_allclose(np.ravel(y), expected, atol=3e-6)


SEQUENTIAL = [name for name, (_, _, shapes, _) in MODELS.items() if shapes[0] == "0"]


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_way_back_is_the_inverse(name):
    network, x, state_dict, _ = model(name)
    written = interop.to_state_dict(network, x, *loaded(name))
    state_dict |= {name: a * 0 for name, a in state_dict.items() if name.endswith("tracked")}
    assert {name: (a.shape, a.dtype) for name, a in written.items()} == {
        name: (a.shape, a.dtype) for name, a in state_dict.items()
    }
    jax.tree.map(np.testing.assert_array_equal, written, state_dict)


@pytest.mark.parametrize(
    "name", ["conv, flatten, dense", "lstm, two layers both ways", "transformer, norm before"]
)
def test_a_file_that_is_sorted_by_name_says_the_same(name):
    network, x, state_dict, _ = model(name)
    given = interop.from_state_dict(network, x, dict(sorted(state_dict.items())))
    jax.tree.map(np.testing.assert_array_equal, given, loaded(name))


def test_names_of_a_model_that_is_no_sequential_are_written_too():
    network, x, state_dict, _ = model("lstm, two layers both ways")
    names = {
        f"{layer}.0.{way}": f"rnn.l{layer}{end}"
        for layer in (0, 1)
        for way, end in enumerate(("", "_reverse"))
    }
    params, state = interop.from_state_dict(network, x, state_dict, names=names)
    written = interop.to_state_dict(network, x, params, state, names=names)
    assert written.keys() == state_dict.keys()
    biases = [written[f"rnn.bias_{side}_l1_reverse"] for side in ("ih", "hh")]
    np.testing.assert_allclose(
        biases[0], sum(state_dict[f"rnn.bias_{side}_l1_reverse"] for side in ("ih", "hh"))
    )
    assert not biases[1].any()


IMAGES = cosines((2, 4, 4, 2))
CNN = nn.serial(nn.conv(3, 3), nn.relu(), nn.flatten(), nn.dense(4))


def state_dict_of(network, x, **options):
    return interop.to_state_dict(network, x, *started(network, x), **options)


def refusal(network, x, state_dict, **options):
    with pytest.raises(ValueError, match="from_state_dict: expected weights") as info:
        interop.from_state_dict(network, x, state_dict, **options)
    return str(info.value).splitlines()[1:-1]


def test_all_that_does_not_match_is_one_error():
    state_dict = state_dict_of(CNN, IMAGES)
    state_dict["0.weight"] = state_dict["0.weight"][:, :1]
    state_dict["3.weight"] = state_dict["3.weight"].astype(np.float16)
    state_dict["4.weight"] = np.ones(2, np.float32)
    assert refusal(CNN, IMAGES, state_dict) == [
        "  '0' with weight float32[3, 1, 3, 3], bias float32[3]: got for no layer",
        "  '3' with weight float16[4, 48], bias float32[4]: got for no layer",
        "  '4' with weight float32[2]: got for no layer",
        "  0 conv: expected bias float32[3], weight float32[3, 2, 3, 3]",
        "  3 dense: expected bias float32[4], weight float32[4, 48]",
    ]


def test_missing_modules_and_missing_arrays_of_a_module_are_named():
    state_dict = state_dict_of(CNN, IMAGES)
    del state_dict["0.bias"], state_dict["3.weight"], state_dict["3.bias"]
    assert refusal(CNN, IMAGES, state_dict) == [
        "  '0' with weight float32[3, 2, 3, 3]: got for no layer",
        "  0 conv: expected bias float32[3], weight float32[3, 2, 3, 3]",
        "  3 dense: expected bias float32[4], weight float32[4, 48]",
    ]


def test_what_has_no_order_is_not_guessed():
    network, x = nn.serial(nn.dense(3), nn.dense(3)), cosines((1, 3))
    of_layers = state_dict_of(network, x)
    renamed = {"0": "hidden", "1": "head"}
    state_dict = {f"{renamed[name[0]]}{name[1:]}": array for name, array in of_layers.items()}
    trees = interop.from_state_dict(network, x, of_layers)
    given = interop.from_state_dict(network, x, state_dict)
    jax.tree.map(np.testing.assert_array_equal, given, trees)
    in_file = dict(sorted(state_dict.items()))
    assert refusal(network, x, in_file) == [
        "  'head', 'hidden' have one shape: which is which of 0 dense, 1 dense?"
    ]
    for names in ({"1": "head"}, {"0": "hidden", "1": "head"}):
        given = interop.from_state_dict(network, x, in_file, names=names)
        jax.tree.map(np.testing.assert_array_equal, given, trees)


def test_numbers_that_are_not_in_the_order_of_the_network_are_not_believed():
    network, x = nn.serial(nn.dense(3), nn.dense(3), nn.dense(2)), cosines((1, 3))
    numbers = {"0": "fc2", "1": "fc1", "2": "fc0"}
    of_layers = state_dict_of(network, x)
    in_file = {f"{numbers[name[0]]}{name[1:]}": array for name, array in of_layers.items()}
    (fault,) = refusal(network, x, dict(sorted(in_file.items())))
    assert "'fc1', 'fc2' have one shape, and numbers are not in the order" in fault


def test_numbers_count_as_numbers():
    network, x = nn.serial(*[nn.dense(2)] * 12), cosines((1, 2))
    state_dict = state_dict_of(network, x)
    in_file = dict(sorted(state_dict.items()))
    assert list(in_file)[2] == "1.bias"
    assert list(in_file)[4] == "10.bias"
    jax.tree.map(
        np.testing.assert_array_equal,
        interop.from_state_dict(network, x, in_file),
        interop.from_state_dict(network, x, state_dict),
    )


def test_names_of_networks_inside_are_enough_where_these_can_be_told_apart():
    inner = nn.serial(nn.dense(3), nn.tanh(), nn.dense(3))
    network, x = nn.serial(stem=inner, body=nn.skip(inner), head=nn.dense(3)), cosines((1, 3))
    names = {"stem": "first", "body.0.1.0": "blocks.0", "head": "classifier"}
    trees = started(network, x)
    state_dict = interop.to_state_dict(network, x, *trees, names=names)
    assert {name.rpartition(".")[0] for name in state_dict} == {
        *("first.0", "first.2", "blocks.0.0", "blocks.0.2", "classifier")
    }
    in_file = dict(sorted(state_dict.items()))
    assert "which is which" in refusal(network, x, in_file)[0]
    given = interop.from_state_dict(network, x, in_file, names=names)
    jax.tree.map(np.testing.assert_array_equal, given, trees)
    del in_file["blocks.0.2.bias"]
    faults = refusal(network, x, in_file, names=names)
    assert faults[1] == "  'blocks.0.2' with weight float32[3, 3]: got for no layer"


def test_names_that_nothing_has_are_refused():
    state_dict = state_dict_of(CNN, IMAGES)
    faults = refusal(CNN, IMAGES, state_dict, names={"2": "3", "3": "fc", "0": "3"})
    assert faults[0].startswith("  names: unknown layer '2': ")
    assert faults[1].startswith("  names: unknown prefix 'fc': ")
    assert faults[2].startswith(
        "  0 conv: expected bias float32[3], weight float32[3, 2, 3, 3], got '3'"
    )


def test_an_attention_of_four_linear_modules_is_named_by_its_parts():
    x = cosines((1, 3, 4))
    network = nn.serial(body=nn.attention(2, groups=1, use_bias=False))
    params, state = started(network, x)
    parts = {"query": "q", "key": "k", "value": "v", "output": "o"}
    names = {f"body.{part}": f"layers.0.self_attn.{letter}_proj" for part, letter in parts.items()}
    state_dict = interop.to_state_dict(network, x, params, state, names=names)
    assert {name: array.shape for name, array in state_dict.items()} == {
        f"layers.0.self_attn.{letter}_proj.weight": (2 if letter in "kv" else 4, 4)
        for letter in "qkvo"
    }
    given = interop.from_state_dict(network, x, state_dict, names=names)
    jax.tree.map(np.testing.assert_array_equal, given, (params, state))


SEQUENCE = cosines((2, 3, 4))
FLAT = nn.serial(nn.flatten(), nn.dense(2))


def test_the_order_of_a_flattened_input_of_three_axes_must_be_said():
    state_dict = state_dict_of(FLAT, SEQUENCE, channels_first=True)
    (fault,) = refusal(FLAT, SEQUENCE, state_dict)
    assert fault.startswith("  1 dense: the order of its features in PyTorch cannot be known")
    weight = state_dict["1.weight"].reshape(2, 4, 3)
    for channels_first in (True, False):
        params, _ = interop.from_state_dict(
            FLAT, SEQUENCE, state_dict, channels_first=channels_first
        )
        rows = weight.transpose(2, 1, 0) if channels_first else weight.transpose(1, 2, 0)
        np.testing.assert_array_equal(params[1]["weight"], rows.reshape(12, 2))


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (nn.serial(nn.lstm(2), nn.flatten(), nn.dense(2)), SEQUENCE),
        (nn.serial(nn.embedding(5, 3), nn.flatten(), nn.dense(2)), IDS),
        (nn.serial(nn.conv(3, 3), nn.global_avg_pool(), nn.dense(2)), IMAGES),
        (nn.serial(nn.conv(1, 3), nn.flatten(), nn.dense(2)), IMAGES),
        (nn.serial(nn.flatten(), nn.dense(2)), IMAGES[..., :1]),
        (nn.serial(nn.skip(nn.dense(4), nn.layer_norm()), nn.flatten(), nn.dense(2)), SEQUENCE),
        (
            nn.serial(
                nn.conv(4, 2), nn.reshape(16, 4), nn.attention(2), nn.global_avg_pool(), nn.dense(2)
            ),
            IMAGES,
        ),
        (
            nn.serial(nn.dense(6), nn.reshape(3, 2), nn.lstm(4), nn.flatten(), nn.dense(2)),
            cosines((1, 5)),
        ),
    ],
    ids=["lstm", "embedding", "pooled", "one channel", "grey", "sequence", "patches", "cut"],
)
def test_nothing_is_moved_where_flattening_has_one_order(network, x):
    params, state = started(network, x)
    state_dict = interop.to_state_dict(network, x, params, state)
    (last,) = (a for name, a in state_dict.items() if name == f"{len(params) - 1}.weight")
    np.testing.assert_array_equal(last, params[-1]["weight"].T)


def test_the_order_is_followed_through_branches_copies_and_casts():
    inner = nn.serial(
        nn.conv(3, 3),
        nn.fork(nn.relu(), nn.repeat(nn.skip(nn.conv(3, 3)), 2)),
        nn.add(),
        nn.recompute(nn.serial(nn.flatten(), nn.dropout(0.1))),
        nn.dense(2),
    )
    for network in (inner, nn.with_precision(inner, nn.POLICIES["float16"])):
        params, state = started(network, IMAGES)
        written = interop.to_state_dict(network, IMAGES, params, state)["4.weight"]
        rows = np.asarray(params[4]["weight"]).reshape(4, 4, 3, 2).transpose(3, 2, 0, 1)
        np.testing.assert_array_equal(written, rows.reshape(2, 48))


@pytest.mark.parametrize(
    ("network", "x", "label"),
    [
        (nn.serial(nn.dense(48), nn.reshape(4, 4, 3), nn.conv(2, 3)), cosines((1, 5)), "2 conv"),
        (
            nn.serial(nn.fork(nn.flatten(), nn.flatten()), nn.concatenate(), nn.dense(2)),
            IMAGES,
            "2 dense",
        ),
        (nn.serial(nn.flatten(), nn.group_norm(2)), IMAGES, "1 group_norm"),
        (
            nn.serial(
                nn.fork(nn.dense(2), nn.flatten()),
                nn.parallel(nn.flatten(), nn.identity()),
                nn.bilinear(2),
            ),
            IMAGES,
            "2 bilinear",
        ),
        (nn.serial(nn.flatten(), nn.repeat(nn.skip(nn.dense(32)), 3)), IMAGES, "1.0.0.1.0 dense"),
        (
            nn.serial(
                nn.fork(
                    nn.serial(nn.conv(2, 1), nn.flatten()), nn.serial(nn.dense(2), nn.flatten())
                ),
                nn.share(nn.dense(2)),
            ),
            IMAGES,
            "1.0 dense",
        ),
        (nn.serial(nn.dense(2), nn.batch_norm(), nn.flatten(), nn.dense(2)), SEQUENCE, "3 dense"),
        (nn.serial(nn.conv(3, 2), nn.layer_norm(), nn.flatten(), nn.dense(2)), IMAGES, "3 dense"),
        (nn.serial(nn.conv(3, 2), nn.gru(2), nn.flatten(), nn.dense(2)), SEQUENCE, "3 dense"),
        (nn.serial(nn.layer_norm(axes=(1, 2))), SEQUENCE, "0 layer_norm"),
        (
            nn.serial(own_layer(lambda x: x.mean((1, 2))), nn.dense(2)),
            IMAGES,
            "1 dense",
        ),
    ],
    ids=[
        "reshaped",
        "joined",
        "groups",
        "bilinear",
        "repeat",
        "share",
        "turned",
        "norm",
        "gru",
        "axes",
        "of one's own",
    ],
)
def test_parameters_whose_order_cannot_be_known_are_refused(network, x, label):
    state_dict = state_dict_of(network, x, channels_first=False)
    fault = refusal(network, x, state_dict)[0]
    assert fault.startswith(f"  {label}: ")
    assert "channels_first=False that the order is the same" in fault
    given = interop.from_state_dict(network, x, state_dict, channels_first=False)
    jax.tree.map(np.testing.assert_array_equal, given, started(network, x))


def pass_on(params, state, x, key=None):
    return x, state, ()


@pytest.mark.parametrize(
    ("layer", "x", "reason"),
    [
        (nn.attention(2, relative=1), SEQUENCE, "nn.MultiheadAttention has no relative positions"),
        (nn.spectral_norm(nn.conv_transpose(2, 2)), IMAGES, "PyTorch has no such layer"),
        (
            nn.layer("own", lambda key, x: ({"a": jnp.ones(2)}, ()), pass_on, pass_on),
            cosines((1, 3)),
            "PyTorch has no such layer",
        ),
    ],
    ids=["relative", "spectral", "own"],
)
def test_what_pytorch_does_not_have_is_named(layer, x, reason, untyped):
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    for refused in (
        lambda: interop.from_state_dict(layer, x, {}),
        lambda: interop.to_state_dict(layer, x, *shapes),
    ):
        with pytest.raises(ValueError, match=re.escape(reason)):
            refused()


def test_arrays_beside_those_of_a_module_are_refused():
    network, x = nn.lstm(2), SEQUENCE
    state_dict = state_dict_of(network, x)
    assert state_dict.keys() == {f"{n}_{s}_l0" for n in ("weight", "bias") for s in ("ih", "hh")}
    state_dict["weight_hr_l0"] = np.ones((2, 2), np.float32)
    assert "weight_hr float32[2, 2]: got for no layer" in refusal(network, x, state_dict)[0]


def test_the_counter_of_batch_norm_is_read_over_and_written():
    network, x = nn.batch_norm(), cosines((2, 3))
    state_dict = state_dict_of(network, x)
    assert state_dict.pop("num_batches_tracked").dtype == np.int64
    interop.from_state_dict(network, x, state_dict)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_kept(dtype):
    x = cosines((2, 3)).astype(dtype)
    network = nn.serial(nn.dense(2), nn.gru(2)) if dtype == "float16" else nn.dense(2)
    x = x[:, None] if dtype == "float16" else x
    trees = started(network, x)
    written = interop.to_state_dict(network, x, *trees)
    assert {str(array.dtype) for array in written.values()} == {dtype}
    given = interop.from_state_dict(network, x, written)
    jax.tree.map(np.testing.assert_array_equal, given, trees)


def test_state_that_pytorch_does_not_have_is_as_it_is_made():
    network, x = nn.feedback_alignment(nn.dense(3)), cosines((1, 4))
    state_dict = state_dict_of(nn.dense(3), x)
    params, state = interop.from_state_dict(network, x, state_dict)
    np.testing.assert_array_equal(params["weight"], state_dict["weight"].T)
    expected = network.init(jax.random.key(0), x)[1]
    assert jax.tree.leaves(expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_params_do_not_change_with_the_arrays_that_they_came_from():
    state_dict = state_dict_of(CNN, IMAGES)
    params, _ = interop.from_state_dict(CNN, IMAGES, state_dict)
    before = np.array(params[0]["bias"])
    state_dict["0.bias"][:] = 7
    np.testing.assert_array_equal(params[0]["bias"], before)


def test_what_is_no_dict_of_arrays_is_refused(untyped):
    with pytest.raises(TypeError, match=r"read_safetensors makes one of a \.safetensors file"):
        interop.from_state_dict(CNN, IMAGES, "model.pt")
    for state_dict in ({"0.weight": [1.0]}, {0: np.ones(2)}):
        with pytest.raises(TypeError, match="expected names and arrays of NumPy or PyTorch"):
            interop.from_state_dict(CNN, IMAGES, state_dict)
    with pytest.raises(TypeError, match="expected network to be a Layer"):
        interop.from_state_dict(nn.dense, IMAGES, {})


def test_params_of_another_network_are_not_written():
    other = started(nn.serial(nn.conv(3, 3), nn.relu(), nn.flatten(), nn.dense(5)), IMAGES)
    with pytest.raises(ValueError, match=r"'0.3.bias': expected float32\[4\], got float32\[5\]"):
        interop.to_state_dict(CNN, IMAGES, *other)
    with pytest.raises(ValueError, match=r"expected different names, got two 'a\.weight'"):
        interop.to_state_dict(CNN, IMAGES, *started(CNN, IMAGES), names={"0": "a", "3": "a"})
    with pytest.raises(ValueError, match="names: no layer has '7'"):
        interop.to_state_dict(CNN, IMAGES, *started(CNN, IMAGES), names={"7": "a"})


def test_a_state_dict_goes_through_a_file(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors writes the file")
    state_dict = state_dict_of(CNN, IMAGES)
    path = interop.save_safetensors(tmp_path / "model.safetensors", state_dict)
    given = interop.from_state_dict(CNN, IMAGES, interop.read_safetensors(path))
    jax.tree.map(np.testing.assert_array_equal, given, started(CNN, IMAGES))


def test_a_model_of_pytorch_itself_predicts_the_same_and_loads_what_is_written():
    torch = pytest.importorskip("torch", reason="PyTorch is what this reads the weights of")
    module = torch.nn
    theirs = module.Sequential(
        module.Conv2d(2, 3, 3, padding=1),
        module.BatchNorm2d(3),
        module.ReLU(),
        module.Flatten(),
        module.Linear(48, 2),
    ).eval()
    network = nn.serial(nn.conv(3, 3), nn.batch_norm(), nn.relu(), nn.flatten(), nn.dense(2))
    params, state = interop.from_state_dict(network, IMAGES, theirs.state_dict())
    images = torch.from_numpy(np.moveaxis(np.asarray(IMAGES), -1, 1).copy())
    y = network.predict(params, state, IMAGES)
    np.testing.assert_allclose(y, theirs(images).detach().numpy(), atol=1e-5)

    params, state = started(network, IMAGES)
    written = interop.to_state_dict(network, IMAGES, params, state)
    theirs.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in written.items()})
    y = network.predict(params, state, IMAGES)
    np.testing.assert_allclose(y, theirs(images).detach().numpy(), atol=1e-4)

    half = {name: a.to(torch.bfloat16) for name, a in module.Linear(3, 2).state_dict().items()}
    params, _ = interop.from_state_dict(nn.dense(2), jnp.ones((1, 3), jnp.bfloat16), half)
    assert params["weight"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        np.asarray(params["weight"], np.float32), half["weight"].float().numpy().T
    )
