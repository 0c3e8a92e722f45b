import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close
from helpers import assert_agree, normal

from jaxnn import functional


def of_definition(q, k, v, visible=True, bias=0.0, softcap=None):
    scores = jnp.einsum("...td,...sd->...ts", q, k) / math.sqrt(q.shape[-1])
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible, scores + bias, -1e30)
    return jnp.einsum("...ts,...sd->...td", jax.nn.softmax(scores), v)


def passes(function, *arrays):
    @jax.jit
    def run(*arrays):
        y, vjp = jax.vjp(function, *arrays)
        return y, *vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return run(*arrays)


def drawn(lead, time=4, memory=4, depth=6, own=6):
    shapes = ((*lead, time, depth), (*lead, memory, depth), (*lead, memory, own))
    return [normal(seed, shape) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 2)], ids=str)
def test_it_is_its_definition_for_any_number_of_axes_in_front(lead, x64):
    arrays = drawn(lead, memory=5)
    assert_agree(passes(functional.attention, *arrays), passes(of_definition, *arrays), 1e-10)


@pytest.mark.parametrize("block", [None, 2])
def test_options_are_their_definition(block, x64):
    q, k, v = drawn((2, 2), time=3, memory=5, own=4)
    bias, mask = normal(3, (2, 1, 5)), np.random.default_rng(0).random((2, 1, 3, 5)) < 0.7
    past = np.tril(np.ones((3, 5), bool), 2)
    seen = mask & past & (np.arange(5) < np.array([5, 4])[:, None, None, None])
    assert seen.any(-1).all()

    def by_hand(q, k, v, bias):
        lengths = jnp.asarray([5, 4])
        options = {"causal": True, "softcap": 2.0, "block": block}
        return functional.attention(q, k, v, mask, bias, lengths=lengths, **options)

    def expected(q, k, v, bias):
        return of_definition(q, k, v, seen, bias, 2.0)

    assert_agree(passes(by_hand, q, k, v, bias), passes(expected, q, k, v, bias), 1e-10)


def test_it_is_that_of_jax_with_heads_before_time(x64):
    q, k, v = drawn((2, 4))
    k, v = k[:, ::2], v[:, ::2]  # two heads of keys for four of queries

    def of_jax(q, k, v):
        swapped = (jnp.swapaxes(a, 1, 2) for a in (q, k, v))
        return jnp.swapaxes(jax.nn.dot_product_attention(*swapped, is_causal=True, scale=0.3), 1, 2)

    def by_hand(q, k, v):
        return functional.attention(q, k, v, causal=True, scale=0.3)

    assert_agree(
        passes(by_hand, q, k, v), passes(of_jax, q, k, v), 1e-6
    )  # JAX's own runs in float32


def test_masks_and_biases_are_broadcast(x64):
    q, k, v = drawn((2, 3))
    masks = (
        np.arange(4) < 3,
        (np.arange(4) < 3)[None, None],
        np.tril(np.ones((4, 4), bool)),
        np.arange(24).reshape(2, 3, 4, 1) % 5 > 0,
    )
    for mask in masks:
        expected = of_definition(q, k, v, jnp.asarray(mask))
        seen = np.broadcast_to(mask, (2, 3, 4, 4)).any(-1, keepdims=True)
        np.testing.assert_allclose(
            functional.attention(q, k, v, mask), np.where(seen, expected, 0), rtol=1e-6, atol=1e-9
        )
    for shape in ((), (4,), (4, 1), (3, 1, 4), (2, 1, 1, 1)):
        bias = normal(5, shape)
        by_hand = passes(lambda b: functional.attention(q, k, v, bias=b), bias)
        assert_agree(by_hand, passes(lambda b: of_definition(q, k, v, bias=b), bias), 1e-9)


def test_a_batch_of_several_axes_has_masks_and_lengths_of_its_own():
    q, k, v = (normal(seed, (2, 3, 2, 4, 6), np.float32) for seed in range(3))
    mask = np.random.default_rng(0).random((3, 1, 4, 4)) < 0.6
    lengths = jnp.asarray([[4, 3, 2], [1, 0, 4]])
    y = functional.attention(q, k, v, mask, lengths=lengths)
    for i in range(2):
        for j in range(3):
            given = (a[i, j][None] for a in (q, k, v))
            one = functional.attention(*given, mask[j], lengths=lengths[i, j][None])
            assert_trees_all_close(y[i, j], one[0], rtol=1e-5, atol=1e-6)
    assert not y[1, 1].any()


