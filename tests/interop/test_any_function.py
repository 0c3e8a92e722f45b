"""Captures of functions that know nothing of jaxnn, against ``jax.vmap(jax.grad)``."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal
from jax import lax

import jaxnn as nn
from jaxnn import interop, statistics
from jaxnn.learning.preconditioning import kfac
from jaxnn.learning.privacy import private
from jaxnn.training import create_state, train

BATCH = 4
LOSS = nn.softmax_cross_entropy()


def dense(p, x):
    return jnp.tanh(x @ p["w"] + p["b"])


def two_sums(p, x):
    return jnp.tanh(x @ p["w"]) + p["b"] - p["c"] + jnp.cos(p["d"] + x[0])


def scaled(p, x):
    return x * p["scale"] + jnp.sin(x[:, None] * p["column"]).sum(1) + x / 3 * p["number"]


def divided(p, x):
    return p["w"] / (1 + x**2) + jnp.sin(-p["v"] / 2) * x + (2 * p["u"]) * jnp.exp(x)


def moved(p, x):
    w = (2 * p["w"].T[:, ::-1]).reshape(2, 3, 4)
    return jnp.einsum("i,hio->ho", x[:3], w) + jnp.sqrt(3.0) * p["b"][1:3, None]


def sliced(p, x):
    q, k = p["w"][:, :2], p["w"][:, 2:]
    return (x @ q) * jnp.tanh(x @ k) + x[:2] * p["v"][1:3] + x[1:3] * p["v"][2:]


def side_by_side(p, x):
    w = jnp.concatenate([p["a"], p["b"], 3 * p["c"]], 1)
    return x @ w + jnp.concatenate([p["d"], p["e"]])


def summed(p, x):
    return x @ (p["w"] + p["v"]) - (p["b"] - p["c"]) * x[:3]


def tied(p, x):
    ids = jnp.argsort(x)[:3]
    h = p["table"][ids] * 2 + p["positions"][: ids.shape[0]]
    return jnp.tanh(h) @ p["table"].T


def columns_of_a_table(p, x):
    ids = jnp.argsort(x) - 1
    return jnp.take(p["table"], ids, axis=1, mode="clip").sum(1) + p["table"][0, ids[0]]


def slices_at_places_of_the_data(p, x):
    place = jnp.argmax(x)
    row, column = p["table"][place], p["table"][:, place - 1]
    window = lax.dynamic_slice_in_dim(p["v"], place, 3)
    both = lax.dynamic_slice(p["w"], (place, 1), (2, 2))
    return row * jnp.tanh(column[:3]) + window.sum(0) + jnp.tanh(both).sum() * x[:3]


def several_uses(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["w"] + p["b"]


def overlapping(p, x):
    return x @ p["w"][:, :3] + jnp.sin(x @ p["w"][:, 1:])


def recurrent(p, x):
    def step(h, a):
        h = jnp.tanh(a * p["w"] + h @ p["u"] + p["b"])
        return h, h

    last, all_ = lax.scan(step, p["start"] + jnp.zeros(3), x)
    return last + all_.mean(0)


def stacked(p, x):
    @jax.checkpoint
    def block(h, own):
        return h + own["g"] * jnp.tanh(h @ own["w"] + own["b"]), None

    return lax.scan(block, x, p["blocks"])[0] @ p["head"]


def stack_used_twice(p, x):
    h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])
    return h @ p["w"][0]


def nested_scans(p, x):
    def outer(h, w):
        return lax.scan(lambda h, a: (jnp.tanh(h @ w + a * p["v"]), None), h, x)[0], None

    return lax.scan(outer, x[:3], p["w"])[0]


def branches(p, x):
    h = lax.cond(x[0] > 0, lambda h: h @ p["a"], lambda h: jnp.cos(h @ p["b"] + p["c"]), x)
    options = [lambda h: h * p["s"], lambda h: h, lambda h: h @ p["d"]]
    return lax.switch(jnp.argmax(x[:3]), options, h)


def batched_product(p, x):
    heads = x.reshape(2, 2)
    inner = jax.vmap(lambda row: p["m"] @ (row * heads[0]))(heads)
    return jnp.einsum("hi,hio->ho", heads, p["w"]) + inner.T[:2, :1]


def convolutions(p, x):
    images = jnp.sin(jnp.outer(jnp.arange(24.0), x[:2])).reshape(1, 4, 6, 2)
    channels_last = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        images,
        p["k"],
        (2, 1),
        [(1, 0), (0, 2)],
        rhs_dilation=(1, 2),
        dimension_numbers=channels_last,
    )
    y = jnp.tanh(y + p["b"]).transpose(0, 3, 1, 2)
    y = lax.conv_general_dilated(y, p["grouped"], (1, 1), "SAME", feature_group_count=2)
    y = lax.conv_transpose(
        y, p["transposed"], (2, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    return lax.reduce_window(y, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def scanned_convolutions(p, x):
    frames = jnp.sin(jnp.outer(jnp.arange(30.0), x[:2])).reshape(3, 1, 5, 2, 2)

    def step(h, frame):
        h = lax.conv_general_dilated(
            frame + h, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.tanh(h + p["b"]), None

    last, _ = lax.scan(step, jnp.zeros((1, 5, 2, 2)), frames)
    return lax.reduce_window(last, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


def stacked_convolutions(p, x):
    images = jnp.sin(jnp.outer(jnp.arange(10.0), x[:2])).reshape(1, 5, 2, 2)

    def block(h, own):
        y = lax.conv_general_dilated(
            h, own["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return h + jnp.tanh(y + own["b"]), None

    return lax.scan(block, images, p)[0]


def penalised(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"] + 0.1 * jnp.sum(p["w"] ** 2)


def nonlinear(p, x):
    norm = jnp.linalg.norm(p["v"])
    low_rank = p["a"] @ p["b"]
    return x @ (p["v"] / norm) + x @ low_rank + jax.nn.softplus(p["s"]) * x[0]


def beside_data(p, x):
    tokens = jnp.concatenate([p["token"][None], jnp.outer(x, x)])
    return jnp.tanh(tokens) @ p["w"] + p["unused"].shape[0]


def multiplied_by_a_number_of_the_data(p, x):
    return (p["w"] * x[0]) @ x + jnp.where(x[:3] > 0, p["v"], 0)


def attention_with_rotary_positions(p, x):
    h = jnp.outer(x, p["in"]) + p["positions"]
    qkv = (h @ p["qkv"]).reshape(4, 3, 2, 2)
    q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    angles = jnp.arange(4.0)[:, None, None]

    def rotated(a):
        even, odd = a[..., :1], a[..., 1:]
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        return jnp.concatenate([even * cos - odd * sin, even * sin + odd * cos], -1)

    y = jax.nn.softmax(jnp.einsum("thd,shd->hts", rotated(q), rotated(k)))
    h = h + jnp.einsum("hts,shd->thd", y, v).reshape(4, 4) @ p["out"]
    return (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-5) * p["g"]


def nested_lists(p, x):
    for w, b in p[0]:
        x = jax.nn.gelu(x @ w + b)
    return x @ p[1]


def physics(p, x):
    """A pendulum with friction, whose constants are bare numbers."""

    def step(state, _):
        angle, speed = state
        speed = speed - 0.1 * (p[0] * jnp.sin(angle) + p[1] * speed)
        return (angle + 0.1 * speed, speed), angle

    return lax.scan(step, (x[0], x[1]), None, length=5)[1] - p[2]


def subtracted_from(p, x):
    return (p["b"] - x @ p["w"]) * jnp.cos(-p["c"] - x[:3] @ p["v"])


def repeated(p, x):
    h = x @ jnp.broadcast_to(p["row"], (4, 3)) + x @ jnp.tile(p["column"], (1, 3))
    h = h * (jnp.broadcast_to(p["number"], (4, 3))[jnp.argsort(x)[:2]] @ h).sum()
    kernel = jnp.broadcast_to(p["taps"], (2, 1, 3))
    y = lax.conv_general_dilated(x.reshape(1, 1, 4), kernel, (1,), "SAME")
    steps = jnp.broadcast_to(p["step"], (2, 3))
    return lax.scan(lambda h, a: (jnp.tanh(h * a), None), h, steps)[0] + y.sum()


def beside_integers(p, x):
    order = jnp.argsort(x)
    _, w = lax.optimization_barrier((order, p["w"]))
    return w * x + lax.sort((order, p["v"]), num_keys=1)[1]


def of_other_dtypes(p, x):
    rounded = x.astype(jnp.float16).astype(jnp.float32)
    return rounded @ p["w"] + jnp.argsort(x) @ p["w"] + jnp.abs(jnp.fft.fft(x) @ p["v"])


def without_elements(p, x):
    return (x[:0] @ p["w"] + p["b"]).sum() + x @ p["v"] + p["c"] * x[:0]


SHAPES = {
    dense: {"w": (4, 3), "b": (3,)},
    two_sums: {"w": (4, 3), "b": (3,), "c": (1,), "d": ()},
    scaled: {"scale": (4,), "column": (4, 1), "number": ()},
    divided: {"w": (4,), "v": (), "u": (1,)},
    moved: {"w": (4, 6), "b": (4,)},
    sliced: {"w": (4, 4), "v": (4,)},
    side_by_side: {"a": (4, 2), "b": (4, 1), "c": (4, 3), "d": (2,), "e": (4,)},
    summed: {"w": (4, 3), "v": (4, 3), "b": (3,), "c": (3,)},
    tied: {"table": (6, 3), "positions": (5, 3)},
    columns_of_a_table: {"table": (2, 3)},
    slices_at_places_of_the_data: {"table": (5, 3), "v": (5, 3), "w": (4, 4)},
    several_uses: {"w": (4, 4), "b": (4,)},
    overlapping: {"w": (4, 4)},
    recurrent: {"w": (3,), "u": (3, 3), "b": (3,), "start": (3,)},
    stacked: {"blocks": {"w": (3, 4, 4), "b": (3, 4), "g": (3, 1)}, "head": (4, 2)},
    stack_used_twice: {"w": (2, 4, 4)},
    nested_scans: {"w": (2, 3, 3), "v": (3,)},
    branches: {"a": (4, 3), "b": (4, 3), "c": (3,), "s": (3,), "d": (3, 3)},
    batched_product: {"w": (2, 2, 3), "m": (3, 2)},
    convolutions: {
        "k": (3, 2, 2, 4),
        "b": (4,),
        "grouped": (4, 2, 3, 3),
        "transposed": (2, 4, 3, 3),
    },
    scanned_convolutions: {"k": (3, 3, 2, 2), "b": (2,)},
    stacked_convolutions: {"k": (2, 3, 3, 2, 2), "b": (2, 2)},
    penalised: {"w": (4, 3), "v": (3, 2)},
    nonlinear: {"v": (4, 3), "a": (4, 2), "b": (2, 3), "s": (3,)},
    beside_data: {"token": (4,), "w": (4, 2), "unused": (3, 2)},
    multiplied_by_a_number_of_the_data: {"w": (3, 4), "v": (3,)},
    attention_with_rotary_positions: {
        **{"in": (4,), "positions": (4, 4), "qkv": (4, 12), "out": (4, 4), "g": (4,)}
    },
    nested_lists: [[[(4, 5), (5,)], [(5, 3), (3,)]], (3, 2)],
    physics: [(), (), ()],
    subtracted_from: {"w": (4, 3), "b": (3,), "v": (3, 3), "c": (3,)},
    repeated: {"row": (3,), "column": (4, 1), "number": (), "taps": (3,), "step": (3,)},
    beside_integers: {"w": (4,), "v": (4,)},
    of_other_dtypes: {"w": (4, 3), "v": (4, 3)},
    without_elements: {"w": (0, 3), "b": (3,), "v": (4, 0), "c": (0,)},
}


def params_of(apply):
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    leaves, tree = jax.tree.flatten(SHAPES[apply], is_leaf=is_shape)
    return tree.unflatten(0.2 + normal(i, shape) / 2 for i, shape in enumerate(leaves))


def loss_of(apply):
    def loss(params, example):
        x, weight = example
        return weight * jnp.sum(jnp.sin(apply(params, x)) ** 2)

    return loss


def batch_of(apply):
    return normal(9, (BATCH, 4)), normal(10, (BATCH,))


def flat(gradients):
    return jnp.concatenate([g.reshape(BATCH, -1) for g in jax.tree.leaves(gradients)], 1)


def quantities(captures):
    return {
        "gradient": nn.contract(captures),
        "per example": statistics.per_example_gradients.of(captures),
        "norms": statistics.per_example_squared_norms.of(captures),
        "products": statistics.dot_products.of(captures),
        "second moment": statistics.gradient_second_moment.of(captures),
    }


def expected(gradients):
    rows = flat(gradients)
    return {
        "gradient": jax.tree.map(lambda g: g.sum(0), gradients),
        "per example": gradients,
        "norms": jnp.sum(rows**2, 1),
        "products": rows @ rows.T,
        "second moment": jax.tree.map(lambda g: jnp.mean(g**2, 0), gradients),
    }


@pytest.mark.parametrize("apply", SHAPES, ids=lambda f: f.__name__)
def test_quantities_are_those_of_vmapped_autodiff(apply, x64):
    loss, params, batch = loss_of(apply), params_of(apply), batch_of(apply)

    @jax.jit
    def both(params, batch):
        values, captures = interop.captures(loss)(params, batch)
        reference = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, batch)
        return (values, quantities(captures)), (reference[0], expected(reference[1]))

    (values, found), (value_references, references) = both(params, batch)
    assert_agree(values, value_references, 1e-12)
    for name, reference in references.items():
        assert_agree(found[name], reference, 1e-10)


def ways(apply):
    return interop.explain(loss_of(apply))(params_of(apply), batch_of(apply)).ways()


def test_an_explanation_names_what_each_parameter_is():
    assert ways(dense) == {"w": "linear", "b": "bias"}
    assert ways(tied)["table"] == "embedding and linear"
    found = ways(slices_at_places_of_the_data)
    assert (found["table"], found["v"]) == ("embedding and embedding", "embedding")
    assert found["w"] == "explicit: it is sliced at several places of the data"
    assert ways(several_uses) == {"w": "linear × 2", "b": "bias"}
    assert ways(stacked)["blocks.b"] == "bias"
    assert ways(convolutions)["k"] == "convolution"
    assert ways(stacked_convolutions) == {"b": "bias", "k": "convolution"}
    assert ways(scanned_convolutions)["k"] == "operation"
    assert ways(penalised)["w"].startswith("explicit: it goes through")
    found = ways(beside_data)
    assert found["token"] == "explicit: it is concatenated with data"
    assert found["unused"] == "not used"


def test_an_explanation_prints_a_line_for_each_parameter():
    text = str(interop.explain(loss_of(nonlinear))(params_of(nonlinear), batch_of(nonlinear)))
    assert len(text.splitlines()) == 4
    assert "s  explicit: it goes through `custom_jvp_call`" in text


def test_ids_in_eight_bits_reach_the_rows_of_a_longer_table():
    loss = lambda p, ids: jnp.sum(jnp.take(p, ids, axis=0, mode="clip"))  # noqa: E731
    ids = jnp.array([[50, 230]], jnp.uint8)
    gradient = nn.contract(interop.captures(loss)(jnp.ones((300, 1)), ids)[1])
    assert jnp.nonzero(gradient[:, 0])[0].tolist() == [50, 230]


def test_an_own_derivative_of_a_function_without_parameters_is_kept(x64):
    @jax.custom_vjp
    def doubled_on_the_way_back(x):
        return x

    doubled_on_the_way_back.defvjp(lambda x: (x, ()), lambda kept, d: (2 * d,))
    loss = lambda p, x: jnp.sum(doubled_on_the_way_back(x @ p))  # noqa: E731
    p, x = normal(0, (3, 2)), normal(1, (BATCH, 3))
    found = nn.contract(interop.captures(loss)(p, x)[1])
    assert_agree(found, 2 * jnp.outer(x.sum(0), jnp.ones(2)), 1e-12)


def test_an_own_derivative_by_a_parameter_is_kept(x64):
    @jax.custom_vjp
    def straight_through(w):
        return jnp.sign(w)

    straight_through.defvjp(lambda w: (jnp.sign(w), ()), lambda kept, d: (3 * d,))
    loss = lambda p, x: jnp.sum(x @ straight_through(p))  # noqa: E731
    p, x = normal(0, (3, 2)), normal(1, (BATCH, 3))
    gradients = statistics.per_example_gradients.of(interop.captures(loss)(p, x)[1])
    assert_agree(gradients, jax.vmap(jax.grad(loss), (None, 0))(p, x), 1e-12)


@functools.cache
def dense_layers():
    """The same network twice: jaxnn's own, and a function; with params for each."""
    own = nn.serial(nn.dense(5), nn.tanh(), nn.dense(3))
    x = normal(0, (6, 4), np.float32)
    params, state = own.init(jax.random.key(0), x)
    theirs = [(p["weight"], p["bias"]) for p in (params[0], params[2])]

    def apply(p, x):
        (w, b), (v, c) = p
        return jnp.tanh(x @ w + b) @ v + c

    return own, params, state, interop.layer(apply, start=lambda key, x: theirs), theirs, x


