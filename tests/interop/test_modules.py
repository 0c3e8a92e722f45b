"""Layers as modules of Flax NNX and Equinox: trained there, with the gradients made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close
from helpers import assert_agree, normal

import jaxnn as nn
from jaxnn import interop
from jaxnn.interop import modules

BODY = nn.serial(first=nn.dense(4), norm=nn.batch_norm(), act=nn.tanh(), noise=nn.dropout(0.5))
APART = nn.serial(nn.dense(4), nn.layer_norm(), nn.tanh(), nn.dropout(0.5))
TRIPLED = nn.parameter_free("tripled", lambda x: (x, ()), lambda residuals, dy: 3 * dy)


def batch():
    return normal(0, (5, 3)), normal(1, (5, 2))


@pytest.fixture
def by_autodiff(monkeypatch):
    """A switch after which modules are differentiated by JAX through the forward pass."""

    def plain(layer, *, with_state):
        return lambda p, s, x, key=None: layer.forward(p, s, x, key)[:2]

    return lambda: monkeypatch.setattr(modules, "differentiable", plain)


class TestNNX:
    @pytest.fixture(autouse=True)
    def nnx(self):
        self.nnx = pytest.importorskip("flax.nnx", reason="Flax is what this integrates with")

    def model(self, layer=BODY):
        nnx, (x, _) = self.nnx, batch()

        class Model(nnx.Module):
            def __init__(self, rngs):
                self.body = interop.as_nnx_module(layer, x, rngs)
                self.head = nnx.Linear(4, 2, param_dtype=x.dtype, rngs=rngs)

            def __call__(self, x):
                return self.head(self.body(x))

        return Model(nnx.Rngs(0))

    def step(self, model):
        nnx = self.nnx
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x, target):
            def loss(model):
                return jnp.mean((model(x) - target) ** 2)

            value, gradients = nnx.value_and_grad(loss)(model)
            optimizer.update(model, gradients)
            return value, gradients

        value, gradients = step(model, optimizer, *batch())
        trees = gradients, nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
        return value, *map(nnx.to_pure_dict, trees)

    def test_a_training_step_is_that_of_autodiff(self, x64, by_autodiff):
        before = self.nnx.to_pure_dict(self.nnx.state(self.model(), self.nnx.BatchStat))
        by_hand = self.step(self.model())
        by_autodiff()
        expected = self.step(self.model())
        assert_agree(by_hand, expected, 1e-10)
        assert by_hand[1]["body"]["params"]["first"]["weight"].any()
        statistics = [tree["body"]["state"]["norm"]["mean"] for tree in (before, by_hand[3])]
        assert np.abs(statistics[1] - statistics[0]).min() > 1e-3

    def test_the_backward_pass_is_the_one_of_the_layer(self):
        module = interop.as_nnx_module(TRIPLED, jnp.ones((1, 2)), self.nnx.Rngs(params=0))
        gradient = jax.grad(lambda x: module(x).sum())(jnp.ones((1, 2)))
        assert_trees_all_close(gradient, np.full((1, 2), 3, np.float32))

    def test_in_inference_it_predicts_and_changes_nothing(self):
        model, (x, _) = self.model(), batch()
        model(x)
        model.eval()
        before = self.nnx.to_pure_dict(self.nnx.state(model, self.nnx.BatchStat))
        y = model.body(x)
        after = self.nnx.to_pure_dict(self.nnx.state(model, self.nnx.BatchStat))
        assert_trees_all_close(after, before, rtol=0)
        trees = (
            jax.tree.map(lambda v: v[...], tree, is_leaf=lambda v: isinstance(v, self.nnx.Variable))
            for tree in (model.body.params, model.body.state)
        )
        assert_trees_all_close(y, BODY.predict(*trees, x), rtol=1e-6)
        model.train()
        assert not np.array_equal(model.body(x), model.body(x))  # dropout draws anew

    def test_a_layer_that_draws_says_where_it_has_no_stream(self):
        x = batch()[0]
        module = interop.as_nnx_module(BODY, x, self.nnx.Rngs(params=0))
        with pytest.raises(ValueError, match="dropout: expected key to be a random key"):
            module(x)
        module.eval()
        module(x)


class TestEquinox:
    @pytest.fixture(autouse=True)
    def eqx(self):
        self.eqx = pytest.importorskip("equinox", reason="Equinox is what this integrates with")

    def step(self, layer, *, whole):
        eqx, (x, target), key = self.eqx, batch(), jax.random.key(0)

        def make():
            def module(layer, x):
                return interop.as_equinox_module(layer, x if whole else x[0], key, batch=whole)

            twice = eqx.nn.Lambda(lambda y: 2 * y)
            return eqx.nn.Sequential(
                [module(layer, x), twice, module(nn.dense(2), jnp.ones((5, 4)))]
            )

        model, state = eqx.nn.make_with_state(make)()

        @eqx.filter_jit
        def step(model, state, x, target):
            def loss(model):
                def run(x, key):
                    return model(x, state, key=key)

                keys = jax.random.split(key, len(x))
                run = run if whole else jax.vmap(run, out_axes=(0, None))
                y, new_state = run(x, key if whole else keys)
                return jnp.mean((y - target) ** 2), new_state

            (value, new_state), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(model)
            update = jax.tree.map(lambda g: -0.1 * g, gradients)
            return value, gradients, eqx.apply_updates(model, update), new_state

        return [
            jax.tree.map(np.asarray, eqx.filter(tree, eqx.is_inexact_array))
            for tree in step(model, state, x, target)
        ]

    @pytest.mark.parametrize("whole", [False, True], ids=["vmapped", "whole batches"])
    def test_a_training_step_is_that_of_autodiff(self, whole, x64, by_autodiff):
        layer = BODY if whole else APART
        by_hand = self.step(layer, whole=whole)
        by_autodiff()
        expected = self.step(layer, whole=whole)
        numbers = [list(map(np.asarray, jax.tree.leaves(trees))) for trees in (by_hand, expected)]
        assert_agree(*numbers, 1e-10)
        assert by_hand[1].layers[0].params[0]["weight"].any()

    def test_the_backward_pass_is_the_one_of_the_layer(self):
        module = interop.as_equinox_module(TRIPLED, jnp.ones(2), jax.random.key(0))
        gradient = jax.vmap(jax.grad(lambda x: module(x).sum()))(jnp.ones((4, 2)))
        assert_trees_all_close(gradient, np.full((4, 2), 3, np.float32))

    def test_one_example_has_no_axis_of_the_batch(self):
        x = normal(0, (5, 4, 3), np.float32)
        module = interop.as_equinox_module(nn.gru(2, output="last"), x[0], jax.random.key(0))
        y = jax.vmap(module)(x)
        assert module(x[0]).shape == (2,)
        assert_trees_all_close(y, nn.gru(2, output="last").predict(module.params, (), x), rtol=1e-5)

    def test_a_layer_that_mixes_examples_is_refused_one_by_one_unless_in_inference(self):
        x = batch()[0]
        make = self.eqx.nn.make_with_state(interop.as_equinox_module)
        module, state = make(BODY, x[0], jax.random.key(0))
        with pytest.raises(ValueError, match=r"expected batch=True .* since norm batch_norm mixes"):
            jax.vmap(lambda x: module(x, state, key=jax.random.key(0)))(x)
        expected = BODY.predict(module.params, state.get(module.state), x)
        resting = self.eqx.nn.inference_mode(module)
        y = jax.vmap(lambda x: resting(x, state)[0])(x)
        assert_trees_all_close(y, expected, rtol=1e-5)


def test_something_that_is_no_layer_is_refused(untyped):
    for wrap in (interop.as_nnx_module, interop.as_equinox_module):
        with pytest.raises(TypeError, match="expected layer to be a Layer"):
            wrap(nn.dense, jnp.ones((1, 2)), None)
