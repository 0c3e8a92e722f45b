"""Ways of clipping against the definition: each example's gradient by autodiff, in float64."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import interop
from jaxnn.learning.privacy import adaptive, clipped_sum, private, scheduled

LOSS = nn.softmax_cross_entropy()
NETWORK = nn.serial(nn.dense(4), nn.layer_norm(), nn.tanh(), nn.dense(3))
BATCH, C = 6, 0.7
LABELS = jnp.array([0, 2, 1, 1, 0, 2])


@cache
def gradients_of_each():
    """Params, state, x, and each example's gradient by autodiff as one matrix for each layer."""
    with jax.enable_x64(True):
        x = normal(0, (BATCH, 5)) * jnp.array([0.1, 1, 1, 10, 1, 1])[:, None]
        params, state = started(NETWORK, x)

        def own_loss(params, example, label):
            y = NETWORK.forward(params, state, example[None], None)[0]
            return LOSS.value(y, label[None])[0]

        each = jax.jit(jax.vmap(jax.grad(own_loss), (None, 0, 0)))(params, x, LABELS)
        layers = [
            np.concatenate([np.asarray(g).reshape(BATCH, -1) for g in jax.tree.leaves(layer)], 1)
            for layer in each
            if layer
        ]
        return params, state, x, layers


def flat(gradients):
    return np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradients)])


def by_definition(layers, factor, per_layer):
    """Σ_b of the examples' gradients, each times the ``factor`` of its norm and its bound."""
    groups = layers if per_layer else [np.concatenate(layers, 1)]
    bound = C / np.sqrt(len(groups))
    sums = [(factor(np.linalg.norm(g, axis=1), bound)[:, None] * g).sum(0) for g in groups]
    return np.concatenate(sums)


