import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, initialized, normal, passes

import jaxnn as nn
from jaxnn import statistics
from jaxnn.layers.reparametrization import OwnState

LOSS = nn.half_squared_error()
X = np.sin(np.arange(6.0).reshape(2, 3))
DY = np.array([[1, 2], [-1, 0.5]])
WEIGHT, BIAS = np.cos(np.arange(6.0).reshape(2, 3) / 3).T, np.array([0.1, -0.2])
WRAPPED = {
    "dense": (nn.weight_norm(nn.dense(2)), (3, 4)),
    "positions": (nn.weight_norm(nn.dense(2), 0), (3, 2, 4)),
    "convolution": (nn.weight_norm(nn.conv(4, 3, groups=2)), (3, 5, 2)),
    "spectral": (nn.spectral_norm(nn.dense(2)), (3, 4)),
    "spectral convolution": (nn.spectral_norm(nn.conv(3, (2, 2)), 2), (2, 3, 3, 2)),
    "both": (nn.weight_norm(nn.spectral_norm(nn.dense(2, use_bias=False))), (3, 4)),
    "repeated": (nn.repeat(nn.spectral_norm(nn.dense(4)), 2), (3, 4)),
}


def of_examples(network, params, state, x, target):
    def of_one(x, t):
        return nn.autodiff(network, LOSS)(params, state, x[None], t[None])[1]

    return jax.jit(jax.vmap(of_one))(x, target)


def test_weight_norm_is_that_of_pytorch(x64):
    layer = nn.weight_norm(nn.dense(2))
    _, state = layer.init(jax.random.key(0), X)
    params = {"weight": WEIGHT, "scale": np.array([2, -0.5]), "bias": BIAS}
    y, dx, gradients = passes(layer, params, state, jnp.asarray(X), jnp.asarray(DY))
    expected = [
        [2.005689515888043, -0.29288251739863946],
        [-1.5758002120249333, -0.1916339694340609],
    ]
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    expected = [[0.35724036796242564, 0.798746220662617, 1.1523212111531431]]
    expected += [[-1.488499155374858, -1.2912752530919698, -0.9518998846522971]]
    np.testing.assert_allclose(dx, expected, rtol=1e-12)
    np.testing.assert_allclose(gradients["scale"], [1.7907448639564882, 0.3631640390286188])
    expected = [[-1.6046970487710475, 0.6693705523482402, 1.2370358245913438]]
    expected += [[0.21616393806722625, -0.9727114542412321, -1.1702910115664067]]
    np.testing.assert_allclose(gradients["weight"].T, expected, rtol=1e-12)
    np.testing.assert_allclose(gradients["bias"], [0, 2.5], atol=1e-15)


def test_spectral_norm_is_that_of_pytorch_in_training_and_inference(x64):
    layer = nn.spectral_norm(nn.dense(2))
    state = OwnState((), {"left": jnp.asarray([1.0, 0, 0]), "right": jnp.asarray([0.6, 0.8])})
    params = {"weight": jnp.asarray(WEIGHT), "bias": jnp.asarray(BIAS)}
    y, dx, gradients = passes(layer, params, state, jnp.asarray(X), jnp.asarray(DY))
    expected = [
        [1.036539828680335, -0.13120332761470313],
        [-0.7235620915094038, -0.2061965919973948],
    ]
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    rows = [[1.2906489953912073, 0.878026511364933, 0.3687455065343715]]
    rows += [[-0.45274276330041663, -0.5132177245954892, -0.5171945443562865]]
    np.testing.assert_allclose(dx, rows, rtol=1e-12)
    rows = [[-0.8165845991293095, 0.3864774688274508, 0.7446061431387254]]
    rows += [[-0.3501343435299431, 0.4823712752322853, 0.6068507495923596]]
    np.testing.assert_allclose(gradients["weight"].T, rows, rtol=1e-12)
    _, state, _ = layer.forward(params, state, jnp.asarray(X), None)
    np.testing.assert_allclose(state.own["right"], [0.8797941764815949, 0.4753548222423668])
    left = [0.7050785584866297, 0.5850827409869579, 0.4006774420423546]
    np.testing.assert_allclose(state.own["left"], left)
    np.testing.assert_allclose(layer.predict(params, state, jnp.asarray(X)), expected, rtol=1e-12)


def test_weight_norm_starts_as_the_layer_itself():
    x = normal(0, (2, 3, 4))
    for axis in (0, -1):
        layer, inner = nn.weight_norm(nn.dense(5), axis), nn.dense(5)
        params, state = layer.init(jax.random.key(1), x)
        own, _ = inner.init(jax.random.key(1), x)
        assert params["scale"].shape == (own["weight"].shape[axis],)
        assert_agree(layer.predict(params, state, x), inner.predict(own, (), x), 1e-6)