LABELS = jnp.arange(6) % 3


def test_curvature_is_that_of_the_same_layers():
    own, params, state, layer, theirs, x = dense_layers()
    arguments = ((own, params, state), (layer, theirs, ()))
    factors, ggn, kernel = (
        [jax.jit(f(n, LOSS, **options))(p, s, x, LABELS) for n, p, s in arguments]
        for f, options in (
            (statistics.kfac_factors, {"samples": None}),
            (statistics.diagonal_ggn, {}),
            (statistics.fisher_information, {}),
        )
    )
    assert_agree(jax.tree.leaves(factors[1]), jax.tree.leaves(factors[0]), 1e-5)
    weights = [ggn[0][i]["weight"] for i in (0, 2)]
    assert_agree([pair[0] for pair in ggn[1]], weights, 1e-5)
    assert_agree(jnp.linalg.eigvalsh(kernel[1]), jnp.linalg.eigvalsh(kernel[0]), 1e-4)


def test_factors_are_named_by_the_paths_of_their_parameters():
    _, _, _, layer, theirs, x = dense_layers()
    factors = jax.jit(statistics.kfac_factors(layer, LOSS, samples=None))(theirs, (), x, LABELS)
    found = {path: pair["inputs"].shape for path, pair in factors.by_path().items()}
    assert found == {"0.0, 0.1": (5, 5), "1.0, 1.1": (6, 6)}


