"""Convolutions."""

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import L, array, as_written, index, partial, same, total
from jaxnn.kernels.convolution import direct, geometry, taps
from jaxnn.layers.convolution.capture import ConvTransposeCapture, _with_bias

n, m = index("n", 2), index("m", 2)
i, j, k, l = index("i", 2), index("j", 2), index("k", 2), index("l", 2)  # noqa: E741
p, t, u = index("p", 3), index("t", 3), index("u", 5)
x, W, b = array("x", n, u, i), array("W", t, i, j), array("b", j)
y, delta = array("y", n, p, j), array(r"\delta", n, p, j)
spread = array("d", n, u, j)

# In two dimensions, one example and one channel.
v = index("v", 4)
q, s = index("q", 3), index("s", 2)
p_, t_, u_ = index("p", 2), index("t", 2), index("u", 3)
X, K = array("x", u_, v), array("W", s, t_)
Y, Delta = array("y", p_, q), array(r"\delta", p_, q)

# The transpose: u is the place in y, p that in x.
z, V = array("x", n, p_, i), array("W", t, j, i)
z_out, far = array("y", n, u_, j), array(r"\delta", n, u_, j)

with as_written():
    dx, dW, db = partial(L, x[n, u, i]), partial(L, W[t, i, j]), partial(L, b[j])

    def _conv(x, W, b, dy):
        layer = nn.conv(2, (3,), strides=2, padding=1, algorithm="taps")
        out, into, gradient = passes(layer, {"weight": W, "bias": b}, x, dy)
        return {y[n, p, j]: out, dx: into, dW: gradient["weight"], db: gradient["bias"]}

    conv = Derivation(
        title="conv",
        arrays={"x": x, "W": W, "b": b, "dy": delta},
        forward=(
            (
                y[n, p, j],
                Step(
                    total(x[n, 2 * p + t - 1, i] * W[t, i, j], t, i) + b[j],
                    "window p begins at 2p − 1: a stride of 2, and one zero before x",
                    Code(
                        taps.forward,
                        "_product(a, w) for a, w in zip(windows(taps[0]), taps[1], strict=True)",
                    ),
                ),
            ),
            (
                spread[n, u, j],
                Step(
                    total(delta[n, p, j] * same(2 * p, u), p),
                    "for the way back: d has the deltas as far apart as their windows are",
                    Code(geometry.spread, "stride - 1 for stride in geometry.strides"),
                ),
            ),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                dx,
                Step(
                    total(partial(L, y[m, p, j]) * partial(y[m, p, j], x[n, u, i]), m, p, j),
                    "the chain rule: an element of x moves L through the windows that meet it",
                ),
                Step(
                    total(delta[n, p, j] * same(2 * p + t - 1, u) * W[t, i, j], p, t, j),
                    "y is linear in x; window p meets element u with the tap t for which "
                    "2p + t − 1 = u",
                ),
                Step(
                    total(delta[n, p, j] * W[u + 1 - 2 * p, i, j], p, j),
                    "that tap is u + 1 − 2p; where the kernel has no such tap, the window does "
                    "not meet u, and W is 0 there",
                ),
                Step(
                    total(spread[n, u + 1 - t, j] * W[t, i, j], t, j),
                    "the same pairs counted by taps: the window that meets u with tap t begins t "
                    "places before it",
                ),
                Step(
                    total(spread[n, u + t - 1, j] * W[2 - t, i, j], t, j),
                    "t and 2 − t change names: a convolution again, of d with the flipped kernel",
                    Code(
                        taps.input_gradient,
                        "forward(spread(dy, geometry), kernel, geometry.transposed)",
                    ),
                ),
            ),
            Chain(
                dW,
                Step(
                    total(partial(L, y[n, p, k]) * partial(y[n, p, k], W[t, i, j]), n, p, k),
                    "the chain rule: all windows of all examples share the weight",
                ),
                Step(
                    total(delta[n, p, k] * x[n, 2 * p + t - 1, i] * same(k, j), n, p, k),
                    "y is linear in W as well",
                ),
                Step(
                    total(x[n, 2 * p + t - 1, i] * delta[n, p, j], n, p),
                    "what tap t met in each window, times the delta of the window",
                    Code(taps.weight_gradient, "_contraction(a, deltas) for a in windows(starts)"),
                ),
            ),
            Chain(
                db,
                Step(
                    total(partial(L, y[n, p, k]) * partial(y[n, p, k], b[j]), n, p, k),
                    "the chain rule",
                ),
                Step(
                    total(delta[n, p, j], n, p),
                    "the bias is added in every window",
                    Code(_with_bias, "sum_rows(deltas)"),
                ),
            ),
        ),
        computed=_conv,
    )

    dX, dK = partial(L, X[u_, v]), partial(L, K[s, t_])

    def _conv_of_images(x, W, dy):
        layer = nn.conv(1, (2, 2), padding="VALID", use_bias=False, algorithm="direct")
        into = (x[None, ..., None], dy[None, ..., None])
        out, into, gradient = passes(layer, {"weight": W[..., None, None]}, *into)
        return {
            Y[p_, q]: out[0, ..., 0],
            dX: into[0, ..., 0],
            dK: gradient["weight"][..., 0, 0],
        }

    conv_of_images = Derivation(
        title="conv",
        arrays={"x": X, "W": K, "dy": Delta},
        forward=(
            (
                Y[p_, q],
                Step(
                    total(X[p_ + s, q + t_] * K[s, t_], s, t_),
                    "a window for each place at which the kernel fits into x",
                    Code(direct.forward, "lax.conv_general_dilated(\n        x,\n        weight,"),
                ),
            ),
        ),
        deltas={Y: Delta},
        chains=(
            Chain(
                dX,
                Step(
                    total(partial(L, Y[p_, q]) * partial(Y[p_, q], X[u_, v]), p_, q),
                    "the chain rule",
                ),
                Step(
                    total(
                        Delta[p_, q] * same(p_ + s, u_) * same(q + t_, v) * K[s, t_], p_, q, s, t_
                    ),
                    "a window meets the pixel if rows and columns both fit",
                ),
                Step(
                    total(Delta[u_ - s, v - t_] * K[s, t_], s, t_),
                    "one window for each tap; deltas outside of y are 0",
                ),
                Step(
                    total(Delta[u_ + s - 1, v + t_ - 1] * K[1 - s, 1 - t_], s, t_),
                    "counted from the other end: the kernel flipped in both directions, which is "
                    "half a turn, and one row and column of zeros around δ",
                    Code(
                        geometry.transposed_kernel, "jnp.flip(exchanged, tuple(range(len(kernel))))"
                    ),
                ),
            ),
            Chain(
                dK,
                Step(
                    total(partial(L, Y[p_, q]) * partial(Y[p_, q], K[s, t_]), p_, q),
                    "the chain rule",
                ),
                Step(
                    total(X[s + p_, t_ + q] * Delta[p_, q], p_, q),
                    "a convolution too: of x, with the deltas as its kernel",
                    Code(direct.weight_gradient, "x,\n        dy,\n        geometry.dilation,"),
                ),
            ),
        ),
        computed=_conv_of_images,
    )

    dz, dV = partial(L, z[n, p_, i]), partial(L, V[t, j, i])

    def _conv_transpose(x, W, b, dy):
        layer = nn.conv_transpose(2, (3,), strides=2, padding=1, algorithm="taps")
        out, into, gradient = passes(layer, {"weight": W, "bias": b}, x, dy)
        return {z_out[n, u_, j]: out, dz: into, dV: gradient["weight"], db: gradient["bias"]}

    conv_transpose = Derivation(
        title="conv_transpose",
        arrays={"x": z, "W": V, "b": b, "dy": far},
        forward=(
            (
                z_out[n, u_, j],
                Step(
                    total(z[n, p_, i] * same(2 * p_ + t - 1, u_) * V[t, j, i], p_, t, i) + b[j],
                    "every element of x lays its own copy of the kernel down, 2 places from the "
                    "one before, and what overlaps is added",
                    Code(
                        nn.conv_transpose.forward,
                        'run("input_gradient", self.algorithm, x, params["weight"], geometry)',
                    ),
                ),
            ),
        ),
        deltas={z_out: far},
        chains=(
            Chain(
                dz,
                Step(
                    total(
                        partial(L, z_out[m, u_, j]) * partial(z_out[m, u_, j], z[n, p_, i]),
                        m,
                        u_,
                        j,
                    ),
                    "the chain rule",
                ),
                Step(
                    total(far[n, u_, j] * same(2 * p_ + t - 1, u_) * V[t, j, i], u_, t, j),
                    "y is linear in x",
                ),
                Step(
                    total(far[n, 2 * p_ + t - 1, j] * V[t, j, i], t, j),
                    "tap t lies on one place of y: this is the forward pass of a convolution",
                    Code(
                        nn.conv_transpose.backward,
                        'run("forward", self.algorithm, dy, params["weight"], geometry)',
                    ),
                ),
            ),
            Chain(
                dV,
                Step(
                    total(
                        partial(L, z_out[n, u_, k]) * partial(z_out[n, u_, k], V[t, j, i]), n, u_, k
                    ),
                    "the chain rule",
                ),
                Step(
                    total(far[n, 2 * p_ + t - 1, j] * z[n, p_, i], n, p_),
                    "as for a convolution, with x and δ in each other's place",
                    Code(
                        ConvTransposeCapture.gradient,
                        "self._weight_gradient(self.deltas, self.inputs)",
                    ),
                ),
            ),
            Chain(
                db,
                Step(
                    total(partial(L, z_out[n, u_, k]) * partial(z_out[n, u_, k], b[j]), n, u_, k),
                    "the chain rule",
                ),
                Step(
                    total(far[n, u_, j], n, u_),
                    "the bias is added everywhere",
                    Code(
                        ConvTransposeCapture.gradient,
                        "_with_bias(weight, self.deltas, self.use_bias)",
                    ),
                ),
            ),
        ),
        computed=_conv_transpose,
    )

DERIVATIONS = (conv, conv_of_images, conv_transpose)
