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

DERIVATIONS = (dense,)