def test_kfac_preconditions_it_as_it_does_the_same_layers():
    own, params, state, layer, theirs, x = dense_layers()
    found = []
    for network, p, s in ((own, params, state), (layer, theirs, ())):
        optimizer = kfac(network, LOSS, x, LABELS, damping=0.1, samples=None)
        gradients = nn.backprop(network, LOSS)(p, s, x, LABELS)[1]
        arguments = (s, x, LABELS, None, None)
        found.append(optimizer.update(gradients, optimizer.init(p), p, arguments=arguments)[0])
    assert_agree([w for w, _ in found[1]], [found[0][i]["weight"] for i in (0, 2)], 1e-5)
    assert_agree([b for _, b in found[1]], [found[0][i]["bias"] for i in (0, 2)], 1e-5)


def square_layer():
    def start(key, x):
        return {"w": jax.random.normal(key, (4, 4), x.dtype), "b": jnp.ones(4, x.dtype)}

    return interop.layer(dense, start=start)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: layer,
        lambda layer: nn.repeat(layer, 3),
        lambda layer: nn.recompute(nn.serial(layer, nn.relu())),
        lambda layer: nn.serial(nn.fork(nn.identity(), nn.relu()), nn.share(layer), nn.add()),
    ],
    ids=["alone", "repeated", "recomputed", "shared"],
)
def test_as_a_layer_it_keeps_the_laws(wrap):
    nn.check_layer(wrap(square_layer()), normal(0, (3, 4))).require()


