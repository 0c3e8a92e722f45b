"""Attention, of one example and one head: queries t, keys s, depth d, depth of the values e."""

import numpy as np
import sympy

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import L, array, as_written, index, indicator, partial, same, total
from jaxnn.layers.attention import layer as module
from jaxnn.layers.attention import plain
from jaxnn.layers.attention.dot_products import Meeting, dot_products
from jaxnn.layers.attention.rotary import rotary as rotary_layer
from jaxnn.layers.attention.rotary import rotate

t, s, r = index("t", 2), index("s", 2), index("r", 2)
d, e = index("d", 2), index("e", 2)
q, k, v = array("q", t, d), array("k", s, d), array("v", s, e)
S, P, o = array("S", t, s), array("P", t, s), array("o", t, e)
delta = array(r"\delta", t, e)

# With the projections: features f of x, and one depth for queries, keys and values.
f, g, c = index("f", 2), index("g", 2), index("c", 2)
x, y, far = array("x", t, f), array("y", t, f), array(r"\delta", t, f)
Wq, Wk, Wv = (array(f"W^{name}", f, c) for name in "qkv")
Wo = array("W^o", c, f)
Q, K, V, O = array("q", t, c), array("k", s, c), array("v", s, c), array("o", t, c)  # noqa: E741

# Rotary positions: a pair of features, turned.
u = index("t", 3)
turned, given, back = array("y", u, 2), array("x", u, 2), array(r"\delta", u, 2)
ahead = index("s", 3)
key, turned_key = array("z", ahead, 2), array("w", ahead, 2)
meeting = array("m", u, ahead)

# Learned positions: of two examples n, two of three times.
n = index("n", 2)
X, Y, N = array("x", n, t, f), array("y", n, t, f), array(r"\delta", n, t, f)
table = array("p", ahead, f)


def _alone(a):
    """With the axes of batch, groups and heads."""
    return a[None, None, None]


