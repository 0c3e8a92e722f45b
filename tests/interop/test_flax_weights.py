"""Variables of Flax models: what Flax predicts, the network with its variables predicts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, started

import jaxnn as nn
from jaxnn import interop

linen = pytest.importorskip("flax.linen", reason="Flax is what this reads the variables of")

IMAGES = normal(0, (2, 4, 6, 4), np.float32)
SEQUENCE = normal(1, (2, 3, 4), np.float32)
IDS = jnp.asarray([[1, 2], [0, 3]])


def flat(x):
    return x.reshape(len(x), -1)


def bidirectional():
    return linen.Bidirectional(linen.RNN(linen.LSTMCell(3)), linen.RNN(linen.LSTMCell(3)))


# The network, functions that make Flax's modules (or are some) one after the other, and x.
MODELS = {
    "cnn": (
        nn.serial(
            nn.conv(6, (3, 3), groups=2),
            nn.batch_norm(),
            nn.conv_transpose(3, (3, 2), strides=(2, 1), padding="SAME"),
            nn.flatten(),
            nn.dense(5),
            nn.batch_norm(),
            nn.dense(3, use_bias=False),
        ),
        [
            lambda: linen.Conv(6, (3, 3), feature_group_count=2),
            lambda: linen.BatchNorm(use_running_average=True),
            lambda: linen.ConvTranspose(3, (3, 2), (2, 1)),
            lambda: flat,
            lambda: linen.Dense(5),
            lambda: linen.BatchNorm(use_running_average=True),
            lambda: linen.Dense(3, use_bias=False),
        ],
        IMAGES,
    ),
    "norms": (
        nn.serial(
            nn.layer_norm(1e-6),
            nn.group_norm(2, 1e-6),
            nn.instance_norm(1e-6),
            nn.rms_norm(1e-6),
            nn.prelu(),
        ),
        [
            linen.LayerNorm,
            lambda: linen.GroupNorm(2),
            linen.InstanceNorm,
            linen.RMSNorm,
            linen.PReLU,
        ],
        IMAGES,
    ),
    "recurrent": (
        nn.serial(nn.lstm(4), nn.lstm(4), nn.gru(3), nn.rnn(2)),
        [
            lambda: linen.RNN(linen.LSTMCell(4)),
            lambda: linen.RNN(linen.LSTMCell(4)),
            lambda: linen.RNN(linen.GRUCell(3)),
            lambda: linen.RNN(linen.SimpleCell(2)),
        ],
        SEQUENCE,
    ),
    "both ways": (
        nn.bidirectional(nn.lstm(3), nn.lstm(3, reverse=True)),
        [bidirectional],
        SEQUENCE,
    ),
    "attention": (
        nn.serial(nn.attention(2), nn.attention(2, use_bias=False)),
        [
            lambda: linen.MultiHeadDotProductAttention(2),
            lambda: linen.MultiHeadDotProductAttention(2, use_bias=False),
        ],
        SEQUENCE,
    ),
    "embedding": (
        nn.serial(nn.embedding(5, 4), nn.conv(3, 2, padding="VALID")),
        [lambda: linen.Embed(5, 4), lambda: linen.Conv(3, (2,), padding="VALID")],
        IDS,
    ),
}


class Chain(linen.Module):
    makers: tuple

    @linen.compact
    def __call__(self, x):
        for make in self.makers:
            x = make()(x)
        return x


@functools.cache
def drawn(name):
    """The model and its variables, none of them 0 or 1, sorted by name as JAX leaves them."""
    network, makers, x = MODELS[name]
    theirs = Chain(tuple(makers))
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), x)
    leaves, treedef = jax.tree.flatten(shapes)
    numbers = np.random.default_rng(3)
    variables = treedef.unflatten(
        [jnp.asarray(numbers.uniform(0.1, 0.5, a.shape), a.dtype) for a in leaves]
    )
    return network, theirs, x, variables


@functools.cache
def loaded(name):
    network, theirs, x, variables = drawn(name)
    return interop.from_flax_params(network, x, variables, init=theirs.init)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_predicts_what_flax_does_with_the_same_variables(name):
    network, theirs, x, variables = drawn(name)
    params, state = loaded(name)
    y = jax.jit(network.predict)(params, state, x)
    expected = jax.jit(theirs.apply)(variables, x)
    assert np.max(np.abs(y - expected)) <= 2e-6 * np.max(np.abs(expected))


@pytest.mark.parametrize("name", MODELS)
def test_the_way_back_is_the_inverse(name):
    network, _, x, variables = drawn(name)
    given = interop.to_flax_params(network, x, *loaded(name))
    jax.tree.map(np.testing.assert_array_equal, given, variables)


def test_the_second_bias_of_a_gru_is_added_where_flax_has_one():
    network, theirs, x, _ = drawn("recurrent")
    params, state = started(network, x)
    assert np.asarray(params[2]["recurrent"]["bias"]).all()
    variables = interop.to_flax_params(network, x, params, state)
    np.testing.assert_allclose(
        theirs.apply(variables, x), network.predict(params, state, x), atol=1e-6
    )


class Blocks(linen.Module):
    """Modules made from the outside in, so that Dense_1 is used before Dense_0."""

    @linen.compact
    def __call__(self, x):
        for _ in range(11):
            x = x + linen.Dense(4)(linen.tanh(linen.Dense(4)(x)))
        return linen.Dense(4, name="head")(x)


BLOCK = nn.skip(nn.dense(4), nn.tanh(), nn.dense(4))
STACK = nn.serial(body=nn.repeat(BLOCK, 11), head=nn.dense(4))
NAMES = {f"body.{i}.0.1.{n}": f"Dense_{2 * i + 1 - n // 2}" for i in range(11) for n in (0, 2)}
NAMES["head"] = "head"


def test_variables_in_the_order_of_their_making_are_matched_in_that_order():
    variables = Blocks().init(jax.random.key(0), SEQUENCE)
    assert list(variables["params"])[:2] == ["Dense_1", "Dense_0"]
    params, state = interop.from_flax_params(STACK, SEQUENCE, variables)
    y = STACK.predict(params, state, SEQUENCE)
    np.testing.assert_allclose(y, Blocks().apply(variables, SEQUENCE), atol=1e-5)


def test_of_sorted_variables_the_order_is_not_guessed():
    made = Blocks().init(jax.random.key(0), SEQUENCE)
    variables = jax.tree.map(lambda a: a, made)
    assert list(variables["params"])[:2] == ["Dense_0", "Dense_1"]
    with pytest.raises(ValueError, match=r"init=model\.init or names=") as info:
        interop.from_flax_params(STACK, SEQUENCE, variables)
    assert "'Dense_0', 'Dense_1', 'Dense_10'" in str(info.value)
    expected = interop.from_flax_params(STACK, SEQUENCE, made)
    for way_out in ({"init": Blocks().init}, {"names": NAMES}):
        given = interop.from_flax_params(STACK, SEQUENCE, variables, **way_out)
        jax.tree.map(np.testing.assert_array_equal, given, expected)


class Setup(linen.Module):
    def setup(self):
        self.layers = [linen.Dense(4) for _ in range(11)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_places_in_lists_are_an_order():
    network = nn.serial(*[nn.dense(4)] * 11)
    variables = jax.jit(Setup().init)(jax.random.key(0), SEQUENCE)
    assert list(variables["params"])[2] == "layers_10"
    params, state = interop.from_flax_params(network, SEQUENCE, variables)
    y = network.predict(params, state, SEQUENCE)
    np.testing.assert_allclose(y, Setup().apply(variables, SEQUENCE), atol=1e-6)


def test_scopes_can_be_named_on_the_way_back():
    params, state = started(STACK, SEQUENCE)
    variables = interop.to_flax_params(STACK, SEQUENCE, params, state, names=NAMES)
    y = STACK.predict(params, state, SEQUENCE)
    np.testing.assert_allclose(Blocks().apply(variables, SEQUENCE), y, rtol=1e-4)


def test_a_scope_of_a_network_inside_is_that_of_a_module_of_modules():
    network = nn.serial(body=nn.serial(nn.dense(4), nn.dense(4)), head=nn.dense(4))
    variables = interop.to_flax_params(
        network, SEQUENCE, *started(network, SEQUENCE), names={"body": "Block_0"}
    )
    paths = {
        "/".join(key.key for key in path[1:-1])
        for path, _ in jax.tree_util.tree_leaves_with_path(variables)
    }
    assert paths == {"Block_0/Dense_0", "Block_0/Dense_1", "Dense_0"}


def test_a_kind_that_a_name_tells_is_compared_too():
    norm = {"scale": jnp.ones(4), "bias": jnp.ones(4)}
    interop.from_flax_params(nn.layer_norm(), SEQUENCE, {"params": {"LayerNorm_0": norm}})
    interop.from_flax_params(nn.layer_norm(), SEQUENCE, {"params": {"norm": norm}})
    with pytest.raises(ValueError, match=r"'GroupNorm_0' with .*: got for no layer"):
        interop.from_flax_params(nn.layer_norm(), SEQUENCE, {"params": {"GroupNorm_0": norm}})


def test_all_that_does_not_match_is_one_error():
    network = nn.serial(nn.dense(3), nn.batch_norm())
    variables = {"params": {"Dense_0": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(3)}}}
    with pytest.raises(ValueError, match="from_flax_params: expected weights of") as info:
        interop.from_flax_params(network, SEQUENCE, variables)
    assert str(info.value).splitlines()[1:-1] == [
        "  'Dense_0' with kernel float32[4, 2], bias float32[3]: got for no layer",
        "  0 dense: expected bias float32[3], kernel float32[4, 3]",
        "  1 batch_norm: expected bias float32[3], mean float32[3], scale float32[3], "
        "var float32[3]",
    ]


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.attention(2, relative=1), SEQUENCE),
        (nn.conv_transpose(4, 3, groups=2), IMAGES),
        (nn.prelu(per_channel=True), IMAGES),
        (nn.weight_norm(nn.dense(2)), SEQUENCE),
    ],
    ids=["relative", "groups", "prelu", "weight_norm"],
)
def test_what_flax_does_not_have_is_named(layer, x):
    with pytest.raises(ValueError, match=f"{layer.name}: Flax has no "):
        interop.from_flax_params(layer, x, {"params": {}})


def test_what_are_no_variables_is_refused(untyped):
    params = {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}
    for variables in (params, [params], {"params": params, "cache": {}}):
        with pytest.raises(ValueError, match="expected variables to have params and"):
            interop.from_flax_params(nn.dense(2), SEQUENCE, variables)
    with pytest.raises(TypeError, match=r"expected 'bias' to be an array, got 0\.5"):
        interop.from_flax_params(nn.dense(2), SEQUENCE, {"params": params | {"bias": 0.5}})


def test_scopes_that_meet_are_refused():
    network = nn.serial(nn.dense(4), nn.dense(4))
    with pytest.raises(ValueError, match="expected different names, got two 'a/kernel'"):
        interop.to_flax_params(
            network, SEQUENCE, *started(network, SEQUENCE), names={"0": "a", "1": "a"}
        )
