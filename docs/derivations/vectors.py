"""Losses of how near vectors are."""

from sympy import Abs, exp, log, sign, sqrt

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
from jaxnn.losses import contrastive as of_contrastive

n, m, r = index("n", 2), index("m", 2), index("r", 2)
i, j = index("i", 2), index("j", 2)
a, b, c = array("a", n, i), array("b", n, i), array("c", n, i)
u, v, cosine = array("u", n, i), array("v", n, i), array("c", n)
of_a, of_b = array("s", n), array("q", n)
l, t = array(r"\ell", n), array("t", n)  # noqa: E741
margin, tau, epsilon, power = number("m"), number(r"\tau"), number(r"\epsilon"), number("p")
near, far = array("d^{+}", n), array("d^{-}", n)
S, P = array("S", n, m), array("P", n, m)

with as_written():
    ai, bi, ci, ui, vi, uj, vj = a[n, i], b[n, i], c[n, i], u[n, i], v[n, i], u[n, j], v[n, j]
    by_a, by_b, by_c = partial(l[n], ai), partial(l[n], bi), partial(l[n], ci)
    units = (
        (of_a[n], Step(sqrt(total(a[n, j] ** 2, j)), "the length of a, here above 10⁻⁶")),
        (of_b[n], Step(sqrt(total(b[n, j] ** 2, j)), "that of b")),
        (ui, Step(ai / of_a[n], "the direction of a")),
        (vi, Step(bi / of_b[n], "that of b")),
    )

    def _cosine(a, b, target, margin):
        value, slopes = losses(nn.cosine_embedding(float(margin)), (a, b), target)
        return {l[n]: value, by_a: slopes[0], by_b: slopes[1]}

    like, unlike = (1 + t[n]) / 2, (1 - t[n]) / 2
    slope = unlike * indicator(cosine[n] > margin) - like
    cosine_embedding = Derivation(
        title="cosine_embedding",
        arrays={"a": a, "b": b, "target": t, "margin": margin},
        forward=(
            *units,
            (cosine[n], Step(total(uj * vj, j), "the cosine of the angle between them")),
            (
                l[n],
                Step(
                    like * (1 - cosine[n])
                    + unlike * (cosine[n] - margin) * indicator(cosine[n] > margin),
                    "t = 1: they should point the same way; t = −1: they should not",
                    Code(nn.cosine_embedding.value, "(1 + t) / 2 * (1 - c) + (1 - t) / 2 * unlike"),
                ),
            ),
        ),
        chains=(
            Chain(
                partial(cosine[n], ai),
                Step(total(vj * partial(uj, ai), j), "the chain rule"),
                Step(
                    total(vj * (same(i, j) - ui * uj) / of_a[n], j),
                    "the derivative of `normalize`",
                ),
                Step((vi - cosine[n] * ui) / of_a[n], "what of v is not along u"),
            ),
            Chain(
                by_a,
                Step(slope * partial(cosine[n], ai), "at c = m the second slope is 0"),
                Step(
                    slope * (vi - cosine[n] * ui) / of_a[n],
                    "the line above",
                    Code(nn.cosine_embedding.gradient, "back_u(slope * v)"),
                ),
            ),
            Chain(
                by_b,
                Step(
                    slope * (ui - cosine[n] * vi) / of_b[n],
                    "the same with both exchanged",
                    Code(nn.cosine_embedding.gradient, "back_v(slope * u)"),
                ),
            ),
        ),
        computed=_cosine,
        within={t: (-1, 1)},
    )

    def _triplet(a, b, c, margin, power, epsilon):
        loss = nn.triplet_margin(float(margin), float(power), delta=float(epsilon))
        value, slopes = losses(loss, (a, b, c), None)
        return {l[n]: value, by_a: slopes[0], by_b: slopes[1], by_c: slopes[2]}

    def _distance(x, y):
        return total(Abs(x[n, j] - y[n, j] + epsilon) ** power, j) ** (1 / power)

    def _share(x, y, distance):
        e = x[n, i] - y[n, i] + epsilon
        return sign(e) * (Abs(e) / distance[n]) ** (power - 1)

    acts = indicator(near[n] - far[n] + margin > 0)
    norm = Code(nn.triplet_margin._distance, "jnp.sign(v) * shares ** (self.p - 1)")
    triplet_margin = Derivation(
        title="triplet_margin",
        arrays={"a": a, "b": b, "c": c, "margin": margin, "power": power, "epsilon": epsilon},
        forward=(
            (near[n], Step(_distance(a, b), "from the anchor a to b, which is like it")),
            (far[n], Step(_distance(a, c), "and to c, which is not")),
            (
                l[n],
                Step(
                    (near[n] - far[n] + margin) * acts,
                    "b should be nearer than c, by the margin m",
                    Code(
                        nn.triplet_margin.value, "jax.nn.relu(to_positive - unlike + self.margin)"
                    ),
                ),
            ),
        ),
        chains=(
            Chain(
                partial(near[n], ai),
                Step(
                    total(Abs(a[n, j] - b[n, j] + epsilon) ** power, j) ** (1 / power - 1)
                    / power
                    * (power * Abs(ai - bi + epsilon) ** (power - 1) * sign(ai - bi + epsilon)),
                    "of the root, and of the one term that a moves",
                ),
                Step(_share(a, b, near), "what the root was taken of is d to the power of p", norm),
            ),
            Chain(
                by_a,
                Step(acts * (partial(near[n], ai) - partial(far[n], ai)), "a stands in both"),
                Step(
                    acts * (_share(a, b, near) - _share(a, c, far)),
                    "",
                    Code(nn.triplet_margin.gradient, "ap - an"),
                ),
            ),
            Chain(
                by_b,
                Step(
                    -acts * _share(a, b, near),
                    "b is subtracted: the opposite",
                    Code(nn.triplet_margin.gradient, "-ap - pn"),
                ),
            ),
            Chain(
                by_c,
                Step(
                    acts * _share(a, c, far),
                    "and so is c, of which the distance is subtracted again",
                    Code(nn.triplet_margin.gradient, "an + pn"),
                ),
            ),
        ),
        computed=_triplet,
        within={power: (1.5, 3), margin: (0.5, 2)},
    )

    into_a, into_b = partial(L, ai), partial(L, bi)

    def _contrastive(a, b, temperature):
        value, slopes = losses(nn.contrastive(float(temperature)), (a, b), None)
        return {l[n]: value, into_a: slopes[0], into_b: slopes[1]}

    def _pulled(unit, length, g):
        along = total(unit[n, j] * g(j), j)
        return (g(i) - unit[n, i] * along) / length[n]

    def _by_u(place):
        return total((P[n, m] - same(n, m)) * v[m, place], m) / tau

    def _by_v(place):
        return total((P[m, n] - same(m, n)) * u[m, place], m) / tau

    contrastive = Derivation(
        title="contrastive",
        arrays={"a": a, "b": b, "temperature": tau},
        forward=(
            *units,
            (
                S[n, m],
                Step(
                    total(ui * v[m, i], i) / tau,
                    "how like the nth first and the mth second vector are",
                    Code(nn.contrastive._similarities, "u @ v.T / self.temperature"),
                ),
            ),
            (P[n, m], Step(exp(S[n, m]) / total(exp(S[n, r]), r), "the softmax of a row")),
            (l[n], Step(-log(P[n, n]), "each has to know its own")),
            (L, Step(total(l[n], n), "as all are told from each other, their sum")),
        ),
        chains=(
            Chain(
                partial(L, S[n, m]),
                Step(
                    P[n, m] - same(n, m),
                    "softmax_cross_entropy, in which the label of the nth row is n",
                    Code(
                        of_contrastive._slope,
                        "factors[:, None] * (softmax - jnp.eye(len(s), dtype=s.dtype))",
                    ),
                ),
            ),
            Chain(
                partial(L, ui),
                Step(total(partial(L, S[n, m]) * v[m, i], m) / tau, "u stands in a row of S"),
                Step(_by_u(i), "the line above", Code(nn.contrastive.weighted, "g @ v")),
            ),
            Chain(
                partial(L, vi),
                Step(total(partial(L, S[m, n]) * u[m, i], m) / tau, "v stands in a column"),
                Step(_by_v(i), "", Code(nn.contrastive.weighted, "g.T @ u")),
            ),
            Chain(
                into_a,
                Step(
                    _pulled(u, of_a, _by_u),
                    "what lies along u is taken away, as in `normalize`",
                    Code(nn.contrastive.weighted, "back_u(g @ v)"),
                ),
            ),
            Chain(
                into_b,
                Step(
                    _pulled(v, of_b, _by_v),
                    "likewise",
                    Code(nn.contrastive.weighted, "back_v(g.T @ u)"),
                ),
            ),
        ),
        computed=_contrastive,
    )