def tied_layer():
    def apply(p, x):
        return jnp.tanh(x @ p["w"] + p["b"]) @ p["w"].T

    return interop.layer(apply, start=square_layer().start)


@pytest.mark.parametrize("layer", [square_layer, tied_layer])
def test_stacked_by_repeat_it_has_norms_of_its_own(layer):
    network, x = nn.repeat(layer(), 3), normal(0, (6, 4), np.float32)
    params, state = network.init(jax.random.key(0), x)
    norms, gradients = (
        jax.jit(f(network, LOSS))(params, state, x, LABELS)
        for f in (statistics.per_example_squared_norms, statistics.per_example_gradients)
    )
    every = [jnp.sum(g.reshape(6, -1) ** 2, 1) for g in jax.tree.leaves(gradients)]
    assert_agree(norms, sum(every), 1e-5)


def test_it_is_trained_and_crosschecked():
    layer, x = square_layer(), normal(0, (6, 4), np.float32)
    network = nn.serial(layer, nn.dense(3))
    state = create_state(network, optax.sgd(0.3), jax.random.key(0), x)
    options = {"epochs": 20, "batch_size": 3}
    epochs = list(train(network, LOSS, optax.sgd(0.3), state, x, LABELS, **options))
    assert epochs[0].disagreement < 1e-5
    assert epochs[-1].losses.mean() < 0.7 * epochs[0].losses.mean()


