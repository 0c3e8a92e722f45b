"""What mixes the examples of a batch is found out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import masked, normal, started
from samples import LAYERS, LOSSES, NETWORKS

import jaxnn as nn
from jaxnn import statistics
from jaxnn.core.combinators import One
from jaxnn.core.mixing import TOLERANCE, largest_influence, mixing_layers
from jaxnn.learning import privacy

X = normal(0, (4, 3))
CENTER = nn.parameter_free("center", lambda x: (x - x.mean(0), ()), lambda r, dy: dy - dy.mean(0))
ROLL = nn.parameter_free(
    "roll", lambda x: (jnp.roll(x, 1, 0), ()), lambda r, dy: jnp.roll(dy, -1, 0)
)
SUM = nn.parameter_free(
    "running", lambda x: (jnp.cumsum(x, 0), ()), lambda r, dy: jnp.cumsum(dy[::-1], 0)[::-1]
)
ONLY_BACK = nn.parameter_free("only_back", lambda x: (x, ()), lambda r, dy: dy - dy.mean(0))


class OfOnesOwn(nn.ParameterFree):
    """Says nothing of whether it mixes."""

    def apply(self, x):
        return x - x.mean(0), ()

    def pull_back(self, residuals, dy):
        return dy - dy.mean(0)


def found(network, x=X):
    return mixing_layers(network, *network.init(jax.random.key(0), x), x, jax.random.key(1))


@pytest.mark.parametrize("layer", [CENTER, ROLL, SUM, ONLY_BACK], ids=lambda layer: layer.name)
@pytest.mark.parametrize(
    ("network", "path"),
    [
        (lambda layer: nn.serial(nn.dense(3), layer), "1 "),
        (lambda layer: nn.serial(body=nn.repeat(nn.serial(nn.dense(3), layer), 2)), "body.0.1 "),
        (lambda layer: nn.feedback_alignment(nn.serial(nn.dense(3), layer)), "1 "),
        (lambda layer: nn.serial(nn.dense(3), nn.skip(nn.recompute(layer))), "1.0.1.0.0 "),
        (lambda layer: nn.serial(nn.share(layer), nn.add()), "0.0 "),
    ],
)
def test_a_mixing_layer_is_found_wherever_it_is(layer, network, path):
    made = network(layer)
    x = (X, X) if isinstance(made.parts[0], nn.share) else X
    assert found(made, x) == [path + layer.name]


def test_a_mixing_layer_is_found_under_a_policy_of_half_precision():
    network = nn.with_precision(nn.serial(nn.dense(3), CENTER), nn.POLICIES["bfloat16"])
    assert found(network) == ["1 center"]


def test_it_is_found_inside_of_a_compiled_program():
    network = nn.serial(nn.dense(3), CENTER)
    params, state = network.init(jax.random.key(0), X)

    @jax.jit
    def run(params, x):
        assert mixing_layers(network, params, state, x) == ["1 center"]
        return x

    run(params, X)


def test_a_layer_of_ones_own_is_found_and_named():
    assert found(nn.serial(nn.dense(3), OfOnesOwn())) == ["1 OfOnesOwn"]


def test_layers_of_ones_own_that_take_examples_apart_pass():
    square = nn.pointwise("square", jnp.square, slope_from_input=lambda x: 2 * x)
    assert found(nn.serial(nn.dense(3), square)) == []
    assert found(nn.serial(masked()), (X, jnp.ones_like(X, int))) == []


def test_batch_norm_says_so_and_its_inference_mode_does_not():
    network = nn.serial(nn.dense(3), nn.batch_norm())
    assert found(network) == ["1 batch_norm"]
    assert found(nn.in_inference_mode(network)) == []


def test_nothing_is_run_where_every_layer_says_what_it_is(monkeypatch):
    monkeypatch.setattr("jaxnn.core.mixing.largest_influence", lambda *a: pytest.fail("was run"))
    assert found(nn.serial(nn.dense(3), nn.relu(), nn.skip(nn.layer_norm()))) == []


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "batch_norm"])
def test_every_layer_that_says_that_it_takes_examples_apart_does(name):
    layer, x = LAYERS[name]
    params, state = started(layer, x)
    others = jax.tree.map(lambda a: np.roll(a, 1, 0), x)
    assert largest_influence(layer, params, state, x, others, jax.random.key(1)) <= TOLERANCE


@pytest.mark.parametrize("layer", [CENTER, ROLL, ONLY_BACK], ids=lambda layer: layer.name)
def test_check_layer_says_so(layer):
    report = nn.check_layer(layer, X)
    (row,) = [
        c for c in report.comparisons if not c.passed and c.quantity == "float32 examples"
    ] or [None]
    assert row is not None or layer is ONLY_BACK  # whose gradient is wrong anyway
    assert not report.passed


class centred_relu(nn.relu):
    """A subclass of a layer that says that it takes examples apart, and does not."""

    def apply(self, x):
        return super().apply(x - x.mean(0))

    def pull_back(self, residuals, dy):
        d = super().pull_back(residuals, dy)
        return d - d.mean(0)


class less_the_mean(One):
    """A combinator of one's own that mixes by itself."""

    layer: nn.Layer

    def init(self, key, x):
        params, state = self.layer.init(key, x)
        return (params,), (state,)

    def forward(self, params, state, x, key):
        y, new_state, residuals = self.layer.forward(params[0], state[0], x - x.mean(0), key)
        return y, (new_state,), (residuals,)

    def backward(self, params, residuals, dy):
        dx, captures = self.layer.backward(params[0], residuals[0], dy)
        return dx - dx.mean(0), (captures,)


