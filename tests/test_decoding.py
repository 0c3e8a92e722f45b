import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, started

import jaxnn as nn
from jaxnn.decoding import beam, from_network, from_sequence, greedy, sample

VOCABULARY, STOP = 4, 3
LOGITS = 1.5 * np.asarray(normal(0, (3, VOCABULARY, VOCABULARY)))
TABLE = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))


def markov(carry, token):
    """Log-probabilities by the last token and the number of the step, which the carry counts."""
    table = jnp.take_along_axis(jnp.asarray(TABLE), carry[:, None, None] % 3, 0)
    return jax.vmap(lambda rows, t: rows[t])(table, token), carry + 1


def log_probability(tokens, first):
    """Of one sequence up to its stop, and the number of tokens until there."""
    total, last = 0.0, first
    for number, token in enumerate(tokens):
        total += float(TABLE[number % 3, last, token])
        last = token
        if token == STOP:
            return total, number + 1
    return total, len(tokens)


def all_sequences(length):
    """Every sequence, with the stop alone behind a stop."""
    for tokens in itertools.product(range(VOCABULARY), repeat=length):
        end = tokens.index(STOP) if STOP in tokens else length
        if all(token == STOP for token in tokens[end:]):
            yield tokens


START = (jnp.zeros(2, int), jnp.array([0, 2]))


def test_greedy_takes_the_most_probable_token_until_the_stop():
    tokens = jax.jit(lambda: greedy(markov, *START, 5, stop=STOP))()
    assert tokens.shape == (2, 5)
    for row, first in zip(np.asarray(tokens), (0, 2), strict=True):
        last, ended = first, False
        for number, token in enumerate(row):
            expected = STOP if ended else np.argmax(TABLE[number % 3, last])
            assert token == expected
            last, ended = token, token == STOP


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_all_sequences_finds_the_best(penalty):
    length = 3
    # A beam of the vocabulary's width over 3 steps need not be exhaustive; these tables are kept
    # to what a search of all 40 sequences says of the ones found.
    search = jax.jit(lambda: beam(markov, *START, 3, width=4, stop=STOP, length_penalty=penalty))
    tokens, scores = search()
    for rows, found, first in zip(np.asarray(tokens), np.asarray(scores), (0, 2), strict=True):
        values = {}
        for sequence in all_sequences(length):
            total, count = log_probability(sequence, first)
            values[sequence] = total / count**penalty
        own = [values[tuple(int(t) for t in row)] for row in rows]
        np.testing.assert_allclose(found, own, rtol=1e-5)
        assert list(found) == sorted(found, reverse=True)
        assert len({tuple(row) for row in rows}) == 4
        if penalty == 0:
            assert own[0] == pytest.approx(max(values.values()))


def test_a_beam_of_width_one_is_greedy():
    found = jax.jit(lambda: beam(markov, *START, 5, width=1, stop=STOP))()
    np.testing.assert_array_equal(found.tokens[:, 0], greedy(markov, *START, 5, stop=STOP))


def test_a_beam_without_probability_for_others_keeps_its_sequence():
    certain = jnp.asarray(np.where(np.eye(3, dtype=bool), 0.0, -np.inf))

    def step(carry, token):
        return certain[token], carry

    found = jax.jit(lambda: beam(step, (), jnp.array([2]), 3, width=2))()
    np.testing.assert_array_equal(found.tokens[0, 0], [2, 2, 2])
    np.testing.assert_array_equal(found.scores, [[0.0, -np.inf]])


@pytest.mark.parametrize(("temperature", "top"), [(1.0, None), (0.5, None), (1.0, 2)])
def test_samples_have_the_frequencies_of_the_softmax(temperature, top):
    batch = 4000
    start = (jnp.zeros(batch, int), jnp.zeros(batch, int))
    draw = partial(sample, markov, *start, 1, temperature=temperature, top=top)
    tokens = jax.jit(draw)(jax.random.key(0))
    logits = np.asarray(TABLE[0, 0]) / temperature
    if top:
        logits = np.where(logits >= np.sort(logits)[-top], logits, -np.inf)
    expected = np.exp(logits) / np.exp(logits).sum()
    frequencies = np.bincount(np.asarray(tokens)[:, 0], minlength=VOCABULARY) / batch
    np.testing.assert_allclose(frequencies, expected, atol=0.03)


def test_a_low_temperature_is_greedy_and_other_keys_give_other_tokens():
    draw = partial(sample, markov, *START, 5, temperature=1e-4, stop=STOP)
    cold = jax.jit(draw)(jax.random.key(0))
    np.testing.assert_array_equal(cold, greedy(markov, *START, 5, stop=STOP))
    many = (jnp.zeros(50, int), jnp.zeros(50, int))
    draw = jax.jit(partial(sample, markov, *many, 3))
    one, other = (np.asarray(draw(jax.random.key(seed))) for seed in (0, 1))
    assert np.any(one != other)


CAUSAL = nn.serial(nn.embedding(5, 4), nn.attention(2, causal=True), nn.dense(5))


