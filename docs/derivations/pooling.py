"""Pooling."""

import jax
import jax.numpy as jnp
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
from jaxnn.kernels import bins, windows

n, m = index("n", 2), index("m", 2)
p, t, u = index("p", 2), index("t", 3), index("u", 5)
s, q = index("s", 3), index("q", 5)
x, y, delta = array("x", n, u), array("y", n, p), array(r"\delta", n, p)
winner, c = array("a", n, p), array("c", p)
o, v, w = index("o", 2), index("u", 3), index("v", 3)
z, B = array("x", n, v), array("B", o, v)
of_bin, bin_delta, count = array("y", n, o), array(r"\delta", n, o), array("c", o)
bin_winner = array("a", n, o)
g, single, of_all = array("y", n), array(r"\delta", n), array("a", n)


def _one_channel(layer, x, dy):
    """(y, dx) of arrays without their axis of channels."""
    out, into, _ = passes(layer, (), x[..., None], dy[..., None])
    return out[..., 0], into[..., 0]


def _winner(layer, x):
    """What the layer keeps of it."""
    with jax.enable_x64(True):
        return layer.apply(jnp.asarray(x[..., None]))[1][0][..., 0]


with as_written():
    dx, dz = partial(L, x[n, u]), partial(L, z[n, v])

    def _max_pool(x, dy):
        layer = nn.max_pool(3, strides=2)
        out, into = _one_channel(layer, x, dy)
        won = _winner(layer, x)
        return {y[n, p]: out, winner[n, p]: won, dx: into}

    max_pool = Derivation(
        title="max_pool",
        arrays={"x": x, "dy": delta},
        forward=(
            (
                y[n, p],
                Step(
                    largest(x[n, 2 * p + t], t),
                    "the largest element of each window",
                    Code(windows.maximum, "y = jnp.where(won, element, y)"),
                ),
            ),
            (
                winner[n, p],
                Step(
                    total(t * same(x[n, 2 * p + t], y[n, p]), t),
                    "where in the window it stands, which is all that is kept",
                    Code(windows.maximum, "jnp.where(won, winner.dtype.type(index), winner)"),
                ),
            ),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                dx,
                Step(
                    total(partial(L, y[m, p]) * partial(y[m, p], x[n, u]), m, p),
                    "the chain rule",
                ),
                Step(
                    total(delta[n, p] * same(2 * p + t, u) * same(x[n, u], y[n, p]), p, t),
                    "near x, a maximum is the element that won: its slope by that one is 1, and 0 "
                    "by the others",
                ),
                Step(
                    total(delta[n, p] * same(2 * p + winner[n, p], u), p),
                    "each delta goes to one place, and a place may win several windows",
                    Code(
                        windows.collect,
                        "exists &= of_window(winner, shift) == index.astype(winner.dtype)",
                    ),
                ),
            ),
        ),
        computed=_max_pool,
    )

    def _avg_pool(x, dy):
        out, into = _one_channel(nn.avg_pool(3, strides=2, padding=((1, 0),)), x, dy)
        return {y[n, p]: out, dx: into}

    avg_pool = Derivation(
        title="avg_pool",
        arrays={"x": x, "dy": delta},
        forward=(
            (
                c[p],
                Step(
                    total(same(2 * p + t - 1, q), t, q),
                    "how many elements of window p lie on x: at the border there are fewer",
                    Code(windows.Windows.counts, "self._count(jnp, axis, self._outputs(axis))"),
                ),
            ),
            (
                y[n, p],
                Step(
                    total(x[n, 2 * p + t - 1], t) / c[p],
                    "the mean of those",
                    Code(nn.avg_pool.apply, "self._mean(windows, total(windows, x))"),
                ),
            ),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                dx,
                Step(
                    total(partial(L, y[m, p]) * partial(y[m, p], x[n, u]), m, p),
                    "the chain rule",
                ),
                Step(
                    total(delta[n, p] * same(2 * p + t - 1, u) / c[p], p, t),
                    "all elements of a window count alike",
                ),
                Step(
                    total(delta[n, p] / c[p] * total(same(2 * p + t - 1, u), t), p),
                    "each delta is divided by the size of its window, and every element adds up "
                    "the shares of the windows it lies in",
                    Code(nn.avg_pool.pull_back, "collect(residuals.value, share)"),
                ),
            ),
        ),
        computed=_avg_pool,
    )

    def _begins(part, parts, size):
        return sympy.floor(sympy.Mul(part, sympy.Rational(size, parts)))

    def _ends(part, parts, size):
        return sympy.ceiling(sympy.Mul(part + 1, sympy.Rational(size, parts)))

    def _lies_in(element, part, parts, size):
        begins, ends = _begins(part, parts, size), _ends(part, parts, size)
        return sympy.Mul(indicator(sympy.Le(begins, element)), indicator(sympy.Lt(element, ends)))

    def _adaptive_avg_pool(x, dy):
        out, into = _one_channel(nn.adaptive_avg_pool((2,)), x, dy)
        return {of_bin[n, o]: out, dz: into}

    adaptive_avg_pool = Derivation(
        title="adaptive_avg_pool",
        arrays={"x": z, "dy": bin_delta},
        forward=(
            (
                B[o, v],
                Step(
                    _lies_in(v, o, 2, 3),
                    "whether bin o holds element u: 3 elements in 2 bins, which share the middle",
                    Code(bins.bins, "o * elements // count, -(-(o + 1) * elements // count)"),
                ),
            ),
            (count[o], Step(total(B[o, w], w), "how many it holds")),
            (
                of_bin[n, o],
                Step(
                    total(B[o, v] * z[n, v], v) / count[o],
                    "their mean",
                    Code(nn.adaptive_avg_pool.apply, "sums / bins.counts(size, output_size)"),
                ),
            ),
        ),
        deltas={of_bin: bin_delta},
        chains=(
            Chain(
                dz,
                Step(
                    total(partial(L, of_bin[m, o]) * partial(of_bin[m, o], z[n, v]), m, o),
                    "the chain rule",
                ),
                Step(total(B[o, v] * bin_delta[n, o] / count[o], o), "a share for each element"),
                Step(
                    total(_lies_in(o, v, 3, 2) * bin_delta[n, o] / count[o], o),
                    "seen from u, the bins that hold it are themselves a bin, of 2 elements in 3: "
                    "both lie on one line, cut up in 2 and in 3, and the question is which pieces "
                    "meet",
                    Code(nn.adaptive_avg_pool.pull_back, "bins.sums(share, size)"),
                ),
            ),
        ),
        computed=_adaptive_avg_pool,
    )

    def _adaptive_max_pool(x, dy):
        layer = nn.adaptive_max_pool((2,))
        out, into = _one_channel(layer, x, dy)
        won = _winner(layer, x)
        return {of_bin[n, o]: out, bin_winner[n, o]: won, dz: into}

    adaptive_max_pool = Derivation(
        title="adaptive_max_pool",
        arrays={"x": z, "dy": bin_delta},
        forward=(
            (
                of_bin[n, o],
                Step(
                    largest(z[n, o + s], s),
                    "3 elements in 2 bins of 2, the middle one in both",
                    Code(nn.adaptive_max_pool.apply, "gathered(x, winner)"),
                ),
            ),
            (
                bin_winner[n, o],
                Step(
                    total(v * same(z[n, v], of_bin[n, o]), v),
                    "the place of the largest on x",
                    Code(bins.first_maxima, "jnp.argmax(members, axis + 1, keepdims=True)"),
                ),
            ),
        ),
        deltas={of_bin: bin_delta},
        chains=(
            Chain(
                dz,
                Step(
                    total(partial(L, of_bin[m, o]) * partial(of_bin[m, o], z[n, v]), m, o),
                    "the chain rule",
                ),
                Step(
                    total(bin_delta[n, o] * same(bin_winner[n, o], v), o),
                    "the slope is 1 by the winner and 0 by the others; the middle may win both",
                    Code(nn.adaptive_max_pool.pull_back, "scattered(dy, winner, size.value)"),
                ),
            ),
        ),
        computed=_adaptive_max_pool,
    )

    def _global_avg_pool(x, dy):
        out, into = _global(nn.global_avg_pool(), x, dy)
        return {g[n]: out, dz: into}

    def _global(layer, x, dy):
        out, into, _ = passes(layer, (), x[..., None], dy[:, None])
        return out[:, 0], into[..., 0]

    global_avg_pool = Derivation(
        title="global_avg_pool",
        arrays={"x": z, "dy": single},
        forward=(
            (
                g[n],
                Step(
                    total(z[n, v], v) / 3,
                    "the mean over all places",
                    Code(nn.global_avg_pool.apply, "jnp.mean(x, range(1, x.ndim - 1))"),
                ),
            ),
        ),
        deltas={g: single},
        chains=(
            Chain(
                dz,
                Step(total(partial(L, g[m]) * partial(g[m], z[n, v]), m), "the chain rule"),
                Step(
                    single[n] / 3,
                    "all places have the same share",
                    Code(nn.global_avg_pool.pull_back, "math.prod(sizes)"),
                ),
            ),
        ),
        computed=_global_avg_pool,
    )

    def _global_max_pool(x, dy):
        layer = nn.global_max_pool()
        out, into = _global(layer, x, dy)
        won = _winner(layer, x)
        return {g[n]: out, of_all[n]: won, dz: into}

    global_max_pool = Derivation(
        title="global_max_pool",
        arrays={"x": z, "dy": single},
        forward=(
            (
                g[n],
                Step(
                    largest(z[n, v], v),
                    "the largest of all places",
                    Code(nn.global_max_pool.apply, "y, winner = first_maximum(positions)"),
                ),
            ),
            (of_all[n], Step(total(v * same(z[n, v], g[n]), v), "and where it stands")),
        ),
        deltas={g: single},
        chains=(
            Chain(
                dz,
                Step(total(partial(L, g[m]) * partial(g[m], z[n, v]), m), "the chain rule"),
                Step(
                    single[n] * same(v, of_all[n]),
                    "one place of each channel gets all of it",
                    Code(
                        nn.global_max_pool.pull_back,
                        "indices(math.prod(sizes.value)) == winner[:, None]",
                    ),
                ),
            ),
        ),
        computed=_global_max_pool,
    )

DERIVATIONS = (
    max_pool,
    avg_pool,
    adaptive_avg_pool,
    adaptive_max_pool,
    global_avg_pool,
    global_max_pool,
)
