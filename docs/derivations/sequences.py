"""Losses of sequences: labels without places in time, and positions of which some are padding."""

import itertools

import numpy as np
from sympy import exp, log

import jaxnn as nn
from docs.derivations.computing import losses
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import (
    L,
    array,
    as_written,
    index,
    indicator,
    number,
    partial,
    same,
    total,
)
from jaxnn.losses import ctc as of_ctc
from jaxnn.losses import sequences

LABELS, TIMES, CLASSES = (1, 2), 3, 3
STATES = (0, 1, 0, 2, 0)
"""The labels with blanks, 0, before, between and behind them."""


def read(path: tuple[int, ...]) -> tuple[int, ...]:
    """What is left of a path when repeats are merged and then blanks removed."""
    merged = [k for k, _ in itertools.groupby(path)]
    return tuple(k for k in merged if k != 0)


t, s, r = index("t", TIMES), index("s", len(STATES)), index("r", len(STATES))
j, k = index("j", CLASSES), index("k", CLASSES)
paths = [index(f"k_{time}", CLASSES) for time in range(TIMES)]
z, p, of_path = array("z", t, k), array("p", t, k), array("R", *paths)
alpha, beta = array(r"\alpha", TIMES + 1, s), array(r"\beta", TIMES + 1, s)
occupied, state, skip = array(r"\gamma", t, s), array("l'", s), array("a", s)
ahead = array("b", t, s)
P = number("P")

READS = np.array([read(path) == LABELS for path in itertools.product(range(CLASSES), repeat=TIMES)])

n, i, f, u, v = index("n", 2), index("i", 2), index("f", 2), index("u", TIMES), index("v", TIMES)
y, target, l = array("y", n, v, f), array("t", n, v, f), array("l", n, v)  # noqa: E741
length, mask, loss, real = array("T", n), array("m", n, v), array(r"\ell", n), array("r", n)