def test_the_largest_singular_value_of_a_normalised_weight_is_1():
    layer, x = nn.spectral_norm(nn.dense(5)), normal(0, (2, 4))
    params, state = initialized(layer, x)
    forward = jax.jit(layer.forward)
    for _ in range(40):
        _, state, _ = forward(params, state, x, None)
    weight = layer.predict(params | {"bias": jnp.zeros(5)}, state, jnp.eye(4))
    assert abs(np.linalg.svd(weight, compute_uv=False)[0] - 1) < 1e-3


@pytest.mark.parametrize("name", WRAPPED)
def test_gradients_of_batch_and_examples_agree_with_autodiff(name, x64):
    network, shape = WRAPPED[name]
    x = normal(0, shape)
    params, state = initialized(network, x)
    params = jax.tree.map(lambda p: p + 0.1 * normal(1, p.shape), params)
    target = normal(2, jax.eval_shape(network.predict, params, state, x).shape)
    whole = jax.jit(nn.backprop(network, LOSS))(params, state, x, target)
    assert_agree(whole, jax.jit(nn.autodiff(network, LOSS))(params, state, x, target), 1e-10)
    expected = of_examples(network, params, state, x, target)
    measured = jax.jit(
        statistics.measure(
            network,
            LOSS,
            gradients=statistics.per_example_gradients,
            norms=statistics.per_example_squared_norms,
            moment=statistics.gradient_second_moment,
        )
    )(params, state, x, target)
    assert_agree(measured["gradients"], expected, 1e-10)
    squares = [jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(expected)]
    assert_agree(measured["norms"], sum(squares), 1e-10)
    moment = jax.tree.map(lambda g: jnp.mean(g**2, 0), expected)
    assert_agree(measured["moment"], moment, 1e-10)


@pytest.mark.parametrize("name", ["dense", "spectral"])
def test_an_example_that_is_left_out_takes_nothing_of_the_others_along(name, x64):
    from jaxnn.statistics.trees import without

    network, shape = WRAPPED[name]
    x, dy = normal(0, shape), normal(1, (3, 2))
    params, state = initialized(network, x)
    _, _, residuals = network.forward(params, state, x, None)
    captures = network.backward(params, residuals, dy)[1]
    for absent in ([True, False, False], [False, True, False], [True, True, True]):
        left = without(captures, jnp.asarray(absent)).gradient()
        kept = dy * ~np.asarray(absent)[:, None]
        assert_agree(left, nn.contract(network.backward(params, residuals, kept)[1]), 1e-12)


@pytest.mark.parametrize("wrap", [nn.weight_norm, nn.spectral_norm])
def test_shared_weights_have_a_capture_that_joins_their_uses(wrap, x64):
    network = nn.serial(nn.share(wrap(nn.dense(3))), nn.add())
    x = (normal(0, (2, 4)), normal(1, (2, 4)))
    params, state = initialized(network, x)
    target = normal(2, (2, 3))
    both = (
        jax.jit(make(network, LOSS))(params, state, x, target)[1]
        for make in (nn.backprop, nn.autodiff)
    )
    assert_agree(*both, 1e-10)


@pytest.mark.parametrize("wrap", [nn.weight_norm, nn.spectral_norm])
def test_rules_policies_and_views_reach_the_layer_inside(wrap):
    network, x = nn.serial(wrap(nn.dense(4)), nn.tanh(), wrap(nn.dense(3))), normal(0, (4, 5))
    target = normal(1, (4, 3))
    params, state = initialized(network, x)
    expected = jax.jit(nn.autodiff(network, LOSS))(params, state, x, target)[1]
    for view in (nn.fuse, nn.summing, nn.plain, nn.recompute):
        seen = view(network)
        inside = ((params,), (state,)) if view is nn.recompute else (params, state)
        found = jax.jit(nn.backprop(seen, LOSS))(*inside, x, target)[1]
        assert_agree(found[0] if view is nn.recompute else found, expected, 1e-5)
    fed = nn.feedback_alignment(network)
    fed_params, fed_state = initialized(fed, x)
    (_, _), gradients = jax.jit(nn.backprop(fed, LOSS))(fed_params, fed_state, x, target)
    assert_agree(
        gradients[2], jax.jit(nn.autodiff(network, LOSS))(fed_params, state, x, target)[1][2], 1e-5
    )
    assert np.abs(np.asarray(gradients[0]["weight"] - expected[0]["weight"])).max() > 1e-4
    mixed = nn.with_precision(network, nn.POLICIES["bfloat16"])
    mixed_params, mixed_state = initialized(mixed, x)
    assert {p.dtype for p in jax.tree.leaves(mixed_params)} == {jnp.dtype("float32")}
    found = jax.jit(nn.backprop(mixed, LOSS))(params, mixed_state, x, target)[1]
    assert_agree(found, expected, 0.1)