def test_its_private_and_its_accumulated_gradient_have_the_tree_of_its_params():
    _, _, _, layer, theirs, x = dense_layers()
    plain = nn.backprop(layer, LOSS)
    gradient = jax.jit(nn.accumulate(plain, 3, network=layer))(theirs, (), x, LABELS)[1]
    assert_agree(gradient, plain(theirs, (), x, LABELS)[1], 1e-5)
    step = private(layer, LOSS, clip_norm=1.0, noise_multiplier=1.0, batch_size=6)
    noisy = jax.jit(step)(theirs, (), x, LABELS, jax.random.key(0))[1]
    assert jax.tree.structure(noisy) == jax.tree.structure(theirs)


@pytest.mark.parametrize("rule", [nn.feedback_alignment, nn.kolen_pollack])
def test_a_rule_that_exchanges_its_weights_is_refused(rule):
    message = "expected layers that propagate over the weights which backward is given, but dense"
    with pytest.raises(ValueError, match=message):
        rule(square_layer()).init(jax.random.key(0), normal(0, (2, 4)))


def test_direct_feedback_reaches_it():
    network = nn.direct_feedback_alignment(square_layer(), nn.dense(3))
    x = normal(0, (6, 4), np.float32)
    params, state = network.init(jax.random.key(0), x)
    _, gradients = jax.jit(nn.backprop(network, LOSS))(params, state, x, LABELS)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_the_dtype_of_the_parameters(dtype):
    network = nn.with_precision(square_layer(), nn.POLICIES[dtype])
    x = normal(0, (6, 4), np.float32)
    params, state = network.init(jax.random.key(0), x)
    _, gradients = jax.jit(nn.backprop(network, LOSS))(params, state, x, LABELS)
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