with as_written():
    by_logit = partial(L, z[t, k])

    def _ctc(z):
        value, slope = losses(nn.ctc(), z[None], np.array([LABELS]))
        return {L: value[0], by_logit: slope[0]}

    of_state = alpha[t + 1, s] * beta[t + 1, s]
    ctc = Derivation(
        title="ctc",
        arrays={"z": z},
        forward=(
            (
                p[t, k],
                Step(exp(z[t, k]) / total(exp(z[t, j]), j), "the probability of class k at time t"),
            ),
            (
                alpha[0, s],
                Step(same(s, 0), "before the first time, the path stands in the first state"),
            ),
            (
                alpha[t + 1, s],
                Step(
                    (alpha[t, s] + alpha[t, s - 1] + skip[s] * alpha[t, s - 2]) * p[t, state[s]],
                    "forward: it stays, goes on by one state or, if a is 1, over a blank; then the "
                    "class of the state is emitted",
                    Code(
                        of_ctc._forward,
                        "jnp.logaddexp(jnp.logaddexp(alpha, one), two)",
                    ),
                ),
            ),
            (
                P,
                Step(
                    alpha[TIMES, len(STATES) - 1] + alpha[TIMES, len(STATES) - 2],
                    "at the end it is in the last label or in the blank behind it",
                    Code(of_ctc._forward, "jax.nn.logsumexp(last + trellis.ends, -1)"),
                ),
            ),
            (L, Step(-log(P), "the loss", Code(of_ctc._loss, "-log_p"))),
            (
                beta[TIMES, s],
                Step(same(s, len(STATES) - 1) + same(s, len(STATES) - 2), "where it may end"),
            ),
            (
                ahead[t, s],
                Step(beta[t + 1, s] * p[t, state[s]], "its class emitted, and what follows"),
            ),
            (
                beta[t, s],
                Step(
                    ahead[t, s] + ahead[t, s + 1] + skip[s + 2] * ahead[t, s + 2],
                    "backward: what can still follow, of a path that stays, goes on or skips",
                    Code(of_ctc._occupied, "jnp.logaddexp(jnp.logaddexp(ahead, one), two)"),
                ),
            ),
            (
                occupied[t, s],
                Step(
                    of_state / P,
                    "the probability that the path is in s at t, of all that read as the labels",
                    Code(
                        of_ctc._occupied, "jnp.exp(jnp.minimum(alpha + beta - log_p[:, None], 0))"
                    ),
                ),
            ),
        ),
        chains=(
            Chain(
                P,
                Step(
                    total(
                        of_path[tuple(paths)] * (p[0, paths[0]] * p[1, paths[1]] * p[2, paths[2]]),
                        *paths,
                    ),
                    "the sum over all 27 paths, with R = 1 for those that read as the labels",
                ),
            ),
            Chain(
                total(of_state, s),
                Step(P, "at any time: in some state the path must be"),
            ),
            Chain(
                partial(P, p[t, k]),
                Step(
                    total(same(state[s], k) * (of_state / p[t, k]), s),
                    "in P, as the sum above, a state with class k has the factor p once, in α",
                ),
            ),
            Chain(
                by_logit,
                Step(
                    -(total(partial(P, p[t, j]) * partial(p[t, j], z[t, k]), j) / P),
                    "the chain rule, by way of the probabilities",
                ),
                Step(
                    -total(
                        same(state[s], j)
                        * (occupied[t, s] / p[t, j])
                        * (p[t, j] * (same(j, k) - p[t, k])),
                        s,
                        j,
                    ),
                    "the line above, divided by P, and the derivative of softmax",
                ),
                Step(
                    -total(occupied[t, s] * (same(state[s], k) - p[t, k]), s),
                    "p cancels, and every state has one class",
                ),
                Step(
                    p[t, k] - total(same(state[s], k) * occupied[t, s], s),
                    "the states' probabilities sum to 1: what was said, less what the labels allow",
                    Code(of_ctc.ctc._both, "jax.nn.softmax(wide(prediction)) - reached"),
                ),
            ),
        ),
        computed=_ctc,
        fixed={
            state: STATES,
            skip: (0, 0, 0, 1, 0),
            of_path: READS.reshape((CLASSES,) * TIMES).astype(int),
        },
    )

    by_output = partial(loss[n], y[n, u, i])

    def _sequence(y, target, lengths):
        of_positions = nn.sequence_loss(nn.half_squared_error())
        value, slope = losses(of_positions, y, (target, lengths))
        return {loss[n]: value, by_output: slope}

    sequence_loss = Derivation(
        title="sequence_loss",
        arrays={"y": y, "target": target, "lengths": length},
        forward=(
            (
                l[n, v],
                Step(
                    total((y[n, v, f] - target[n, v, f]) ** 2, f) / 2,
                    "any loss of one position v; here half_squared_error",
                ),
            ),
            (
                mask[n, v],
                Step(
                    indicator(v < length[n]),
                    "1 at the first T positions of the example",
                    Code(sequences.read_target, "jnp.arange(time) < real[:, None]"),
                ),
            ),
            (real[n], Step(total(mask[n, v], v), "how many are real")),
            (
                loss[n],
                Step(
                    total(mask[n, v] * l[n, v], v) / real[n],
                    "their mean: a long example counts as much as a short one",
                    Code(nn.sequence_loss.value, "jnp.sum(values * shares, 1)"),
                ),
            ),
        ),
        chains=(
            Chain(
                by_output,
                Step(
                    total(mask[n, v] * partial(l[n, v], y[n, u, i]), v) / real[n],
                    "the chain rule; the mask does not depend on y",
                ),
                Step(
                    mask[n, u] / real[n] * (y[n, u, i] - target[n, u, i]),
                    "a position moves its own loss alone, and padding nothing",
                    Code(nn.sequence_loss.gradient, "delta * over(shares, delta.ndim)"),
                ),
            ),
        ),
        computed=_sequence,
        fixed={length: (3, 1)},
    )
