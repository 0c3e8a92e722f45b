"""Models of Flax and Equinox, written as public code does, against ``jax.vmap(jax.grad)``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import assert_agree, normal

import jaxnn as nn
from jaxnn import interop, statistics

LOSS = nn.softmax_cross_entropy()
BATCH = 3
LABELS = jnp.asarray([0, 2, 1])
IMAGES = normal(0, (BATCH, 6, 6, 2), np.float32)
SEQUENCES = normal(1, (BATCH, 4, 3), np.float32)
WORDS = jnp.asarray([[0, 3, 6, 3], [1, 1, 5, 2], [4, 0, 6, 6]])


class MLP(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = x.reshape((x.shape[0], -1))
        x = linen.relu(linen.Dense(5)(x))
        return linen.Dense(3)(x)


class ResNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(4, (3, 3), strides=(2, 2))(x)
        y = linen.Conv(4, (3, 3), use_bias=False)(x)
        y = linen.relu(linen.BatchNorm(use_running_average=not train)(y))
        y = linen.GroupNorm(2)(linen.Conv(4, (3, 3), feature_group_count=2)(y))
        x = linen.max_pool(linen.relu(x + y), (2, 2), (2, 2), "SAME")
        x = linen.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
        return linen.Dense(3)(x)


class Block(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        h = linen.RMSNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(2)(h, mask=linen.make_causal_mask(h[..., 0]))
        return x + linen.Dense(4)(linen.gelu(linen.Dense(8)(linen.LayerNorm()(x)))), None


class Transformer(linen.Module):
    @linen.compact
    def __call__(self, words):
        table = linen.Embed(7, 4)
        positions = self.param("positions", linen.initializers.normal(0.1), (5, 4))
        x = table(words) + positions[: words.shape[1]]
        stack = linen.scan(
            linen.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )
        return table.attend(stack()(x, None)[0])[:, -1]


class LSTM(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.RNN(linen.LSTMCell(4))(x)[:, -1])


class Convolutional(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
        return self.head(self.dropout(x.reshape(x.shape[0], -1)))


def of_linen(module, x, **arguments):
    variables = module.init(jax.random.key(0), x, **arguments)
    return *interop.from_linen(module, variables, **arguments), x


def of_nnx():
    model = Convolutional(nnx.Rngs(0))
    model.eval()
    return *interop.from_nnx(model), IMAGES


def of_equinox():
    equinox = pytest.importorskip("equinox", reason="Equinox is not installed")

    class Mixed(equinox.Module):
        conv: equinox.nn.Conv2d
        norm: equinox.nn.LayerNorm
        attention: equinox.nn.MultiheadAttention
        cell: equinox.nn.GRUCell
        mlp: equinox.nn.MLP
        pool: equinox.nn.MaxPool2d

        def __call__(self, x):
            h = self.pool(jax.nn.relu(self.conv(x.transpose(2, 0, 1)))).reshape(4, -1).T
            h = jax.vmap(self.norm)(h)
            h = h + self.attention(h, h, h)
            start = jnp.zeros(5, h.dtype)
            last, _ = jax.lax.scan(lambda carry, row: (self.cell(row, carry), None), start, h)
            return self.mlp(last)

    keys = jax.random.split(jax.random.key(0), 4)
    module = Mixed(
        equinox.nn.Conv2d(2, 4, 3, padding=1, key=keys[0]),
        equinox.nn.LayerNorm(4),
        equinox.nn.MultiheadAttention(2, 4, key=keys[1]),
        equinox.nn.GRUCell(4, 5, key=keys[2]),
        equinox.nn.MLP(5, 3, 6, 2, key=keys[3]),
        equinox.nn.MaxPool2d(2, 2),
    )
    return *interop.from_equinox(module), IMAGES


MODELS = {
    "linen MLP": lambda: of_linen(MLP(), IMAGES),
    "linen residual network": lambda: of_linen(ResNet(), IMAGES, train=False),
    "linen transformer": lambda: of_linen(Transformer(), WORDS),
    "linen LSTM": lambda: of_linen(LSTM(), SEQUENCES),
    "nnx": of_nnx,
    "equinox": of_equinox,
}


def moved_away(params):
    """From initial zeros and ones."""
    noise = [normal(i, p.shape) / 4 for i, p in enumerate(jax.tree.leaves(params))]
    return jax.tree.map(
        lambda p, n: p + n.astype(p.dtype),
        params,
        jax.tree.unflatten(jax.tree.structure(params), noise),
    )


@pytest.mark.parametrize("name", MODELS)
def test_quantities_of_an_unmodified_model_are_those_of_vmapped_autodiff(name):
    layer, params, state, x = MODELS[name]()
    params = moved_away(params)
    explained = interop.explain(layer)(params, x, state)
    assert explained.explicit == {}

    def loss(params, x, label):
        y = layer.predict(params, state, x[None])
        return LOSS.value(y, label[None])[0]

    @jax.jit
    def both(params, x):
        reference = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, LABELS)
        quantities = statistics.measure(
            layer,
            LOSS,
            norms=statistics.per_example_squared_norms,
            second=statistics.gradient_second_moment,
        )
        gradient = nn.backprop(layer, LOSS)(params, state, x, LABELS)[1]
        return (gradient, quantities(params, state, x, LABELS)), reference

    (gradient, measured), reference = both(params, x)
    assert_agree(gradient, jax.tree.map(lambda g: g.mean(0), reference), 1e-4)
    squares = [jnp.sum(g.reshape(BATCH, -1) ** 2, 1) for g in jax.tree.leaves(reference)]
    assert_agree(measured["norms"], sum(squares), 1e-4)
    assert_agree(measured["second"], jax.tree.map(lambda g: jnp.mean(g**2, 0), reference), 1e-4)


def test_a_linen_layer_makes_its_own_parameters_and_goes_back():
    layer, params, state, x = MODELS["linen residual network"]()
    made, made_state = layer.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, (made, made_state)) == jax.tree.map(jnp.shape, (params, state))
    variables = interop.to_model(layer, params, state)
    y = ResNet().apply(variables, x, train=False)
    assert_agree(layer.predict(params, state, x), y, 1e-5)


def test_equal_linen_modules_are_equal_layers():
    first, second = (of_linen(MLP(), IMAGES)[0] for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_an_nnx_layer_goes_back():
    layer, params, state, x = MODELS["nnx"]()
    again = interop.to_model(layer, params, state)
    assert isinstance(again, Convolutional)
    assert_agree(layer.predict(params, state, x), again(x), 1e-5)


def test_an_equinox_layer_goes_back():
    layer, params, state, x = MODELS["equinox"]()
    again = interop.to_model(layer, params, state)
    assert_agree(layer.predict(params, state, x), jax.vmap(again)(x), 1e-5)


def test_dropout_draws_another_mask_for_each_example():
    class Dropped(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dropout(0.5, deterministic=False)(x) * self.param(
                "scale", linen.initializers.ones, ()
            )

    x = jnp.ones((4, 64))
    variables = Dropped().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
    layer, params, state = interop.from_linen(Dropped(), variables, rngs=("dropout",))
    y, _, _ = layer.forward(params, state, x, jax.random.key(2))
    assert len({tuple(row) for row in np.asarray(y).tolist()}) == 4


def test_what_is_no_model_is_refused(untyped):
    with pytest.raises(TypeError, match=r"expected module to be a flax\.linen\.Module"):
        interop.from_linen(nn.dense(3), {"params": {}})
    with pytest.raises(TypeError, match='expected variables to be a dict with "params"'):
        interop.from_linen(MLP(), {})
    with pytest.raises(TypeError, match=r"expected model to be a flax\.nnx\.Module"):
        interop.from_nnx(MLP())
    with pytest.raises(TypeError, match="expected a layer of from_linen"):
        interop.to_model(nn.dense(3), (), ())