def test_a_batch_may_be_empty():
    q, k, v = (a[:0] for a in drawn((2, 4)))
    assert functional.attention(q, k[:, ::2], v[:, ::2], causal=True).shape == (0, 4, 4, 6)


def test_dropout_takes_a_key():
    q, k, v = drawn((2,))
    v = jnp.ones_like(v)
    y = functional.attention(q, k, v, key=jax.random.key(0), dropout=0.5)
    assert float(jnp.std(y)) > 0
    with pytest.raises(ValueError, match="expected key to be a random key"):
        functional.attention(q, k, v, dropout=0.5)


def test_half_precision_stays():
    arrays = [a.astype(jnp.bfloat16) for a in drawn((2, 3))]
    bias = jnp.ones((4, 4), jnp.bfloat16)
    results = passes(lambda *a: functional.attention(*a[:3], bias=a[3], scale=0.2), *arrays, bias)
    assert {a.dtype for a in results} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_turns_pairs_and_back(interleaved, x64):
    x, start = normal(0, (2, 3, 4)), 5
    angles = (start + np.arange(3))[:, None] * 100.0 ** (-np.arange(2) / 2)

    def expected(x):
        first, second = (x[..., ::2], x[..., 1::2]) if interleaved else jnp.split(x, 2, -1)
        turned = (first + 1j * second) * jnp.exp(1j * angles)
        parts = turned.real, turned.imag
        if interleaved:
            return jnp.stack(parts, -1).reshape(x.shape)
        return jnp.concatenate(parts, -1)

    def by_hand(x):
        return functional.rotary(x, start, interleaved=interleaved, base=100.0)

    assert_agree(passes(by_hand, x), passes(expected, x), 1e-10)
    np.testing.assert_allclose(jax.jit(functional.rotary)(x, start), functional.rotary(x, 5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q, k, v: (q, k[:1], v), ValueError, "k to have the axes of q before the last two"),
        (
            lambda q, k, v: (q, k[0], v[0]),
            ValueError,
            "k to have the axes of q before the last two",
        ),
        (lambda q, k, v: (q[:1], k, v), ValueError, "k to have the axes of q before the last two"),
        (lambda q, k, v: (q, k[..., :2], v), ValueError, "k to have the depth of q, 6, got 2"),
        (lambda q, k, v: (q, k, v[:, :2]), ValueError, "v to have the axes of k before the last"),
        (lambda q, k, v: (q, k.astype(jnp.float16), v), TypeError, "expected k to be float32"),
        (
            lambda q, k, v: (q, k, v, jnp.zeros((4, 4))),
            TypeError,
            "mask to be booleans, got float32",
        ),
        (
            lambda q, k, v: (q, k, v, jnp.ones((3, 4), bool)),
            ValueError,
            "mask to have a shape that",
        ),
        (lambda q, k, v: (q, k, v, None, jnp.ones((3, 1, 4))), ValueError, "bias to have a shape"),
        (lambda q, k, v: (q, k, v, None, jnp.arange(4)), TypeError, "bias to be floating-point"),
        (lambda q, k, v: (q, k[:, :0], v[:, :0]), ValueError, "k to have at least one position"),
        (lambda q, k, v: (IDS, k, v), TypeError, "expected q to be floating-point, got int32"),
        (lambda q, k, v: (q[0, 0], k, v), ValueError, r"expected q to be \[\*batch, time, depth\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message, untyped):
    q, k, v = (a.astype(jnp.float32) for a in drawn((2,)))
    with pytest.raises(error, match=message):
        functional.attention(*call(q, k, v))


IDS = jnp.ones((2, 4, 6), int)


def test_lengths_and_positions_that_do_not_fit_are_refused(untyped):
    q, k, v = drawn((2,))
    with pytest.raises(ValueError, match="lengths to have the shape of the batch"):
        functional.attention(q, k, v, lengths=jnp.asarray([1, 2, 3]))
    with pytest.raises(ValueError, match="expected lengths to lie in 0 … 4"):
        functional.attention(q, k, v, lengths=jnp.asarray([1, 5]))
    with pytest.raises(TypeError, match="expected start to be one integer"):
        functional.rotary(q, 0.5)
    with pytest.raises(ValueError, match="an even depth"):
        functional.rotary(q[..., :3])
    with pytest.raises(ValueError, match="expected features to be at most the depth"):
        functional.rotary(q, features=8)
