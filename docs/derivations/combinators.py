"""Layers made of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import sympy

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import (
    L,
    array,
    as_written,
    index,
    partial,
    total,
)

n = index("n", 2)
i, l = index("i", 2), index("l", 2)  # noqa: E741
j, k = index("j", 2), index("k", 2)
x, z, y, delta = array("x", i), array("z", j), array("y", k), array(r"\delta", k)
u, A, B = array("u", j), array("A", i, j), array("B", j, k)
C, residual = array("A", l, i), array("f", i)

a, b = array("a", i), array("b", i)
s, xi = array("y", i), array(r"\delta", i)
one, other = array("y", i), array("z", i)
of_one, of_other = array(r"\delta", i), array(r"\epsilon", i)
factors = array("x", 3, i)

# Copies m of a layer, one after the other.
m = index("m", 3)
h, V, top, of_top = array("h", 4, j), array("W", m, i, j), array("y", j), array(r"\delta", j)

W = array("W", i, j)
first, second = array("y", j), array("z", j)
of_first, of_second = array(r"\delta", j), array(r"\epsilon", j)

mask = array("m", n, i)
X, Y, D = array("x", n, i), array("y", n, i), array(r"\delta", n, i)
tanh = sympy.tanh


def _alone(*arrays):
    """Each with the axis of a batch of one."""
    return tuple(a[None] for a in arrays)


def _kept(rate):
    """What dropout leaves of an x of shape [2, 2], with the key 0, in float64."""
    with jax.enable_x64(True):
        drawn = nn.dropout(rate).forward((), (), jnp.ones((2, 2)), jax.random.key(0))[0]
        return (np.asarray(drawn) > 0).astype(int)


with as_written():
    dx, dA = partial(L, x[i]), partial(L, A[i, j])

    # The chain rule itself: x -> x A -> tanh -> times B.
    def _serial(x, A, B, dy):
        linear = nn.dense(2, use_bias=False)
        layer = nn.serial(linear, nn.tanh(), linear)
        params = ({"weight": A}, (), {"weight": B})
        out, into, gradient = passes(layer, params, x[None], dy[None], ((), (), ()))
        return {y[k]: out[0], dx: into[0], dA: gradient[0]["weight"]}

    serial = Derivation(
        title="serial",
        arrays={"x": x, "A": A, "B": B, "dy": delta},
        forward=(
            (u[j], Step(total(x[i] * A[i, j], i), "the first layer")),
            (z[j], Step(tanh(u[j]), "the second is given what the first returned")),
            (
                y[k],
                Step(
                    total(z[j] * B[j, k], j),
                    "and the third what the second returned",
                    Code(nn.serial.forward, "layer.forward(p, s, x, k)"),
                ),
            ),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                dx,
                Step(
                    total(delta[k] * partial(y[k], x[i]), k),
                    "the chain rule for the whole",
                ),
                Step(
                    total(
                        delta[k] * partial(y[k], z[j]) * partial(z[j], u[j]) * partial(u[j], x[i]),
                        k,
                        j,
                    ),
                    "and for each layer in it: a product of their Jacobians",
                ),
                Step(
                    total(
                        total(delta[k] * partial(y[k], z[j]), k)
                        * partial(z[j], u[j])
                        * partial(u[j], x[i]),
                        j,
                    ),
                    "multiplied from the left, where the delta stands: each layer's backward is "
                    "given a vector and returns one, and no Jacobian is ever made",
                    Code(nn.serial.backward, "back_through(layer, p, r, y, dy)"),
                ),
                Step(
                    total(total(delta[k] * B[j, k], k) * (1 - z[j] ** 2) * A[i, j], j),
                    "for these three layers",
                ),
            ),
            Chain(
                dA,
                Step(
                    total(partial(L, u[l]) * partial(u[l], A[i, j]), l),
                    "the chain rule, from the output of the layer on",
                ),
                Step(x[i] * partial(L, u[j]), "the first layer is linear in A"),
                Step(
                    x[i] * total(delta[k] * B[j, k], k) * (1 - z[j] ** 2),
                    "∂L/∂u is what stood before ∂u/∂x above: the delta that arrives at a layer is "
                    "also what its parameters need",
                ),
            ),
        ),
        computed=_serial,
    )

    da, db = partial(L, a[i]), partial(L, b[i])

    def _add(a, b, dy):
        out, into, _ = passes(nn.add(), (), _alone(a, b), dy[None])
        return {s[i]: out[0], da: into[0][0], db: into[1][0]}

    add = Derivation(
        title="add",
        arrays={"a": a, "b": b, "dy": xi},
        forward=((s[i], Step(a[i] + b[i], "", Code(nn.add.apply, "add_all(*x)"))),),
        deltas={s: xi},
        chains=(
            Chain(da, Step(xi[i], "a sum gives its delta to each of its terms, undivided")),
            Chain(
                db,
                Step(
                    xi[i], "to the other as well", Code(nn.add.pull_back, "(dy,) * residuals.value")
                ),
            ),
        ),
        computed=_add,
    )

    def _multiply(x, dy):
        out, into, _ = passes(nn.multiply(), (), _alone(*x), dy[None])
        return {s[i]: out[0]} | {
            partial(L, factors[at, i]): np.stack([d[0] for d in into]) for at in range(3)
        }

    multiply = Derivation(
        title="multiply",
        arrays={"x": factors, "dy": xi},
        forward=((s[i], Step(factors[0, i] * factors[1, i] * factors[2, i], "three factors")),),
        deltas={s: xi},
        chains=tuple(
            Chain(
                partial(L, factors[at, i]),
                Step(
                    xi[i] * factors[rest[0], i] * factors[rest[1], i],
                    "δ times the product of the others. It could be written as δ y / x, which "
                    "fails where x is 0"
                    if at == 0
                    else "",
                    Code(nn.multiply.pull_back, "functools.reduce(jnp.multiply, rest, dy)")
                    if at == 0
                    else None,
                ),
            )
            for at, rest in enumerate(((1, 2), (0, 2), (0, 1)))
        ),
        computed=_multiply,
    )

    def _fork(x, dy, dz):
        layer, nothing = nn.fork(nn.tanh(), nn.softplus()), ((), ())
        out, into, _ = passes(layer, nothing, x[None], _alone(dy, dz), nothing)
        return {one[i]: out[0][0], other[i]: out[1][0], dx: into[0]}

    fork = Derivation(
        title="fork",
        arrays={"x": x, "dy": of_one, "dz": of_other},
        forward=(
            (one[i], Step(tanh(x[i]), "one input")),
            (
                other[i],
                Step(
                    sympy.log(1 + sympy.exp(x[i])),
                    "given to several layers, here tanh and softplus",
                    Code(nn.fork.spread, "(x,) * len(self.layers)"),
                ),
            ),
        ),
        deltas={one: of_one, other: of_other},
        chains=(
            Chain(
                dx,
                Step(
                    total(
                        of_one[l] * partial(one[l], x[i]) + of_other[l] * partial(other[l], x[i]),
                        l,
                    ),
                    "the chain rule: x moves L through every layer that is given it",
                ),
                Step(
                    of_one[i] * (1 - one[i] ** 2) + of_other[i] / (1 + sympy.exp(-x[i])),
                    "with the slopes of tanh and softplus, the sum of what the layers return: a "
                    "fork is the transpose of a sum",
                    Code(nn.fork.join, "_sum(dx)"),
                ),
            ),
        ),
        computed=_fork,
    )

    def _skip(x, A, dy):
        layer = nn.skip(nn.dense(2, use_bias=False), nn.tanh())
        params, state = (((), ({"weight": A}, ())), ()), (((), ((), ())), ())
        out, into, _ = passes(layer, params, x[None], dy[None], state)
        return {s[i]: out[0], dx: into[0]}

    skip = Derivation(
        title="skip",
        arrays={"x": x, "A": C, "dy": xi},
        forward=(
            (residual[i], Step(tanh(total(x[l] * C[l, i], l)), "some layers, here dense and tanh")),
            (
                s[i],
                Step(
                    x[i] + residual[i],
                    "and x beside them",
                    Code(nn.skip.made.func, "serial(fork(identity(), self.layer), add())"),
                ),
            ),
        ),
        deltas={s: xi},
        chains=(
            Chain(
                dx,
                Step(total(xi[l] * partial(s[l], x[i]), l), "the chain rule"),
                Step(
                    xi[i] + total(xi[l] * partial(residual[l], x[i]), l),
                    "the delta itself, beside what the layers make of it: in a stack of many, one "
                    "term of dx is the delta of the top",
                ),
                Step(
                    xi[i] + total(xi[l] * (1 - residual[l] ** 2) * C[i, l], l),
                    "for these layers",
                ),
            ),
        ),
        computed=_skip,
    )

    dW = partial(L, W[i, j])
    di, dj = partial(L, a[i]), partial(L, b[i])

    def _share(a, b, W, dy, dz):
        layer = nn.share(nn.dense(2, use_bias=False))
        out, into, gradient = passes(layer, ({"weight": W},), _alone(a, b), _alone(dy, dz), ((),))
        return {
            first[j]: out[0][0],
            second[j]: out[1][0],
            di: into[0][0],
            dj: into[1][0],
            dW: gradient[0]["weight"],
        }

    share = Derivation(
        title="share",
        arrays={"a": a, "b": b, "W": W, "dy": of_first, "dz": of_second},
        forward=(
            (first[j], Step(total(a[i] * W[i, j], i), "one set of parameters")),
            (second[j], Step(total(b[i] * W[i, j], i), "used twice")),
        ),
        deltas={first: of_first, second: of_second},
        chains=(
            Chain(
                dW,
                Step(
                    total(
                        of_first[k] * partial(first[k], W[i, j])
                        + of_second[k] * partial(second[k], W[i, j]),
                        k,
                    ),
                    "the chain rule: W moves L through every use",
                ),
                Step(
                    a[i] * of_first[j] + b[i] * of_second[j],
                    "the sum of the uses, which are joined before anything is summed",
                    Code(nn.share.backward, "join(*captures)"),
                ),
            ),
            Chain(di, Step(total(W[i, j] * of_first[j], j), "each input has its own")),
            Chain(dj, Step(total(W[i, j] * of_second[j], j), "and so has the other")),
        ),
        computed=_share,
    )

    dh, dV = partial(L, h[m, i]), partial(L, V[m, i, j])

    def _repeat(x, W, dy):
        layer = nn.repeat(nn.dense(2, use_bias=False), 3)
        out, into, gradient = passes(layer, ({"weight": W},), x[None], dy[None], ((),))
        return {top[j]: out[0], dx: into[0], dV: gradient[0]["weight"]}

    repeat = Derivation(
        title="repeat",
        arrays={"x": x, "W": V, "dy": of_top},
        forward=(
            (h[0, i], Step(x[i], "what comes in")),
            (
                h[m + 1, j],
                Step(
                    total(h[m, i] * V[m, i, j], i),
                    "goes through copy after copy of a layer, here dense, each with its own slice "
                    "of the parameters",
                    Code(nn.repeat.forward, "jax.lax.scan(body, x, slices, length=self.n)"),
                ),
            ),
            (top[j], Step(h[3, j], "and out")),
        ),
        deltas={top: of_top},
        chains=(
            Chain(
                dh,
                Step(
                    total(partial(L, h[m + 1, j]) * partial(h[m + 1, j], h[m, i]), j),
                    "the chain rule from copy to copy",
                ),
                Step(
                    total(partial(L, h[m + 1, j]) * V[m, i, j], j),
                    "a scan the other way",
                    Code(nn.repeat.backward, "length=self.n, reverse=True"),
                ),
            ),
            Chain(dx, Step(partial(L, h[0, i]), "at its end")),
            Chain(
                dV,
                Step(
                    h[m, i] * partial(L, h[m + 1, j]),
                    "each copy has captures of its own, stacked as the parameters are",
                    Code(nn.repeat.backward, "stack(captures)"),
                ),
            ),
        ),
        computed=_repeat,
    )

    dX = partial(L, X[n, i])

    def _dropout(x, mask, dy):
        out, into, _ = passes(nn.dropout(0.25), (), x, dy, key=jax.random.key(0))
        return {Y[n, i]: out, dX: into}

    dropout = Derivation(
        title="dropout",
        arrays={"x": X, "mask": mask, "dy": D},
        fixed={mask: _kept(0.25).tolist()},
        forward=(
            (
                Y[n, i],
                Step(
                    X[n, i] * mask[n, i] / (1 - sympy.Rational(1, 4)),
                    "m is 1 with probability 1 − rate, else 0, drawn anew at every step; the rate "
                    "is ¼ here. Divided by 1 − rate, the mean over m is x",
                    Code(nn.dropout._thin, "jnp.where(kept, values / (1 - self.rate), 0)"),
                ),
            ),
        ),
        deltas={Y: D},
        chains=(
            Chain(
                dX,
                Step(
                    D[n, i] * mask[n, i] / (1 - sympy.Rational(1, 4)),
                    "linear in x, so the same function of δ: what was dropped learns nothing in "
                    "this step",
                    Code(nn.dropout.backward, "self._thin(residuals, dy)"),
                ),
            ),
        ),
        computed=_dropout,
    )

DERIVATIONS = (serial, add, multiply, fork, skip, share, repeat, dropout)