@pytest.mark.parametrize("window", [None, 1, 3, 9])
def test_a_causal_network_decodes_step_by_step(window):
    prompt = jnp.array([[1, 2], [4, 0]])
    params, state = started(CAUSAL, prompt)

    def predict(tokens):
        return CAUSAL.predict(params, state, tokens)

    tokens = jax.jit(lambda: greedy(*from_sequence(predict, prompt, 3, window=window), 3))()
    whole = np.asarray(prompt)
    for _ in range(3):
        logits = jax.jit(CAUSAL.predict)(params, state, whole[:, -(window or 9) :])
        whole = np.concatenate([whole, np.argmax(logits, -1)[:, -1:]], 1)
    np.testing.assert_array_equal(tokens, whole[:, 2:])


BLOCK = nn.transformer_block(8, 2, causal=True, rotary=True, dropout=0.1, norm="rms_norm")
CACHED = {
    "sinusoids": nn.serial(
        nn.embedding(7, 8), nn.positional_embedding(), nn.attention(2, causal=True), nn.dense(7)
    ),
    "a stack of blocks": nn.serial(
        nn.embedding(7, 8), nn.dropout(0.1), nn.repeat(BLOCK, 2), nn.layer_norm(), nn.dense(7)
    ),
    "learned positions and biases": nn.serial(
        nn.embedding(7, 8),
        nn.positional_embedding("learned", 12),
        nn.skip(
            nn.attention(2, groups=1, causal=True, alibi=True, relative=3, softcap=2.0, block=2)
        ),
        nn.dense(7),
        nn.log_softmax(),
    ),
}


@pytest.mark.parametrize("given", [1, 4])
@pytest.mark.parametrize("name", CACHED)
def test_a_cache_gives_the_tokens_that_there_are_without_it(name, given, x64):
    network = CACHED[name]
    prompt = jnp.arange(3 * given, dtype=jnp.int32).reshape(3, given) % 7
    params, state = started(network, prompt)

    @jax.jit
    def run(params):
        def predict(tokens):
            return network.predict(params, state, tokens)

        pair = (from_network(network, params, state, prompt, 8), from_sequence(predict, prompt, 8))
        return [
            (greedy(*start, 8), beam(*start, 4, width=2, stop=3), start[0](*start[1:])[0])
            for start in pair
        ]

    (tokens, beams, logits), (expected, beams_expected, logits_expected) = run(params)
    np.testing.assert_allclose(logits, logits_expected, rtol=1e-10)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(beams.tokens, beams_expected.tokens)


def test_a_step_with_a_cache_takes_less_work():
    network, prompt = CACHED["a stack of blocks"], jnp.zeros((2, 1), jnp.int32)
    params, state = started(network, prompt)

    def predict(tokens):
        return network.predict(params, state, tokens)

    def work(step, carry, first):
        return jax.jit(step).lower(carry, first).compile().cost_analysis()["flops"]

    with_cache = work(*from_network(network, params, state, prompt, 64))
    assert with_cache < work(*from_sequence(predict, prompt, 64)) / 10


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.serial(nn.embedding(7, 8), nn.attention(2)), "attention: expected causal attention"),
        (
            nn.serial(nn.embedding(7, 8), nn.gru(3)),
            r"every position by itself, got 1 gru; from_sequence takes any causal network",
        ),
        (nn.serial(nn.embedding(7, 8), nn.softmax(1)), "got 1 softmax"),
        (
            nn.serial(nn.embedding(7, 8), nn.positional_embedding("learned", 5)),
            "expected at most 5 positions, as many as are learned, got 6",
        ),
    ],
)
def test_a_network_whose_positions_cannot_be_kept_is_refused(network, message):
    prompt = jnp.zeros((1, 1), jnp.int32)
    with pytest.raises(ValueError, match=message):
        from_network(network, (), (), prompt, 6)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: greedy(markov, *START, 0), "greedy: expected length to be at least 1"),
        (lambda: greedy(markov, *START, 2, stop=4), "expected stop to lie below 4"),
        (lambda: greedy(markov, START[0], jnp.ones(2), 2), "first to be integer tokens"),
        (lambda: greedy(markov, jnp.zeros(3, int), START[1], 2), "expected one batch size"),
        (lambda: beam(markov, *START, 2, width=5), "beam: expected width to be at most .* 4"),
        (
            lambda: sample(markov, *START, 2, jax.random.key(0), temperature=0.0),
            "sample: expected temperature to lie in",
        ),
        (
            lambda: greedy(lambda c, t: (jnp.ones((2, 3, 4)), c), *START, 2),
            r"step to return logits \[2, vocabulary\], got shape \(2, 3, 4\)",
        ),
        (
            lambda: greedy(lambda c, t: (jnp.ones((2, 3)), ()), *START, 2),
            "step to return a carry like the one it is given",
        ),
        (lambda: from_sequence(markov, jnp.zeros((2, 0), int), 3), "prompt to be"),
    ],
)
def test_wrong_arguments_are_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()
