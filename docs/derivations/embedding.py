"""Tables of vectors, and the layer that is linear in each of two inputs."""

import sympy

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import (
    L,
    array,
    as_written,
    index,
    indicator,
    largest,
    partial,
    same,
    total,
)
from jaxnn.layers import embedding as module

n, t, s = index("n", 2), index("t", 3), index("s", 3)
v, f, g = index("v", 4), index("f", 2), index("g", 2)
ids, W = array("x", n, t), array("W", v, f)
y, delta = array("y", n, t, f), array(r"\delta", n, t, f)
weights = array("w", n, t)
bag, bag_delta = array("y", n, f), array(r"\delta", n, f)
count, winner = array("c", n), array("a", n, f)
REPEATED = [[2, 0, 2], [1, 2, 1]]
PADDED = [[2, 0, 2], [1, 3, 1]]  # 3 is the id that is passed over

with as_written():
    dW, dw = partial(L, W[v, f]), partial(L, weights[n, t])

    def _embedding(x, W, dy):
        out, _, gradient = passes(nn.embedding(4, 2), {"weight": W}, x, dy)
        return {y[n, t, f]: out, dW: gradient["weight"]}

    embedding = Derivation(
        title="embedding",
        arrays={"x": ids, "W": W, "dy": delta},
        fixed={ids: REPEATED},
        forward=(
            (
                y[n, t, f],
                Step(
                    total(same(ids[n, t], v) * W[v, f], v),
                    "a dense layer on vectors that are 1 at the id and 0 elsewhere",
                ),
            ),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                y[n, t, f],
                Step(
                    W[ids[n, t], f],
                    "of which one term is left: the row is looked up",
                    Code(module._Table.look_up, 'params["weight"].at[ids]'),
                ),
            ),
            Chain(
                dW,
                Step(
                    total(partial(L, y[n, t, g]) * partial(y[n, t, g], W[v, f]), n, t, g),
                    "the chain rule: a row moves L at every position where its id stands",
                ),
                Step(
                    total(delta[n, t, f] * same(ids[n, t], v), n, t),
                    "an id that occurs several times has the sum, one that does not occur has 0",
                    Code(
                        nn.EmbeddingCapture.gradient,
                        "rows.astype(sum_dtype(rows.dtype)), self.ids.reshape(-1), self.vocabulary",
                    ),
                ),
            ),
        ),
        computed=_embedding,
    )

    def _bag_of(mode):
        def computed(x, W, dy, **more):
            into = (x, more["w"]) if more else x
            out, dx, gradient = passes(nn.embedding_bag(4, 2, mode, 3), {"weight": W}, into, dy)
            found = {bag[n, f]: out, dW: gradient["weight"]}
            return found | ({dw: dx[1]} if more else {})

        return computed

    known = indicator(sympy.Ne(ids[n, t], 3))

    bag_of_weights = Derivation(
        title="embedding_bag",
        arrays={"x": ids, "w": weights, "W": W, "dy": bag_delta},
        fixed={ids: REPEATED},
        forward=(
            (
                bag[n, f],
                Step(
                    total(weights[n, t] * W[ids[n, t], f], t),
                    "mode “sum”, with a weight for each id of the bag",
                    Code(nn.embedding_bag.forward, "rows * self._shares(known, weights)"),
                ),
            ),
        ),
        deltas={bag: bag_delta},
        chains=(
            Chain(
                dW,
                Step(
                    total(partial(L, bag[n, g]) * partial(bag[n, g], W[v, f]), n, g),
                    "the chain rule",
                ),
                Step(
                    total(weights[n, t] * bag_delta[n, f] * same(ids[n, t], v), n, t),
                    "all positions of a bag share its delta, each by its weight",
                    Code(nn.embedding_bag.backward, "wide * self._shares(known, weights)"),
                ),
            ),
            Chain(
                dw,
                Step(
                    total(bag_delta[n, f] * partial(bag[n, f], weights[n, t]), f), "the chain rule"
                ),
                Step(
                    total(W[ids[n, t], f] * bag_delta[n, f], f),
                    "a weight moves L by how well its row and the delta fit",
                    Code(nn.embedding_bag.backward, "self._rows(params, ids, known) * wide"),
                ),
            ),
        ),
        computed=_bag_of("sum"),
    )

    bag_of_means = Derivation(
        title="embedding_bag",
        arrays={"x": ids, "W": W, "dy": bag_delta},
        fixed={ids: PADDED},
        forward=(
            (count[n], Step(total(known, t), "the ids that are not padding, 3 here")),
            (
                bag[n, f],
                Step(
                    total(known * W[ids[n, t], f], t) / count[n],
                    "mode “mean”",
                    Code(
                        nn.embedding_bag._shares,
                        "known / jnp.maximum(jnp.sum(known, -2, keepdims=True), 1)",
                    ),
                ),
            ),
        ),
        deltas={bag: bag_delta},
        chains=(
            Chain(
                dW,
                Step(
                    total(partial(L, bag[n, g]) * partial(bag[n, g], W[v, f]), n, g),
                    "the chain rule",
                ),
                Step(
                    total(known * same(ids[n, t], v) * bag_delta[n, f] / count[n], n, t),
                    "an equal share for each; the row of the padding gets none",
                    Code(nn.embedding_bag.backward, "jnp.where(known, ids, -1)[..., 0]"),
                ),
            ),
        ),
        computed=_bag_of("mean"),
    )

    bag_of_maxima = Derivation(
        title="embedding_bag",
        arrays={"x": ids, "W": W, "dy": bag_delta},
        fixed={ids: [[2, 0, 1], [1, 2, 0]]},
        forward=(
            (
                bag[n, f],
                Step(
                    largest(W[ids[n, t], f], t),
                    "mode “max”, feature by feature",
                    Code(module._first_largest, "jnp.argmax(jnp.where(known, rows, -jnp.inf), -2)"),
                ),
            ),
            (
                winner[n, f],
                Step(total(t * same(W[ids[n, t], f], bag[n, f]), t), "which position has it"),
            ),
        ),
        deltas={bag: bag_delta},
        chains=(
            Chain(
                dW,
                Step(
                    total(partial(L, bag[n, g]) * partial(bag[n, g], W[v, f]), n, g),
                    "the chain rule",
                ),
                Step(
                    total(same(ids[n, t], v) * same(t, winner[n, f]) * bag_delta[n, f], n, t),
                    "the row that won the feature gets its delta",
                    Code(nn.embedding_bag.backward, "jnp.where(counted, wide, 0)"),
                ),
            ),
        ),
        computed=_bag_of("max"),
    )

DERIVATIONS = (embedding, bag_of_weights, bag_of_means, bag_of_maxima)