BY_LENGTH = nn.parameter_free(
    "by_length",
    lambda x: (x[0] / (1 + x[1].max()).astype(x[0].dtype), x[1]),
    lambda kept, dy: (dy / (1 + kept.max()).astype(dy.dtype), None),
)


def test_a_subclass_with_methods_of_its_own_is_not_trusted_for_its_base():
    assert found(nn.serial(nn.dense(3), centred_relu())) == ["1 centred_relu"]
    assert found(nn.serial(nn.dense(3), less_the_mean(nn.tanh()))) == ["1 less_the_mean"]


def test_a_subclass_without_methods_is_its_base():
    class renamed(nn.relu):
        """Another name."""

    assert renamed.mixes is False


def test_every_public_layer_says_what_it_is():
    assert [name for name, (layer, _) in (LAYERS | NETWORKS).items() if layer.mixes is None] == []


def test_mixing_through_integers_is_found():
    lengths = jnp.asarray([3, 1, 2, 1])
    network = nn.serial(nn.on(0, nn.dense(3)), BY_LENGTH)
    assert found(network, (X, lengths)) == ["1 by_length"]
    assert not nn.check_layer(BY_LENGTH, (X, lengths)).passed


def test_layers_that_pair_the_examples_are_found():
    def swapped(x):
        return x.reshape(-1, 2, 3)[:, ::-1].reshape(x.shape)

    pairs = nn.parameter_free("pairs", lambda x: (swapped(x), ()), lambda r, dy: swapped(dy))
    assert found(nn.serial(nn.dense(3), pairs)) == ["1 pairs"]


def test_a_layer_that_refuses_the_examples_it_is_tried_on_is_named():
    def only_of_five(x):
        if x.shape[0] not in (5,):
            raise RuntimeError("five")
        return x, ()

    layer = nn.parameter_free("fives", only_of_five, lambda r, dy: dy)
    with pytest.raises(ValueError, match="fives: expected a layer of which it can be found out"):
        found(nn.serial(nn.dense(3), layer), normal(0, (5, 3)))


class centred(nn.Loss):
    """½ Σ (y − ȳ − t)² of the mean ȳ over the batch, which nothing but its formula says."""

    def value(self, prediction, target):
        return jnp.sum((prediction - prediction.mean(0) - target) ** 2, -1) / 2

    def gradient(self, prediction, target):
        error = prediction - prediction.mean(0) - target
        return error - error.mean(0)


class weighted_by_batch(nn.Loss):
    """A loss whose targets, integers, weigh each other."""

    def value(self, prediction, target):
        return prediction.sum(-1) * target / target.sum()

    def gradient(self, prediction, target):
        return jnp.ones_like(prediction) * (target / target.sum())[:, None]


class own_cross_entropy(nn.softmax_cross_entropy):
    """A loss of one's own that takes examples apart, and does not say so."""

    def value(self, prediction, target):
        return 2 * super().value(prediction, target)

    def gradient(self, prediction, target):
        return 2 * super().gradient(prediction, target)


ROWS, NUMBERS, INTEGERS = normal(0, (6, 3)), normal(1, (6, 2)), jnp.arange(6) % 2
NET = nn.dense(2)
OF_SINGLE_EXAMPLES = {
    "clipped sum": lambda loss: privacy.clipped_sum(NET, loss, 1.0),
    "norms": lambda loss: statistics.per_example_squared_norms(NET, loss),
    "measure": lambda loss: statistics.measure(NET, loss, v=statistics.gradient_variance),
    "accumulate": lambda loss: nn.accumulate(nn.backprop(NET, loss), 2, network=NET),
}


@pytest.mark.parametrize("name", OF_SINGLE_EXAMPLES)
@pytest.mark.parametrize("jit", [False, True])
def test_a_loss_of_ones_own_that_mixes_is_found_out(name, jit):
    params, state = NET.init(jax.random.key(0), ROWS)
    for loss, target in ((centred(), NUMBERS), (weighted_by_batch(), INTEGERS)):
        run = OF_SINGLE_EXAMPLES[name](loss)
        with pytest.raises(ValueError, match=rf"{loss.name} compares the examples of a batch"):
            (jax.jit(run) if jit else run)(params, state, ROWS, target)
    OF_SINGLE_EXAMPLES[name](own_cross_entropy())(params, state, ROWS, INTEGERS)


def test_every_public_loss_says_what_it_is():
    assert {name for name, (loss, *_) in LOSSES.items() if loss.mixes is not False} == {
        "contrastive"
    }
