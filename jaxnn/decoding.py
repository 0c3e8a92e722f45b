"""Decoding: sequences of tokens from a function that predicts the next one.

The function is pure, ``step(carry, token) -> (logits, carry)``, with tokens int32 [batch] and
logits [batch, vocabulary]; whatever it remembers is in the carry, arrays with the batch first. For
a recurrent network that is its state; `from_sequence` makes one of a network that takes sequences,
and `from_network` one with a cache of the network's keys and values.
Everything is a scan of a fixed number of steps and can stand inside `jax.jit`.

Where a ``stop`` token is given, what comes behind it in a sequence is the stop token again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxnn.core.adapters import Pointwise
from jaxnn.core.combinators import (
    Compound,
    add,
    fork,
    identity,
    on,
    parallel,
    repeat,
    select,
    serial,
)
from jaxnn.core.contract import Layer
from jaxnn.core.networks import in_inference_mode, label, rewrite
from jaxnn.core.validation import (
    batch_size,
    require_array,
    require_integer,
    require_number,
    require_positive_integer,
)
from jaxnn.layers.activations import log_softmax, softmax
from jaxnn.layers.attention.cached import with_cache
from jaxnn.layers.dense import dense
from jaxnn.layers.embedding import embedding
from jaxnn.layers.normalization import layer_norm, rms_norm

Step = Callable[[Any, Array], tuple[Array, Any]]


def greedy(
    step: Step, carry: Any, first: Array, length: int, *, stop: int | None = None
) -> Int[Array, "batch length"]:
    """The most probable token at every step.

    Args:
        step: See the head of this file.
        carry: What ``step`` remembers before ``first``.
        first: [batch], the token that every sequence starts from; not part of the result.
        length: The number of tokens.
        stop: The token that ends a sequence.
    """
    return _decode("greedy", step, carry, first, length, stop, lambda logits, number: logits)


def sample(
    step: Step,
    carry: Any,
    first: Array,
    length: int,
    key: Array,
    *,
    temperature: float = 1.0,
    top: int | None = None,
    stop: int | None = None,
) -> Int[Array, "batch length"]:
    """Tokens drawn from softmax(logits / temperature), by the Gumbel-max trick.

    Args:
        step: See the head of this file; also for what is not named here, see `greedy`.
        carry: See `greedy`.
        first: See `greedy`.
        length: See `greedy`.
        key: The source of randomness.
        temperature: Below 1 the probable becomes more so.
        top: Draw from this many most probable tokens alone; ties with the last of them stay.
        stop: See `greedy`.
    """
    require_number("sample", "temperature", temperature, minimum=0, open_minimum=True)
    if top is not None:
        require_positive_integer("sample", "top", top)

    def perturb(logits: Array, number: Array):
        logits = logits / temperature
        if top is not None and top < logits.shape[-1]:
            least = jax.lax.top_k(logits, top)[0][:, -1:]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        return logits + jax.random.gumbel(
            jax.random.fold_in(key, number), logits.shape, logits.dtype
        )

    return _decode("sample", step, carry, first, length, stop, perturb)


class Beams(NamedTuple):
    """The sequences that `beam` found, best first."""

    tokens: Int[Array, "batch width length"]
    scores: Float[Array, "batch width"]
    """Log-probability divided by (number of tokens)^length_penalty."""


def beam(
    step: Step,
    carry: Any,
    first: Array,
    length: int,
    *,
    width: int,
    stop: int | None = None,
    length_penalty: float = 0.0,
) -> Beams:
    """Beam search: at every step the ``width`` most probable of all continued sequences are kept.

    A sequence that has ended stays among them with its log-probability. With ``width`` 1 it is
    `greedy`.

    Args:
        step: See the head of this file; also for what is not named here, see `greedy`.
        carry: See `greedy`.
        first: See `greedy`.
        length: See `greedy`.
        width: How many sequences are kept, at most the size of the vocabulary.
        stop: See `greedy`.
        length_penalty: p of the final order, by log-probability / (tokens up to the stop)^p.

    Raises:
        ValueError: ``width`` is larger than the vocabulary; see also `greedy`.
    """
    require_positive_integer("beam", "width", width)
    require_number("beam", "length_penalty", length_penalty, minimum=0)
    _require_start("beam", carry, first, length, stop)
    batch = first.shape[0]

    def spread(a: Array):
        return jnp.repeat(a, width, 0)

    carry, tokens = jax.tree.map(spread, (carry, first.astype(jnp.int32)))
    logits = _logits_of("beam", step, carry, tokens, stop)
    vocabulary = logits.shape[-1]
    if width > vocabulary:
        raise ValueError(
            f"beam: expected width to be at most the vocabulary, {vocabulary}, got {width}"
        )
    # All copies of the first token are the same sequence: only one of them may be continued.
    alone = jnp.where(jnp.arange(width) == 0, 0, -jnp.inf).astype(logits.dtype)
    total = jnp.broadcast_to(alone, (batch, width))
    ended = jnp.zeros((batch, width), bool)
    count = jnp.zeros((batch, width), jnp.int32)

    def body(state: tuple, number: Array):
        carry, tokens, total, ended, count, found = state
        logits, carry = step(carry, tokens)
        steps = jax.nn.log_softmax(logits).reshape(batch, width, vocabulary)
        if stop is not None:
            nothing_more = jnp.where(jnp.arange(vocabulary) == stop, 0, -jnp.inf)
            steps = jnp.where(ended[..., None], nothing_more.astype(steps.dtype), steps)
        candidates = (total[..., None] + steps).reshape(batch, -1)
        total, best = jax.lax.top_k(candidates, width)
        parent, token = best // vocabulary, best % vocabulary

        def inherit(a: Array):
            rows = a.reshape(batch, width, *a.shape[1:])
            index = parent.reshape(batch, width, *(1,) * (rows.ndim - 2))
            return jnp.take_along_axis(rows, index, 1).reshape(a.shape)

        carry = jax.tree.map(inherit, carry)
        ended, count = (jnp.take_along_axis(a, parent, 1) for a in (ended, count))
        found = jnp.take_along_axis(found, parent[..., None], 1).at[:, :, number].set(token)
        count = count + ~ended
        if stop is not None:
            ended = ended | (token == stop)
        return (carry, token.reshape(-1), total, ended, count, found), None

    found = jnp.zeros((batch, width, length), jnp.int32)
    start = (carry, tokens, total, ended, count, found)
    (_, _, total, _, count, found), _ = jax.lax.scan(body, start, jnp.arange(length))
    scores = total / count.astype(total.dtype) ** length_penalty
    order = jnp.argsort(-scores, axis=1)
    return Beams(
        jnp.take_along_axis(found, order[..., None], 1), jnp.take_along_axis(scores, order, 1)
    )


def from_sequence(
    predict: Callable, prompt: Array, length: int, *, window: int | None = None
) -> tuple[Step, Any, Array]:
    """(step, carry, first) for a causal network that predicts at every position of a sequence.

    The carry holds the tokens so far; every step runs the network on all of them, or the last
    ``window``, and takes the logits of the newest position.

    Args:
        predict: int32 [batch, time] -> logits [batch, time, vocabulary], where position t does not
            depend on the ones behind it.
        prompt: [batch, at least 1], the tokens to go on from.
        length: How many tokens will be decoded.
        window: The longest sequence that the network is given, such as the one it was trained on;
            what is older is forgotten. Unless given, it sees everything.
    """
    _require_prompt("from_sequence", prompt, length)
    if window is not None:
        require_positive_integer("from_sequence", "window", window)
    batch, given = prompt.shape
    size = min(window or given - 1 + length, given - 1 + length)
    known = prompt[:, max(given - 1 - size, 0) : -1].astype(jnp.int32)
    tokens = jnp.pad(known, [(0, 0), (0, size - known.shape[1])])

    def step(carry: tuple, token: Array):
        tokens, position = carry
        count = position[0]  # the same in all of the batch
        tokens = jnp.where(count < size, tokens, jnp.roll(tokens, -1, 1))
        at = jnp.minimum(count, size - 1)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], at, 1)
        logits = jax.lax.dynamic_index_in_dim(predict(tokens), at, 1, keepdims=False)
        return logits, (tokens, position + 1)

    return step, (tokens, jnp.full(batch, known.shape[1])), prompt[:, -1]


BY_POSITION = (
    dense,
    embedding,
    Pointwise,
    layer_norm,
    rms_norm,
    identity,
    add,
    select,
    serial,
    fork,
    parallel,
    on,
    repeat,
    Compound,
)
"""Layers that take every position by itself, and those made of such."""


def from_network(
    network: Layer, params: Any, state: Any, prompt: Array, length: int
) -> tuple[Step, Any, Array]:
    """(step, carry, first) as `from_sequence` has them, of a network whose attention has a cache.

    The carry holds the keys and values of what there has been: every step computes those of one
    token alone, and the tokens are those of ``from_sequence(predict, prompt, length)``. The prompt
    is read in one pass.

    Args:
        network: Of tokens [batch, time], with causal self-attention, `positional_embedding` and
            layers that take every position by itself.
        params: Those of the network.
        state: Its state, without arrays.
        prompt: [batch, at least 1], the tokens to go on from.
        length: How many tokens will be decoded, at most.

    Raises:
        ValueError: a layer may look at other positions and is no causal self-attention; the network
            has a state; more positions are needed than are learned.
    """
    _require_prompt("from_network", prompt, length)
    if jax.tree.leaves(state):
        raise ValueError("from_network: expected a network without state, such as batch norm has")
    size = prompt.shape[1] - 1 + length
    cached = rewrite(in_inference_mode(network), partial(_with_cache, size))
    one = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    _, empty = jax.eval_shape(cached.init, jax.random.key(0), one)
    batch = prompt.shape[0]
    # Each example has a state of its own, so that every array of the carry has the batch first.
    carry = jax.tree.map(lambda a: jnp.zeros((batch, *a.shape), a.dtype), empty)

    @jax.vmap
    def read(carry: Any, tokens: Array):
        logits, carry, _ = cached.forward(params, carry, tokens[None], None)
        return logits[0, -1], carry

    if prompt.shape[1] > 1:
        _, carry = read(carry, prompt[:, :-1].astype(jnp.int32))
    return lambda carry, token: read(carry, token[:, None]), carry, prompt[:, -1]


def _with_cache(size: int, path: str, layer: Layer) -> Layer:
    found = with_cache(layer, size)
    # The last axis of a sequence is that of the features, of which a softmax may be.
    over_features = isinstance(layer, softmax | log_softmax) and layer.axis in (-1, 2)
    if found is layer and not isinstance(layer, BY_POSITION) and not over_features:
        raise ValueError(
            "from_network: expected causal self-attention and layers that take every position by "
            f"itself, got {label(path, layer)}; from_sequence takes any causal network"
        )
    return found


def _require_prompt(where: str, prompt: Any, length: Any) -> None:
    require_positive_integer(where, "length", length)
    require_array(where, "prompt", prompt)
    if len(prompt.shape) != 2 or prompt.shape[1] == 0:
        raise ValueError(
            f"{where}: expected prompt to be [batch, at least one token], "
            f"got shape {tuple(prompt.shape)}"
        )


def _decode(
    where: str,
    step: Step,
    carry: Any,
    first: Array,
    length: int,
    stop: int | None,
    score: Callable[[Array, Array], Array],
) -> Array:
    """The token with the largest ``score(logits, number of the step)`` at every step."""
    _require_start(where, carry, first, length, stop)
    first = first.astype(jnp.int32)
    _logits_of(where, step, carry, first, stop)

    def body(state: tuple, number: Array):
        carry, token, ended = state
        logits, carry = step(carry, token)
        token = jnp.argmax(score(logits, number), -1).astype(jnp.int32)
        if stop is not None:
            token = jnp.where(ended, stop, token)
            ended = token == stop
        return (carry, token, ended), token

    start = (carry, first, jnp.zeros(first.shape, bool))
    _, tokens = jax.lax.scan(body, start, jnp.arange(length))
    return tokens.T


def _require_start(where: str, carry: Any, first: Any, length: Any, stop: Any) -> None:
    require_positive_integer(where, "length", length)
    require_array(where, "first", first)
    if len(first.shape) != 1 or not jnp.issubdtype(first.dtype, jnp.integer):
        raise ValueError(
            f"{where}: expected first to be integer tokens of shape [batch], "
            f"got {first.dtype} of shape {tuple(first.shape)}"
        )
    batch_size(where, (carry, first))
    if stop is not None:
        require_integer(where, "stop", stop, 0)


def _logits_of(where: str, step: Step, carry: Any, first: Array, stop: int | None) -> Any:
    """The shape of what ``step`` returns, which must be logits for every token and a like carry."""
    logits, after = jax.eval_shape(step, carry, first)
    before = jax.tree.map(lambda a: (a.shape, a.dtype), carry)
    if before != jax.tree.map(lambda a: (a.shape, a.dtype), after):
        raise ValueError(f"{where}: expected step to return a carry like the one it is given")
    if len(logits.shape) != 2 or logits.shape[0] != first.shape[0]:
        raise ValueError(
            f"{where}: expected step to return logits [{first.shape[0]}, vocabulary], "
            f"got shape {logits.shape}"
        )
    if stop is not None and stop >= logits.shape[1]:
        raise ValueError(
            f"{where}: expected stop to lie below {logits.shape[1]}, the vocabulary, got {stop}"
        )
    return logits