def test_at_rest_the_vectors_of_a_spectral_norm_stay():
    layer, x = nn.spectral_norm(nn.dense(3)), normal(0, (2, 4))
    params, state = initialized(layer, x)
    params = jax.tree.map(lambda p: p + 1, params)
    rest = nn.in_inference_mode(layer)
    y, new_state, _ = rest.forward(params, state, x, None)
    assert_agree((y, new_state), (layer.predict(params, state, x), state), 1e-6)
    moved = layer.forward(params, state, x, None)[1]
    assert np.abs(np.asarray(moved.own["left"] - state.own["left"])).max() > 1e-3


@pytest.mark.parametrize("wrap", [nn.weight_norm, nn.spectral_norm])
def test_a_weight_of_zero_stays_zero_and_has_no_nan_in_its_gradient(wrap):
    layer, x = wrap(nn.dense(2, weight_init="zeros")), normal(0, (3, 4))
    params, state = initialized(layer, x)
    y, dx, gradients = passes(layer, params, state, x)
    for leaf in (y, dx, gradients["weight"]):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
    autodiff = jax.grad(lambda p: layer.forward(p, state, x, None)[0].sum())(params)
    assert_agree(gradients["weight"], autodiff["weight"], 1e-6)


@pytest.mark.parametrize("wrap", [nn.weight_norm, nn.spectral_norm])
def test_half_precision_weights_are_normalised_in_float32(wrap):
    x = jnp.ones((2, 400), jnp.float16)
    layer = wrap(nn.dense(3, weight_init="normal(100.0)"))  # whose squares overflow
    params, state = initialized(layer, x)
    y, dx, gradients = passes(layer, params, state, x)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, y, dx, gradients))} == {
        jnp.dtype("float16")
    }
    assert all(
        np.isfinite(np.asarray(leaf, float)).all() for leaf in jax.tree.leaves((params, gradients))
    )


@pytest.mark.parametrize("wrap", [nn.weight_norm, nn.spectral_norm])
def test_an_empty_batch_and_a_single_example_keep_the_laws(wrap):
    for shape in [(0, 3), (1, 3)]:
        nn.check_layer(wrap(nn.dense(2)), np.asarray(normal(3, shape))).require()


def test_any_layer_with_a_weight_may_have_it_normalised():
    ids = jnp.asarray([[0, 2, 2], [1, 0, 1]])
    nn.check_layer(nn.weight_norm(nn.embedding(3, 2), 0), ids).require()
    pair = (np.asarray(normal(3, (2, 3))), np.asarray(normal(4, (2, 4))))
    nn.check_layer(nn.weight_norm(nn.bilinear(2)), pair).require()
    images = np.asarray(normal(5, (2, 3, 3, 2)))
    nn.check_layer(nn.spectral_norm(nn.conv_transpose(2, 2)), images).require()


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda: nn.weight_norm(nn.relu()).init(None, jnp.ones((2, 3))),
            ValueError,
            r"weight_norm: expected a layer with a weight of at least 2 axes, got relu\(\)",
        ),
        (
            lambda: nn.spectral_norm(nn.layer_norm()).init(jax.random.key(0), jnp.ones((2, 3))),
            ValueError,
            "spectral_norm: expected a layer with a weight",
        ),
        (
            lambda: nn.weight_norm(nn.weight_norm(nn.dense(2))).init(
                jax.random.key(0), jnp.ones((2, 3))
            ),
            ValueError,
            r"weight_norm: expected a layer without parameters of the names \['scale'\]",
        ),
        (
            lambda: nn.weight_norm(nn.dense(2), 2).init(jax.random.key(0), jnp.ones((2, 3))),
            ValueError,
            r"weight_norm: expected axis to name one of the weight, got 2 for shape \(3, 2\)",
        ),
        (
            lambda: nn.spectral_norm(nn.dense(2), -1),
            ValueError,
            "expected iterations to be at least",
        ),
        (lambda: nn.weight_norm(nn.dense), TypeError, "expected layer to be a Layer.*call it"),
    ],
)
def test_what_does_not_fit_is_refused(run, error, message, untyped):
    with pytest.raises(error, match=message):
        run()
