"""Normalisations: of activations, and of weights."""

import numpy as np
from sympy import sqrt

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import (
    L,
    array,
    as_written,
    count,
    index,
    number,
    partial,
    same,
    total,
)
from jaxnn.core.captures import AffineCapture
from jaxnn.layers.normalization import _Norm
from jaxnn.layers.reparametrization import OwnState

n, m, r = index("n", 2), index("m", 2), index("r", 2)
p, q, c, e, s, u = (index(name, 2) for name in "pqcesu")
i, j, k = (index(name, 3) for name in "ijk")
epsilon = number(r"\epsilon")
x, y, h, delta = (array(name, n, j) for name in ("x", "y", r"\hat{x}", r"\delta"))
g, b = array("g", j), array("b", j)
into_normal = array("d", n, j)
mean, deviation = array(r"\mu", n), array(r"\sigma", n)
of_feature, spread = array(r"\mu", j), array(r"\sigma", j)
running, variance = array("m", j), array("v", j)

# Images: positions p, and channels c of a group s.
IMAGES = {
    dims: tuple(array(name, *dims) for name in ("x", "y", r"\hat{x}", r"\delta", "d"))
    for dims in ((n, p, s, c), (n, p, c))
}
of_group, group_spread = array(r"\mu", n, s), array(r"\sigma", n, s)
of_channel, channel_spread = array(r"\mu", n, c), array(r"\sigma", n, c)

# A weight, and vectors beside it.
f, o, a, w = index("f", 3), index("o", 2), index("a", 3), index("w", 2)
V, W, gradient = array("v", f, o), array(r"\hat{W}", f, o), array("G", f, o)
M, LEFT, RIGHT, SIGMA = array("W", f, o), array("v", f), array("u", o), number(r"\sigma")
lengths, scales, directions = array("s", o), array("g", o), array("u", f, o)

