"""Layers that are linear in their parameters."""

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import L, array, as_written, index, partial, same, total
from jaxnn.core.captures import LinearCapture

n, m = index("n", 2), index("m", 2)
i, l = index("i", 3), index("l", 3)  # noqa: E741
j, k = index("j", 2), index("k", 2)
x, W, b = array("x", n, i), array("W", i, j), array("b", j)
y, delta = array("y", n, j), array(r"\delta", n, j)

h, o = index("i", 2), index("k", 2)
first, second = array("a", n, h), array("b", n, j)
V, c, S = array("W", h, j, o), array("c", o), array("S", n, h, j)
z, zeta = array("y", n, o), array(r"\delta", n, o)
p = index("l", 2)

with as_written():
    forward = nn.dense.forward
    dx, dW, db = partial(L, x[n, i]), partial(L, W[i, j]), partial(L, b[j])

    def _dense(x, W, b, dy):
        layer = nn.dense(2)
        out, into, gradient = passes(layer, {"weight": W, "bias": b}, x, dy)
        return {y[n, j]: out, dx: into, dW: gradient["weight"], db: gradient["bias"]}

    dense = Derivation(
        title="dense",
        arrays={"x": x, "W": W, "b": b, "dy": delta},
        forward=(
            (
                y[n, j],
                Step(
                    total(x[n, i] * W[i, j], i) + b[j],
                    "every feature of y is a weighted sum of those of x",
                    Code(nn.dense.forward, "y = x @ weight"),
                ),
            ),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                dx,
                Step(
                    total(partial(L, y[m, j]) * partial(y[m, j], x[n, i]), m, j),
                    "the chain rule: x moves L through every element of y",
                ),
                Step(
                    total(delta[m, j] * same(m, n) * W[i, j], m, j),
                    "y is linear in x, and an example moves its own row alone",
                ),
                Step(
                    total(delta[n, j] * W[i, j], j),
                    "one term of the sum over examples is left: a product with the transposed W",
                    Code(nn.dense.backward, 'dy @ params["weight"].T'),
                ),
            ),
            Chain(
                dW,
                Step(
                    total(partial(L, y[n, k]) * partial(y[n, k], W[i, j]), n, k),
                    "the chain rule: all examples share the weight",
                ),
                Step(total(delta[n, k] * x[n, i] * same(k, j), n, k), "y is linear in W as well"),
                Step(
                    total(x[n, i] * delta[n, j], n),
                    "what is left is summed over the examples: the transposed input times δ",
                    Code(
                        LinearCapture.gradient,
                        "weight = contract_small_rows(self.inputs, self.deltas)",
                    ),
                ),
            ),
            Chain(
                db,
                Step(total(partial(L, y[n, k]) * partial(y[n, k], b[j]), n, k), "the chain rule"),
                Step(
                    total(delta[n, j], n),
                    "∂y/∂b is 1 in its own feature and 0 in others",
                    Code(LinearCapture.gradient, "sum_rows(self.deltas)"),
                ),
            ),
        ),
        computed=_dense,
    )

    da, db_, dV = partial(L, first[n, h]), partial(L, second[n, j]), partial(L, V[h, j, o])
    dc = partial(L, c[o])

    def _bilinear(a, b, W, c, dy):
        out, into, gradient = passes(nn.bilinear(2), {"weight": W, "bias": c}, (a, b), dy)
        return {
            z[n, o]: out,
            da: into[0],
            db_: into[1],
            dV: gradient["weight"],
            dc: gradient["bias"],
        }

    bilinear = Derivation(
        title="bilinear",
        arrays={"a": first, "b": second, "W": V, "c": c, "dy": zeta},
        forward=(
            (
                z[n, o],
                Step(
                    total(first[n, h] * V[h, j, o] * second[n, j], h, j) + c[o],
                    "every feature of y has a matrix of its own between a and b",
                    Code(nn.bilinear.forward, '_product("...i,ijk->...jk", a, weight)'),
                ),
            ),
            (
                S[n, h, j],
                Step(
                    total(V[h, j, o] * zeta[n, o], o),
                    "for the way back: for each example one matrix, the sum of those by its deltas",
                    Code(nn.bilinear.backward, '_product("...k,ijk->...ij", dy, params["weight"])'),
                ),
            ),
        ),
        deltas={z: zeta},
        chains=(
            Chain(
                da,
                Step(total(zeta[n, o] * partial(z[n, o], first[n, h]), o), "the chain rule"),
                Step(
                    total(zeta[n, o] * V[h, j, o] * second[n, j], j, o),
                    "y is linear in a, while b stands still",
                ),
                Step(
                    total(S[n, h, j] * second[n, j], j),
                    "S b",
                    Code(nn.bilinear.backward, '_product("...ij,...j->...i", s, b)'),
                ),
            ),
            Chain(
                db_,
                Step(total(zeta[n, o] * partial(z[n, o], second[n, j]), o), "the chain rule"),
                Step(
                    total(S[n, h, j] * first[n, h], h),
                    "and linear in b: Sᵀ a",
                    Code(nn.bilinear.backward, '_product("...ij,...i->...j", s, a)'),
                ),
            ),
            Chain(
                dV,
                Step(
                    total(zeta[n, p] * partial(z[n, p], V[h, j, o]), n, p),
                    "the chain rule",
                ),
                Step(
                    total(first[n, h] * second[n, j] * zeta[n, o], n),
                    "that of a dense layer whose inputs are the products of a and b",
                    Code(
                        nn.BilinearCapture.linear,
                        '_product("...i,...j->...ij", first, second)',
                    ),
                ),
            ),
            Chain(
                dc,
                Step(total(zeta[n, p] * partial(z[n, p], c[o]), n, p), "the chain rule"),
                Step(total(zeta[n, o], n), "as for dense"),
            ),
        ),
        computed=_bilinear,
    )

DERIVATIONS = (dense, bilinear)