WAYS = {
    "clipped": ({}, lambda norm, bound: np.minimum(1, bound / norm)),
    "automatic": ({"automatic": 0.01}, lambda norm, bound: bound / (norm + 0.01)),
}


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_sum_is_that_of_gradients_scaled_by_the_definition(way, per_layer, x64):
    options, factor = WAYS[way]
    params, state, x, layers = gradients_of_each()
    compute = clipped_sum(NETWORK, LOSS, C, per_layer=per_layer, **options)
    found = flat(jax.jit(compute)(params, state, x, LABELS)[1])
    np.testing.assert_allclose(found, by_definition(layers, factor, per_layer), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("way", WAYS)
def test_per_layer_too_no_rounding_reaches_beyond_the_clip_norm(way, dtype):
    network = nn.serial(nn.dense(8), nn.tanh(), nn.dense(3))
    x = normal(0, (1, 5), dtype) * jnp.asarray(30, dtype)
    params, state = started(network, x)
    compute = clipped_sum(network, LOSS, 0.01, per_layer=True, **WAYS[way][0])
    _, gradients = jax.jit(compute)(params, state, x, jnp.array([1]))
    for layer in gradients[0], gradients[2]:
        assert 0.9 * 0.01 < np.sqrt(2) * np.linalg.norm(flat(layer).astype(float)) <= 0.01


@pytest.mark.parametrize("options", [{"per_layer": True}, {"automatic": 0.01}])
def test_an_example_that_is_not_finite_adds_nothing_in_any_way(options):
    x = normal(0, (BATCH, 5), jnp.float32)
    params, state = started(NETWORK, x)
    compute = jax.jit(clipped_sum(NETWORK, LOSS, C, **options))
    _, found = compute(params, state, x.at[1].set(jnp.nan), LABELS, None, jnp.ones(BATCH))
    _, expected = compute(params, state, x, LABELS, None, jnp.ones(BATCH).at[1].set(0))
    assert_agree(found, expected, 1e-6)


def tied_by_share():
    """One layer applied to both halves of x."""
    halves = nn.parameter_free(
        "halves",
        lambda x: ((x[:, :3], x[:, 3:]), ()),
        lambda _, dy: jnp.concatenate(dy, 1),
    )
    return nn.serial(halves, nn.share(nn.dense(3)), nn.add())


def tied_by_transposing():
    """One matrix that is used as it is and transposed, in a function of one example."""

    def apply(params, x):
        return jnp.tanh(x @ params["w"]) @ params["w"].T + params["b"]

    params = {"w": normal(1, (6, 3)), "b": normal(2, (6,))}
    return interop.layer(apply), params


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("make", [tied_by_share, tied_by_transposing])
def test_a_parameter_that_is_used_twice_has_one_gradient_that_is_clipped(make, per_layer, x64):
    x, made = normal(0, (4, 6)), make()
    network, params = made if isinstance(made, tuple) else (made, None)
    started_params, state = started(network, x) if params is None else (params, ())
    labels = jnp.array([0, 1, 2, 1])

    def own_loss(params, example, label):
        y = network.forward(params, state, example[None], None)[0]
        return LOSS.value(y, label[None])[0]

    each = jax.jit(jax.vmap(jax.grad(own_loss), (None, 0, 0)))(started_params, x, labels)
    found = jax.jit(clipped_sum(network, LOSS, 0.2, per_layer=per_layer))(
        started_params, state, x, labels
    )[1]
    if per_layer and make is tied_by_transposing:  # w and b are two layers
        groups, bound = [{"b": each["b"]}, {"w": each["w"]}], 0.2 / np.sqrt(2)
    else:
        groups, bound = [each], 0.2
    expected = []
    for group in groups:
        rows = np.concatenate([np.asarray(g).reshape(4, -1) for g in jax.tree.leaves(group)], 1)
        norms = np.linalg.norm(rows, axis=1)
        assert norms.max() > bound
        expected.append((np.minimum(1, bound / norms)[:, None] * rows).sum(0))
    np.testing.assert_allclose(flat(found), np.concatenate(expected), rtol=1e-9)


def gradient(network=NETWORK, **options):
    return private(network, LOSS, **{"batch_size": 4, "noise_multiplier": 1.0} | options)


def test_numbers_of_a_call_may_be_traced_and_mapped(x64):
    params, state, x, _ = gradients_of_each()
    arguments = (params, state, x, LABELS, jax.random.key(0))
    run = gradient(noise_multiplier=None)

    @jax.jit
    @jax.vmap
    def mapped(clip_norm, noise):
        return run(*arguments, clip_norm=clip_norm, noise_multiplier=noise)[1]

    found = mapped(jnp.array([0.1, 0.7]), jnp.array([1.0, 2.0]))
    for i, (clip_norm, noise) in enumerate(((0.1, 1.0), (0.7, 2.0))):
        one = gradient(clip_norm=clip_norm, noise_multiplier=noise)
        expected = jax.jit(one)(*arguments)[1]
        assert_agree(jax.tree.map(lambda a, i=i: a[i], found), expected, 1e-10)


def test_numbers_of_a_call_go_through_accumulate(x64):
    params, state, x, _ = gradients_of_each()
    arguments = (params, state, x, LABELS, jax.random.key(0))
    parts = nn.accumulate(gradient(noise_multiplier=None), 3, network=NETWORK)
    run = jax.jit(lambda c: parts(*arguments, clip_norm=c, noise_multiplier=2.0))
    expected = jax.jit(gradient(clip_norm=0.3, noise_multiplier=2.0))(*arguments)
    assert_agree(run(0.3), expected, 1e-9)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_an_adaptive_clip_norm_follows_the_share_of_gradients_within_it(
    per_layer, micro_batches, x64
):
    """With a count noise too small to matter: C exp(−η (b̃ − q)), b̃ = Σ (share − ½) / B + ½; the
    example without weight and the one that is not finite count neither as within nor as beyond."""
    params, inner, x, layers = gradients_of_each()
    network = adaptive(NETWORK, C, quantile=0.3, rate=0.5, count_noise=1e-9)
    state = network.init(jax.random.key(0), x)[1]._replace(inner=inner)
    run = gradient(network, noise_multiplier=1e-12, per_layer=per_layer)
    if micro_batches > 1:
        run = nn.accumulate(run, micro_batches, network=network)
    weights = jnp.array([1.0, 1, 0, 1, 1, 1])
    spoilt = x.at[4].set(jnp.inf)
    (_, after), gradients = jax.jit(run)(params, state, spoilt, LABELS, jax.random.key(0), weights)
    groups = layers if per_layer else [np.concatenate(layers, 1)]
    norms = np.stack([np.linalg.norm(g, axis=1) for g in groups])[:, [0, 1, 3, 5]]
    within = (norms <= C / np.sqrt(len(groups))).mean(0)
    assert 0 < within.mean() < 1
    share = (within - 0.5).sum() / 4 + 0.5
    assert after.memory == pytest.approx(C * np.exp(-0.5 * (share - 0.3)), rel=1e-7)
    kept = [layer[[0, 1, 3, 5]] for layer in layers]
    expected = by_definition(kept, WAYS["clipped"][1], per_layer) / 4
    np.testing.assert_allclose(flat(gradients), expected, rtol=1e-8, atol=1e-9)


def test_noise_of_gradients_and_of_counts_cost_together_what_the_multiplier_says():
    """1 / σ² = 1 / σ_Δ² + 1 / (2 σ_b)², measured from many draws."""
    network = adaptive(nn.dense(300), 0.5, rate=1.0, count_noise=1.0)
    x = jnp.zeros((2, 300))
    params, state = network.init(jax.random.key(0), x)
    run = private(network, nn.half_squared_error(), noise_multiplier=1.2, batch_size=10)

    @jax.jit
    @jax.vmap
    def draw(key):
        (_, after), found = run(params, state, x, jnp.zeros((2, 300)), key)
        return after.memory, found["bias"]

    memories, noise = draw(jax.random.split(jax.random.key(1), 2000))
    of_gradients = np.asarray(noise).std() * 10 / 0.5
    shares = 0.5 - np.log(np.asarray(memories, float) / 0.5)
    of_counts = shares.std() * 10
    assert of_counts == pytest.approx(1.0, rel=0.08)
    assert 1 / of_gradients**2 + 1 / (2 * of_counts) ** 2 == pytest.approx(1 / 1.2**2, rel=0.05)


def test_an_adaptive_clip_norm_finds_the_quantile_of_norms():
    """Norms of gradients are 1, 2, …, 8: 3.5 is what three in eight are below."""
    sizes = jnp.arange(1.0, 9.0)[:, None]
    network = adaptive(nn.dense(1, use_bias=False), 0.1, quantile=0.375, rate=0.3, count_noise=0.5)
    _, state = network.init(jax.random.key(0), sizes)
    run = private(network, nn.half_squared_error(), noise_multiplier=0.5, batch_size=8)
    params = {"weight": jnp.zeros((1, 1))}

    @jax.jit
    def go(state):
        def body(state, key):
            (_, state), _ = run(params, state, sizes, jnp.ones((8, 1)), key)
            return state, state.memory

        return jax.lax.scan(body, state, jax.random.split(jax.random.key(2), 200))[1]

    assert 2.8 < np.median(go(state)[100:]) < 4.2


def test_schedules_say_the_numbers_of_every_step(x64):
    params, inner, x, _ = gradients_of_each()
    norms, noises = optax.linear_schedule(1.0, 0.1, 10), optax.linear_schedule(1.0, 3.0, 10)
    network = scheduled(NETWORK, norms, noises)
    state = network.init(jax.random.key(0), x)[1]._replace(inner=inner)
    run, plain = (jax.jit(gradient(own, noise_multiplier=None)) for own in (network, NETWORK))
    for step in range(3):
        arguments = (x, LABELS, jax.random.key(step))
        (_, state), found = run(params, state, *arguments)
        numbers = {"clip_norm": norms(step), "noise_multiplier": noises(step)}
        assert_agree(found, plain(params, inner, *arguments, **numbers)[1], 1e-7)
    assert state.memory == 3


def test_a_network_that_changes_predicts_and_is_seen_as_the_network_itself(x64):
    params, inner, x, _ = gradients_of_each()
    network = adaptive(NETWORK)
    own, state = jax.jit(network.init)(jax.random.key(0), x)
    assert jax.tree.structure(own) == jax.tree.structure(params)
    assert_agree(network.predict(params, state, x), NETWORK.predict(params, inner, x), 0)
    at_rest = nn.in_inference_mode(network)
    assert_agree(at_rest.predict(params, state, x), NETWORK.predict(params, inner, x), 0)
    found = nn.backprop(network, LOSS)(params, state, x, LABELS)[1]
    assert_agree(found, nn.backprop(NETWORK, LOSS)(params, inner, x, LABELS)[1], 1e-12)


def test_noise_of_0_needs_permission(x64):
    with pytest.raises(ValueError, match=r"say allow_no_noise=True where that is meant"):
        gradient(clip_norm=1.0, noise_multiplier=0.0)
    params, state, x, _ = gradients_of_each()
    arguments = (params, state, x, LABELS, jax.random.key(0))
    with pytest.raises(ValueError, match=r"noise_multiplier to lie in \(0, inf\).*allow_no_noise"):
        gradient(clip_norm=1.0)(*arguments[:4], jax.random.key(0), noise_multiplier=jnp.zeros(()))
    allowed = gradient(clip_norm=C, noise_multiplier=0.0, allow_no_noise=True)
    _, total = jax.jit(clipped_sum(NETWORK, LOSS, C))(*arguments[:4])
    found = jax.jit(allowed)(*arguments)[1]
    assert_agree(jax.tree.map(lambda g: 4 * g, found), total, 1e-12)


NUMBERS = {"clip_norm": 1.0}


@pytest.mark.parametrize(
    ("make", "call", "message"),
    [
        (lambda: gradient(), {}, "expected clip_norm to be said by serial or given"),
        (lambda: gradient(**NUMBERS, noise_multiplier=None), {}, "expected noise_multiplier to"),
        (lambda: gradient(**NUMBERS), {"clip_norm": 0.0}, "expected clip_norm to lie in"),
        (lambda: gradient(**NUMBERS), {"clip_norm": jnp.ones(2)}, "one number, got shape"),
        (lambda: gradient(adaptive(NETWORK), **NUMBERS), {}, "said by adaptive alone"),
        (lambda: gradient(adaptive(NETWORK), automatic=0.1), {}, "expected automatic=None"),
        (lambda: gradient(adaptive(NETWORK, count_noise=0.5)), {}, "count_noise above half"),
        (lambda: gradient(adaptive(NETWORK)), {}, "expected the state of adaptive"),
        (lambda: gradient(scheduled(NETWORK, abs, abs)), {}, "said by scheduled alone"),
        (lambda: adaptive(NETWORK, quantile=1.0), {}, "expected quantile to lie in"),
        (lambda: adaptive(nn.with_precision(NETWORK, nn.POLICIES["float16"])), {}, "loss scaling"),
        (lambda: gradient(nn.tanh(), **NUMBERS), {}, "expected a network with parameters"),
        *(
            (lambda inside=inside: gradient(inside), {}, "to stand around the whole network")
            for inside in (
                adaptive(scheduled(NETWORK, abs)),
                nn.serial(adaptive(NETWORK)),
                nn.with_precision(adaptive(NETWORK), nn.POLICIES["bfloat16"]),
            )
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(make, call, message, x64):
    params, state, x, _ = gradients_of_each()

    def run():
        made = make()
        own = () if made.network == nn.tanh() else params
        return made(own, () if own == () else state, x, LABELS, jax.random.key(0), **call)

    with pytest.raises(ValueError, match=message):
        run()


def test_noise_of_a_call_that_the_counts_would_spend_alone_is_refused(x64):
    params, inner, x, _ = gradients_of_each()
    network = adaptive(NETWORK, count_noise=10.0)
    compute = gradient(network, noise_multiplier=None)
    arguments = (params, network.init(jax.random.key(0), x)[1]._replace(inner=inner), x, LABELS)
    for noise in (jnp.full((), 20.0), np.float64(30.0)):
        with pytest.raises(ValueError, match="expected count_noise above half"):
            compute(*arguments, jax.random.key(0), noise_multiplier=noise)


@pytest.mark.parametrize("value", ["1", 1j, True, jnp.array(True)], ids=repr)
def test_what_is_no_number_is_refused_by_name(value, x64):
    params, state, x, _ = gradients_of_each()
    with pytest.raises(TypeError, match="private: expected clip_norm to be a number, got"):
        gradient()(params, state, x, LABELS, jax.random.key(0), clip_norm=value)
    changing = scheduled(NETWORK, lambda step: value)
    state = changing.init(jax.random.key(0), x)[1]
    with pytest.raises(TypeError, match="private: expected clip_norm to be a number, got"):
        gradient(changing)(params, state, x, LABELS, jax.random.key(0))


def test_an_unknown_number_of_a_call_is_refused():
    params, state, x, _ = gradients_of_each()
    with pytest.raises(TypeError, match="did you mean 'clip_norm'"):
        clipped_sum(NETWORK, LOSS, 1.0)(params, state, x, LABELS, clip_nrom=1.0)


def test_virtual_batches_have_the_sum_of_the_whole_and_the_memory_of_one():
    network = nn.serial(*[nn.dense(64), nn.gelu()] * 4)
    x = normal(0, (1024, 64), jnp.float32)
    loss, params, state = nn.half_squared_error(), *started(network, x)
    whole = private(network, loss, clip_norm=0.1, noise_multiplier=1.0, batch_size=1000)
    key = jax.random.key(0)
    programs = [
        jax.jit(run).lower(params, state, data, data, key).compile()
        for run, data in (
            (nn.accumulate(whole, 16, network=network), x),
            (whole, x),
            (whole, x[:64]),
        )
    ]
    (_, found), (_, expected) = (program(params, state, x, x, key) for program in programs[:2])
    assert_agree(found, expected, 1e-6)
    virtual, large, small = (p.memory_analysis().temp_size_in_bytes for p in programs)
    size = sum(p.size * p.dtype.itemsize for p in jax.tree.leaves(params))
    assert virtual < small + 2 * size < large / 8