with as_written():
    root = sympy.sqrt(sympy.Integer(2))
    power = sympy.exp
    dS, dP = partial(L, S[t, s]), partial(L, P[t, s])
    dq, dk, dv = partial(L, q[t, d]), partial(L, k[s, d]), partial(L, v[s, e])

    def seen(at):
        """[at ≤ t]."""
        return indicator(sympy.Le(at, t))

    def _attention(q, k, v, dy):
        x = Meeting(_alone(q), k[None, None], v[None, None])
        out, into, _ = passes(dot_products(causal=True), (), x, _alone(dy))
        return {
            o[t, e]: out[0, 0, 0],
            dq: into.q[0, 0, 0],
            dk: into.k[0, 0],
            dv: into.v[0, 0],
        }

    attention = Derivation(
        title="attention",
        arrays={"q": q, "k": k, "v": v, "dy": delta},
        forward=(
            (
                S[t, s],
                Step(
                    total(q[t, d] * k[s, d], d) / root,
                    "the scores: how well key s answers query t, divided by the root of the depth, "
                    "2 here",
                    Code(plain.scores_of, "with_keys(q * (1 / math.sqrt(q.shape[-1])), k)"),
                ),
            ),
            (
                P[t, s],
                Step(
                    seen(s) * power(S[t, s]) / total(seen(r) * power(S[t, r]), r),
                    "the weights: a softmax over the keys up to the query; the others get 0",
                    Code(plain.attend, "jnp.where(visible, scores, -jnp.inf)"),
                ),
            ),
            (
                o[t, e],
                Step(
                    total(P[t, s] * v[s, e], s),
                    "a mean of the values, by these weights",
                    Code(plain.attend, "over_keys(thin(noise, rate, powers), v) / total"),
                ),
            ),
        ),
        deltas={o: delta},
        chains=(
            Chain(
                dv,
                Step(
                    total(delta[t, e] * partial(o[t, e], v[s, e], P), t),
                    "the chain rule: a value moves the output of every query that sees it",
                ),
                Step(
                    total(P[t, s] * delta[t, e], t),
                    "o is linear in v: Pᵀ δ. The code has P as powers over their sum, and "
                    "divides δ by that sum",
                    Code(plain.attend_backward, "over_queries(do, thin(noise, rate, powers)).mT"),
                ),
            ),
            Chain(
                dP,
                Step(
                    total(delta[t, e] * v[s, e], e),
                    "and linear in P: δ vᵀ",
                    Code(plain.attend_backward, "thin(noise, rate, with_keys(do, v))"),
                ),
            ),
            Chain(
                partial(P[t, r], S[t, s]),
                Step(
                    P[t, s] * (same(r, s) - P[t, r]),
                    "the Jacobian of a softmax, row by row. Of a hidden key P is 0, and so are its "
                    "row and column",
                ),
            ),
            Chain(
                dS,
                Step(
                    total(partial(L, P[t, r]) * partial(P[t, r], S[t, s]), r),
                    "the chain rule: a score moves all weights of its query",
                ),
                Step(
                    P[t, s] * (dP - total(P[t, r] * partial(L, P[t, r]), r)),
                    "the Jacobian, multiplied out",
                ),
                Step(
                    P[t, s] * (dP - total(o[t, e] * delta[t, e], e)),
                    "Σ P ∂L/∂P is o · δ, for o is Σ P v: one number for each query",
                    Code(plain.attend_backward, "dscores = powers * (dpowers - along)"),
                ),
            ),
            Chain(
                dq,
                Step(total(dS * partial(S[t, s], q[t, d]), s), "through all its scores"),
                Step(
                    total(dS * k[s, d], s) / root,
                    "S is linear in q",
                    Code(plain.attend_backward, "over_keys(dscores, k * scale)"),
                ),
            ),
            Chain(
                dk,
                Step(total(dS * partial(S[t, s], k[s, d]), t), "and so for a key"),
                Step(
                    total(dS * q[t, d], t) / root,
                    "S is linear in k",
                    Code(plain.attend_backward, "over_queries(q * scale, dscores).mT"),
                ),
            ),
        ),
        computed=_attention,
    )

    dx, dO = partial(L, x[t, f]), partial(L, O[t, c])
    dWq, dWk, dWv = (partial(L, W[f, c]) for W in (Wq, Wk, Wv))
    dWo = partial(L, Wo[c, f])

    def _self_attention(x, Wq, Wk, Wv, Wo, dy):
        names = ("query", "key", "value", "output")
        params = {n: {"weight": W} for n, W in zip(names, (Wq, Wk, Wv, Wo), strict=True)}
        out, into, gradient = passes(
            nn.attention(1, depth=2, use_bias=False), params, x[None], dy[None]
        )
        weights = dict(zip((dWq, dWk, dWv, dWo), names, strict=True))
        return {y[t, f]: out[0], dx: into[0]} | {
            dW: gradient[name]["weight"] for dW, name in weights.items()
        }

    self_attention = Derivation(
        title="attention",
        arrays={"x": x, "Wq": Wq, "Wk": Wk, "Wv": Wv, "Wo": Wo, "dy": far},
        forward=(
            (Q[t, c], Step(total(x[t, f] * Wq[f, c], f), "what each position asks for")),
            (K[s, c], Step(total(x[s, f] * Wk[f, c], f), "what it answers to")),
            (V[s, c], Step(total(x[s, f] * Wv[f, c], f), "and what it says")),
            (
                P[t, s],
                Step(
                    power(total(Q[t, c] * K[s, c], c) / root)
                    / total(power(total(Q[t, c] * K[r, c], c) / root), r),
                    "as above, here without a mask",
                ),
            ),
            (O[t, c], Step(total(P[t, s] * V[s, c], s))),
            (
                y[t, f],
                Step(
                    total(O[t, c] * Wo[c, f], c),
                    "back to the features of x",
                    Code(nn.attention.forward, 'project(params["output"], o)'),
                ),
            ),
        ),
        deltas={y: far},
        chains=(
            Chain(
                dx,
                Step(
                    total(
                        partial(L, Q[t, c]) * Wq[f, c]
                        + partial(L, K[t, c]) * Wk[f, c]
                        + partial(L, V[t, c]) * Wv[f, c],
                        c,
                    ),
                    "a position moves L as a query, as a key and as a value: the sum of three "
                    "dense layers' dx",
                    Code(nn.attention.backward, "dqueries, by_key + by_value"),
                ),
            ),
            Chain(
                dWo,
                Step(
                    total(far[t, g] * partial(y[t, g], Wo[c, f], O), t, g),
                    "the chain rule, at the end of the layer: what the heads say stays as it is",
                ),
                Step(
                    total(O[t, c] * far[t, f], t),
                    "a dense layer whose input is o and whose delta is δ",
                    Code(module._project_backward, 'LinearCapture(x, dy, "bias" in params)'),
                ),
            ),
            Chain(
                dO,
                Step(total(far[t, f] * partial(y[t, f], O[t, c]), f), "o moves its own y alone"),
                Step(
                    total(far[t, f] * Wo[c, f], f),
                    "the transposed W: this is the δ of the derivation above, which makes of it "
                    "the deltas of q, k and v",
                ),
            ),
            Chain(
                dWq,
                Step(
                    total(partial(L, Q[t, e]) * partial(Q[t, e], Wq[f, c]), t, e),
                    "the chain rule: a weight moves the queries of all positions",
                ),
                Step(total(x[t, f] * partial(L, Q[t, c]), t), "and q is linear in it: xᵀ ∂L/∂q"),
            ),
            Chain(
                dWk,
                Step(
                    total(partial(L, K[s, e]) * partial(K[s, e], Wk[f, c]), s, e),
                    "the keys of all positions",
                ),
                Step(total(x[s, f] * partial(L, K[s, c]), s), "xᵀ ∂L/∂k"),
            ),
            Chain(
                dWv,
                Step(
                    total(partial(L, V[s, e]) * partial(V[s, e], Wv[f, c]), s, e),
                    "the values of all positions",
                ),
                Step(total(x[s, f] * partial(L, V[s, c]), s), "xᵀ ∂L/∂v"),
            ),
        ),
        computed=_self_attention,
    )

    first, second = partial(L, given[u, 0]), partial(L, given[u, 1])

    def _rotary(x, dy):
        out, into, _ = passes(rotary_layer(), (), (x[None], np.asarray(0)), dy[None])
        return {
            **{turned[u, 0]: out[0], turned[u, 1]: out[0]},
            **{first: into[0][0], second: into[0][0]},
        }

    def _turned(at, a, b):
        """Both features of a pair turned by the angle of a position."""
        return a * sympy.cos(at) - b * sympy.sin(at), a * sympy.sin(at) + b * sympy.cos(at)

    one, two = _turned(u, given[u, 0], given[u, 1])
    near, far_ = _turned(ahead, key[ahead, 0], key[ahead, 1])

    rotary = Derivation(
        title="rotary",
        arrays={"x": given, "dy": back},
        forward=(
            (
                turned[u, 0],
                Step(one, "", Code(rotate, "first * cos - second * sin")),
            ),
            (
                turned[u, 1],
                Step(two, "", Code(rotate, "first * sin + second * cos")),
            ),
            (turned_key[ahead, 0], Step(near, "a key z at position s, turned likewise")),
            (turned_key[ahead, 1], Step(far_)),
            (
                meeting[u, ahead],
                Step(
                    turned[u, 0] * turned_key[ahead, 0] + turned[u, 1] * turned_key[ahead, 1],
                    "how the two meet in a score",
                ),
            ),
        ),
        deltas={turned: back},
        chains=(
            Chain(
                first,
                Step(
                    back[u, 0] * partial(turned[u, 0], given[u, 0])
                    + back[u, 1] * partial(turned[u, 1], given[u, 0]),
                    "the chain rule: each feature moves both of the pair",
                ),
                Step(
                    back[u, 0] * sympy.cos(u) + back[u, 1] * sympy.sin(u),
                    "the first row of the transposed matrix",
                ),
                Step(
                    back[u, 0] * sympy.cos(-u) - back[u, 1] * sympy.sin(-u),
                    "cos is even and sin is odd: a turn by −t",
                    Code(rotary_layer.pull_back, "rotate(dy, -1, self._turning, residuals)"),
                ),
            ),
            Chain(
                second,
                Step(
                    back[u, 0] * partial(turned[u, 0], given[u, 1])
                    + back[u, 1] * partial(turned[u, 1], given[u, 1]),
                    "the same for the second feature",
                ),
                Step(
                    back[u, 0] * sympy.sin(-u) + back[u, 1] * sympy.cos(-u),
                    "the second row",
                ),
            ),
            Chain(
                meeting[u, ahead],
                Step(
                    (given[u, 0] * key[ahead, 0] + given[u, 1] * key[ahead, 1])
                    * sympy.cos(ahead - u)
                    + (given[u, 1] * key[ahead, 0] - given[u, 0] * key[ahead, 1])
                    * sympy.sin(ahead - u),
                    "why it is done: the score depends on where both stand through their distance "
                    "s − t alone",
                ),
            ),
        ),
        computed=_rotary,
    )

    dX, dtable = partial(L, X[n, t, f]), partial(L, table[ahead, f])
    m, b = index("m", 2), index("b", 2)

    def _positions(x, p, dy):
        layer = nn.positional_embedding("learned", 3)
        out, into, gradient = passes(layer, {"weight": p}, x, dy)
        return {Y[n, t, f]: out, dX: into, dtable: gradient["weight"]}

    positional_embedding = Derivation(
        title="positional_embedding",
        arrays={"x": X, "p": table, "dy": N},
        forward=(
            (
                Y[n, t, f],
                Step(
                    X[n, t, f] + table[t, f],
                    "a vector for each position, added",
                    Code(
                        nn.positional_embedding.forward, "x + self.vectors(params, x.shape[1], x)"
                    ),
                ),
            ),
        ),
        deltas={Y: N},
        chains=(
            Chain(
                dX,
                Step(
                    N[n, t, f],
                    "a sum passes the delta on",
                    Code(
                        nn.positional_embedding.backward,
                        "dy, EmbeddingCapture(ids, dy, self.length)",
                    ),
                ),
            ),
            Chain(
                dtable,
                Step(
                    total(N[m, t, b] * partial(Y[m, t, b], table[ahead, f]), m, t, b),
                    "the chain rule",
                ),
                Step(
                    total(N[m, t, f] * same(t, ahead), m, t),
                    "every example adds its delta to the vector of the position; a vector "
                    "beyond the end of x gets 0",
                    Code(nn.positional_embedding.backward, "jnp.arange(dy.shape[1])"),
                ),
            ),
        ),
        computed=_positions,
    )

DERIVATIONS = (attention, self_attention, rotary, positional_embedding)