with as_written():
    xi, xj, yj, hi, hj = x[n, i], x[n, j], y[n, j], h[n, i], h[n, j]
    mu, sigma = mean[n], deviation[n]
    into, by_scale, by_offset = partial(L, xi), partial(L, g[i]), partial(L, b[i])
    d, dk = into_normal[n, j], into_normal[n, i]
    of_normal = (
        d,
        Step(
            delta[n, j] * g[j],
            "backward: what comes to the normalised x",
            Code(_Norm.backward, "self.scaled(params, dy.astype(normalized.dtype))"),
        ),
    )
    affine = (
        yj,
        Step(
            g[j] * hj + b[j],
            "a scale g and an offset b for each feature",
            Code(_Norm.affine, "y = self.scaled(params, self.normalized(x, mean, inverse))"),
        ),
    )
    projected = Code(_Norm.backward, "d - mean - along * jnp.mean(d * along, axes, keepdims=True)")
    of_scale = Chain(
        by_scale,
        Step(total(delta[n, j] * partial(yj, g[i]), n, j), "the chain rule: all examples share g"),
        Step(
            total(hi * delta[n, i], n),
            "y is linear in g, in its own feature",
            Code(AffineCapture.sums, "jnp.sum(products, axis=0)"),
        ),
    )
    of_offset = Chain(
        by_offset,
        Step(total(delta[n, i], n), "likewise", Code(AffineCapture.sums, "jnp.sum(rows, axis=0)")),
    )

    def _computed(make, state=()):
        def computed(x, scale, offset, dy, epsilon, **running):
            params = {"scale": scale, "offset": offset}
            out, dx, gradient = passes(make(float(epsilon)), params, x, dy, running or state)
            return {yj: out, into: dx, by_scale: gradient["scale"], by_offset: gradient["offset"]}

        return computed

    layer_norm = Derivation(
        title="layer_norm",
        arrays={"x": x, "scale": g, "offset": b, "dy": delta, "epsilon": epsilon},
        forward=(
            (mu, Step(total(xj, j) / count(j), "the mean of a row, over its J features")),
            (
                sigma,
                Step(
                    sqrt(total((xj - mu) ** 2, j) / count(j) + epsilon),
                    "its standard deviation; ε keeps it from 0",
                    Code(
                        _Norm.inverse, "1 / (unit * jnp.sqrt(variance + self._epsilon / unit**2))"
                    ),
                ),
            ),
            (
                hj,
                Step(
                    (xj - mu) / sigma,
                    "of mean 0 and variance 1",
                    Code(_Norm.normalized, "- mean) * inverse"),
                ),
            ),
            affine,
            of_normal,
        ),
        deltas={y: delta},
        chains=(
            Chain(
                partial(mu, xi),
                Step(total(same(j, i), j) / count(j), "every feature moves the mean"),
                Step(1 / count(j), "by one J-th"),
            ),
            Chain(
                partial(sigma, xi),
                Step(
                    total(2 * (xj - mu) * (same(j, i) - 1 / count(j)), j) / (2 * count(j) * sigma),
                    "the derivative of a root, and the one of the mean",
                ),
                Step(
                    (xi - mu) / (count(j) * sigma),
                    "deviations from a mean sum to 0, so that the second part falls away",
                ),
                Step(hi / count(j), "the deviation grows fastest along the normalised row"),
            ),
            Chain(
                partial(hj, xi),
                Step(
                    (same(j, i) - partial(mu, xi)) / sigma
                    - (xj - mu) / sigma**2 * partial(sigma, xi),
                    "x moves its own feature, the mean and the deviation",
                ),
                Step(
                    (same(j, i) - 1 / count(j) - hj * hi / count(j)) / sigma,
                    "the two chains above, and (x − μ)/σ is the normalised x",
                ),
            ),
            Chain(
                into,
                Step(
                    total(d * partial(hj, xi), j),
                    "the chain rule: x moves all of its row",
                ),
                Step(
                    (dk - total(d, j) / count(j) - hi * total(d * hj, j) / count(j)) / sigma,
                    "multiplied out: of d, its mean and what lies along the row are taken away",
                    projected,
                ),
            ),
            of_scale,
            of_offset,
        ),
        computed=_computed(nn.layer_norm),
    )

    rms_norm = Derivation(
        title="rms_norm",
        arrays={"x": x, "scale": g, "offset": b, "dy": delta, "epsilon": epsilon},
        forward=(
            (
                sigma,
                Step(
                    sqrt(total(xj**2, j) / count(j) + epsilon),
                    "the root of the mean square: no mean is subtracted",
                ),
            ),
            (hj, Step(xj / sigma, "of mean square 1")),
            affine,
            of_normal,
        ),
        deltas={y: delta},
        chains=(
            Chain(
                partial(sigma, xi),
                Step(2 * xi / (2 * count(j) * sigma), "of a root, and of squares"),
                Step(hi / count(j), "for x / σ is the normalised x"),
            ),
            Chain(
                partial(hj, xi),
                Step(same(j, i) / sigma - xj / sigma**2 * partial(sigma, xi), "above and below"),
                Step((same(j, i) - hj * hi / count(j)) / sigma, "the chain above"),
            ),
            Chain(
                into,
                Step(total(d * partial(hj, xi), j), "the chain rule"),
                Step(
                    (dk - hi * total(d * hj, j) / count(j)) / sigma,
                    "one projection is left, for only one direction was removed",
                    projected,
                ),
            ),
            of_scale,
            of_offset,
        ),
        computed=_computed(lambda epsilon: nn.rms_norm(epsilon, use_offset=True)),
    )

    mu_j, sigma_j = of_feature[j], spread[j]
    mu_i, sigma_i = of_feature[i], spread[i]
    of_batch = (
        (
            mu_j,
            Step(
                total(xj, n) / count(n), "the mean of a feature, over the N examples of the batch"
            ),
        ),
        (
            sigma_j,
            Step(sqrt(total((xj - mu_j) ** 2, n) / count(n) + epsilon), "its standard deviation"),
        ),
        (hj, Step((xj - mu_j) / sigma_j, "of mean 0 and variance 1 in the batch")),
        affine,
    )
    batch_norm = Derivation(
        title="batch_norm",
        arrays={"x": x, "scale": g, "offset": b, "dy": delta, "epsilon": epsilon},
        forward=of_batch,
        deltas={y: delta},
        chains=(
            of_scale,
            of_offset,
            Chain(
                partial(h[m, i], xi),
                Step(
                    (same(m, n) - 1 / count(n) - h[m, i] * hi / count(n)) / sigma_i,
                    "as for layer_norm, along the other axis",
                ),
            ),
            Chain(
                into,
                Step(
                    total(delta[m, i] * g[i] * partial(h[m, i], xi), m),
                    "the chain rule: x moves its feature *of all examples*",
                ),
                Step(
                    (
                        delta[n, i]
                        - total(delta[m, i], m) / count(n)
                        - hi * total(delta[m, i] * h[m, i], m) / count(n)
                    )
                    * g[i]
                    / sigma_i,
                    "the line above; g is the same for all of them and stands outside",
                ),
                Step(
                    (delta[n, i] - partial(L, b[i]) / count(n) - hi * partial(L, g[i]) / count(n))
                    * g[i]
                    / sigma_i,
                    "both sums are gradients that are needed anyway",
                    Code(nn.batch_norm.backward, "dy - total - normalized * along"),
                ),
            ),
        ),
        computed=_computed(
            lambda epsilon: nn.batch_norm(epsilon=epsilon),
            {"mean": np.zeros(3), "variance": np.ones(3)},
        ),
    )

    batch_norm_at_rest = Derivation(
        title="batch_norm_at_rest",
        arrays={
            "x": x,
            "scale": g,
            "offset": b,
            "dy": delta,
            "epsilon": epsilon,
            "mean": running,
            "variance": variance,
        },
        forward=(
            (
                hj,
                Step(
                    (xj - running[j]) / sqrt(variance[j] + epsilon),
                    "m and v are running means, which do not depend on x",
                ),
            ),
            affine,
        ),
        deltas={y: delta},
        chains=(
            Chain(
                into,
                Step(total(delta[n, j] * g[j] * partial(hj, xi), j), "the chain rule"),
                Step(
                    delta[n, i] * g[i] / sqrt(variance[i] + epsilon),
                    "a feature alone, and linear: nothing is taken away",
                    Code(
                        nn.batch_norm_at_rest.backward,
                        "self.scaled(params, dy.astype(normalized.dtype)) * inverse",
                    ),
                ),
            ),
            of_scale,
            of_offset,
        ),
        computed=_computed(lambda epsilon: nn.batch_norm_at_rest(epsilon=epsilon)),
        within={variance: (0.5, 2)},
    )

    def _of_images(title, make, own, other, dims, parameters, centre, spread, why, code):
        """Over the indices ``own`` of an image: those of its sums are ``other``."""
        x, y, h, delta, d = IMAGES[dims]
        renamed = dict(zip(own, other, strict=True))
        there = tuple(renamed.get(i, i) for i in dims)
        g, b = array("g", *parameters), array("b", *parameters)
        into, by_scale = partial(L, x[dims]), partial(L, g[parameters])
        size = count(own[0])
        for i in own[1:]:
            size = size * count(i)

        def computed(x, scale, offset, dy, epsilon):
            flat = (*x.shape[:2], -1)
            params = {"scale": scale.reshape(-1), "offset": offset.reshape(-1)}
            layer = make(float(epsilon))
            out, dx, gradient = passes(layer, params, x.reshape(flat), dy.reshape(flat))
            return {
                y[dims]: np.reshape(out, x.shape),
                into: np.reshape(dx, x.shape),
                by_scale: np.reshape(gradient["scale"], scale.shape),
            }

        return Derivation(
            title=title,
            arrays={"x": x, "scale": g, "offset": b, "dy": delta, "epsilon": epsilon},
            forward=(
                (centre, Step(total(x[dims], *own) / size, why, code)),
                (
                    spread,
                    Step(
                        sqrt(total((x[dims] - centre) ** 2, *own) / size + epsilon), "its deviation"
                    ),
                ),
                (h[dims], Step((x[dims] - centre) / spread, "of mean 0 and variance 1")),
                (y[dims], Step(g[parameters] * h[dims] + b[parameters], "by channel")),
                (d[dims], Step(delta[dims] * g[parameters], "backward, as above")),
            ),
            deltas={y: delta},
            chains=(
                Chain(
                    into,
                    Step(
                        (
                            d[dims]
                            - total(d[there], *other) / size
                            - h[dims] * total(d[there] * h[there], *other) / size
                        )
                        / spread,
                        "the chain rule and the projections of layer_norm, over another set",
                        projected,
                    ),
                ),
                Chain(
                    by_scale,
                    Step(
                        total(h[dims] * delta[dims], n, p),
                        "a channel's, over examples and positions",
                        Code(AffineCapture.sums, "jnp.sum(products, axis=0)"),
                    ),
                ),
            ),
            computed=computed,
        )

    group_norm = _of_images(
        "group_norm",
        lambda epsilon: nn.group_norm(2, epsilon),
        (p, c),
        (q, e),
        (n, p, s, c),
        (s, c),
        of_group[n, s],
        group_spread[n, s],
        "the mean of a group s of channels c, over the positions p",
        Code(nn.group_norm.sets, "a.reshape(a.shape[0], positions, self.groups, channels), (1, 3)"),
    )
    instance_norm = _of_images(
        "instance_norm",
        nn.instance_norm,
        (p,),
        (q,),
        (n, p, c),
        (c,),
        of_channel[n, c],
        channel_spread[n, c],
        "the mean of a channel c, over the positions p",
        Code(nn.instance_norm.sets, "tuple(range(1, a.ndim - 1))"),
    )

    vfo, Wfo, Gfo, ufo, ga = V[f, o], W[f, o], gradient[f, o], directions[f, o], scales[o]
    by_v, by_g = partial(L, vfo), partial(L, ga)

    def _weight_norm(v, scale, gradient):
        # With the unit matrix as x the output is the weight.
        layer = nn.weight_norm(nn.dense(2, use_bias=False))
        state = OwnState((), ())
        out, _, found = passes(layer, {"weight": v, "scale": scale}, np.eye(3), gradient, state)
        return {Wfo: out, by_v: found["weight"], by_g: found["scale"]}

    along = total(gradient[a, o] * directions[a, o], a)
    weight_norm = Derivation(
        title="weight_norm",
        arrays={"v": V, "scale": scales, "gradient": gradient},
        forward=(
            (lengths[o], Step(sqrt(total(V[a, o] ** 2, a)), "the length of a column of v")),
            (ufo, Step(vfo / lengths[o], "its direction")),
            (
                Wfo,
                Step(
                    ga * ufo,
                    "the weight that the layer is given: length and direction apart",
                    Code(nn.weight_norm.weight, "scale * unit"),
                ),
            ),
        ),
        deltas={W: gradient},
        chains=(
            Chain(
                by_g,
                Step(
                    total(gradient[a, w] * partial(W[a, w], ga), a, w), "the chain rule; G is ∂L/∂Ŵ"
                ),
                Step(
                    along,
                    "what of G lies along the direction",
                    Code(nn.weight_norm.pull, "jnp.sum(gradient * unit, over, keepdims=True)"),
                ),
            ),
            Chain(
                by_v,
                Step(
                    total(gradient[a, o] * ga * partial(directions[a, o], vfo), a), "the chain rule"
                ),
                Step(
                    total(
                        gradient[a, o] * ga * (same(a, f) - directions[a, o] * ufo) / lengths[o], a
                    ),
                    "the derivative of `normalize`",
                ),
                Step(
                    ga / lengths[o] * (Gfo - ufo * along),
                    "and what does not: v turns, and its length is of no consequence",
                    Code(nn.weight_norm.pull, "factor * (gradient - unit * along)"),
                ),
            ),
        ),
        computed=_weight_norm,
    )

    left, right, norm = LEFT[f], RIGHT[o], SIGMA
    matrix = partial(L, M[f, o])

    def _spectral_norm(weight, left, right, gradient):
        layer = nn.spectral_norm(nn.dense(2, use_bias=False), 0)
        state = OwnState((), {"left": left, "right": right})
        out, _, found = passes(layer, {"weight": weight}, np.eye(3), gradient, state)
        return {Wfo: out, matrix: found["weight"]}

    product = total(gradient[a, w] * W[a, w], a, w)
    spectral_norm = Derivation(
        title="spectral_norm",
        arrays={"weight": M, "left": LEFT, "right": RIGHT, "gradient": gradient},
        forward=(
            (
                norm,
                Step(
                    total(LEFT[a] * M[a, w] * RIGHT[w], a, w),
                    "the largest singular value, for vectors v and u on which the power iteration "
                    "has settled",
                    Code(nn.spectral_norm.weight, "v @ matrix @ u"),
                ),
            ),
            (Wfo, Step(M[f, o] / norm, "", Code(nn.spectral_norm.weight, "(matrix * inverse)"))),
        ),
        deltas={W: gradient},
        chains=(
            Chain(
                partial(norm, M[f, o]),
                Step(
                    left * right,
                    "v and u are taken for constants: a small turn of a singular vector does not "
                    "move σ",
                    Code(nn.spectral_norm.pull, "jnp.outer(v, u)"),
                ),
            ),
            Chain(
                matrix,
                Step(total(gradient[a, w] * partial(W[a, w], M[f, o]), a, w), "the chain rule"),
                Step(
                    Gfo / norm
                    - total(gradient[a, w] * M[a, w], a, w) / norm**2 * partial(norm, M[f, o]),
                    "an element stands above, and in the σ of all",
                ),
                Step(
                    (Gfo - product * left * right) / norm,
                    "the line above, and W = σ Ŵ",
                    Code(
                        nn.spectral_norm.pull,
                        "(gradient - jnp.sum(gradient * weight) * direction) * inverse",
                    ),
                ),
            ),
        ),
        computed=_spectral_norm,
    )