def test_parameters_that_are_cast_have_gradients_in_their_own_dtype():
    def cast(p, x):
        return (x.astype("bfloat16") @ p["w"].astype("bfloat16")).astype("float32") + p["b"]

    loss, params = loss_of(cast), params_of(dense)
    params, batch = jax.tree.map(lambda a: a.astype("float32"), (params, batch_of(cast)))
    _, captures = jax.jit(interop.captures(loss))(params, batch)
    reference = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
    gradient = nn.contract(captures)
    assert_agree(gradient, jax.tree.map(lambda g: g.sum(0), reference), 0.02)
    assert_agree(
        statistics.per_example_squared_norms.of(captures), jnp.sum(flat(reference) ** 2, 1), 0.02
    )


@pytest.mark.parametrize("size", [0, 1])
def test_an_empty_batch_and_a_single_example_have_captures(size):
    loss, params = loss_of(dense), params_of(dense)
    batch = jax.tree.map(lambda a: a[:size], batch_of(dense))
    values, captures = interop.captures(loss)(params, batch)
    assert values.shape == (size,)
    assert statistics.per_example_squared_norms.of(captures).shape == (size,)
    assert jax.tree.structure(nn.contract(captures)) == jax.tree.structure(params)


def test_equal_functions_of_equal_shapes_are_traced_once():
    layer, x = square_layer(), normal(0, (3, 4), np.float32)
    params, _ = layer.init(jax.random.key(0), x)
    forward = jax.jit(lambda p, x: layer.forward(p, (), x, None))
    backward = jax.jit(lambda p, kept, dy: nn.contract(layer.backward(p, kept, dy)[1]))
    for seed in range(2):
        y, _, residuals = forward(params, normal(seed, (3, 4), np.float32))
        backward(params, residuals, y)
    assert (forward._cache_size(), backward._cache_size()) == (1, 1)


def test_norms_take_a_fifth_of_the_memory_of_vmapped_autodiff():
    def apply(p, x):
        for w in p:
            x = jnp.tanh(x @ w)
        return x

    loss = loss_of(apply)
    params = [normal(i, shape, np.float32) for i, shape in enumerate([(64, 96), (96, 64)])]
    batch = normal(3, (64, 64), np.float32), normal(4, (64,), np.float32)

    def reference(params, batch):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
        return sum(jnp.sum(g**2, (1, 2)) for g in gradients)

    def norms(params, batch):
        return statistics.per_example_squared_norms.of(interop.captures(loss)(params, batch)[1])

    taken = [
        jax.jit(f).lower(params, batch).compile().memory_analysis().temp_size_in_bytes
        for f in (norms, reference)
    ]
    assert taken[0] <= 0.2 * taken[1]


def test_a_function_of_a_batch_is_refused_with_what_it_was_traced_with():
    def of_batch(p, example):
        return jnp.sum(jnp.einsum("bi,io->bo", example, p))

    with pytest.raises(ValueError, match="Einstein sum subscript") as error:
        interop.captures(of_batch)(jnp.ones((3, 2)), jnp.ones((4, 3)))
    assert "of_batch was traced with one example, of float32[3]" in " ".join(error.value.__notes__)


def test_a_collective_over_the_batch_is_refused():
    def mixing(p, x):
        return lax.psum(jnp.sum(x @ p), "batch")

    with pytest.raises(NameError, match="batch") as error:
        interop.captures(mixing)(jnp.ones((3, 2)), jnp.ones((4, 3)))
    assert "without collectives" in " ".join(error.value.__notes__)


def test_a_loss_of_several_numbers_is_refused():
    def vector(p, x):
        return x @ p

    with pytest.raises(ValueError, match=r"expected vector to return one real number .*\[2\]"):
        interop.captures(vector)(jnp.ones((3, 2)), jnp.ones((4, 3)))


def test_a_loss_that_is_a_count_is_refused():
    def errors(p, x):
        return jnp.sum(x @ p > 0)

    with pytest.raises(ValueError, match=r"expected errors to return one real number .*int32\[\]"):
        interop.captures(errors)(jnp.ones((3, 2)), jnp.ones((4, 3)))


def test_integer_parameters_are_refused_by_their_path():
    with pytest.raises(TypeError, match=r"to be floating-point, got a\.count of int32"):
        interop.captures(lambda p, x: x.sum())({"a": {"count": jnp.ones(2, int)}}, jnp.ones((2, 1)))


def test_a_parameter_in_a_loop_that_depends_on_data_is_refused_by_its_path():
    def loop(p, x):
        return lax.while_loop(lambda v: v < 3, lambda v: v + p["rate"], x)

    message = r"but rate is used in a while loop"
    with pytest.raises(ValueError, match=message):
        interop.captures(loop)({"rate": jnp.ones(())}, jnp.ones(3))


def test_batches_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match="as many in each"):
        interop.captures(loss_of(dense))(params_of(dense), (jnp.ones((3, 4)), jnp.ones(2)))


def test_without_fallback_an_explicit_parameter_is_an_error_that_says_why():
    loss = interop.captures(loss_of(beside_data), fallback=False)
    with pytest.raises(ValueError, match="token is concatenated with data"):
        loss(params_of(beside_data), batch_of(beside_data))


def test_parameters_that_nobody_can_make_are_asked_for():
    with pytest.raises(ValueError, match="expected start"):
        interop.layer(dense).init(jax.random.key(0), jnp.ones((2, 4)))
