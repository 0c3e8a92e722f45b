"""Losses of a distribution over classes."""

import jax
import jax.numpy as jnp
from sympy import exp, log

import jaxnn as nn
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.losses import beta, gamma, i, j, l, n, of_one_array, p, t, y, z
from docs.derivations.notation import L, array, as_written, index, partial, same, total
from jaxnn.losses.projection import Factors

k, m = index("k", 3), index("m", 2)
a, term = array("a", n, j), array("f", n, j)
f, g = index("f", 2), index("g", 2)
x, W, b = array("x", n, f), array("W", f, j), array("b", j)
label, c = array("t", n), array("c", n)

SHARES = {y: (0.125, 0.875), t: (0.0, 1.0)}

with as_written():
    yj, yi, tj, ti = y[n, j], y[n, i], t[n, j], t[n, i]
    zj, zi, zk, pj, pi, pk = z[n, j], z[n, i], z[n, k], p[n, j], p[n, i], p[n, k]

    categorical_cross_entropy = of_one_array(
        nn.categorical_cross_entropy,
        y,
        (
            (
                l[n],
                Step(
                    -total(tj * log(yj + beta), j),
                    "y and t are distributions over the classes j; δ keeps log 0 away",
                    Code(
                        nn.categorical_cross_entropy.terms,
                        "-jnp.sum(times_log(t, y + self.delta), -1)",
                    ),
                ),
            ),
        ),
        Step(-total(tj / (yj + beta) * same(j, i), j), "the derivative of log u is u′/u"),
        Step(
            -(ti / (yi + beta)),
            "one term is left",
            Code(nn.categorical_cross_entropy.slope, "-ratio(t, y + self.delta)"),
        ),
        options={"delta": beta},
        within=SHARES,
    )
    negative_log_likelihood = of_one_array(
        nn.negative_log_likelihood,
        y,
        (
            (
                l[n],
                Step(
                    -total(tj * yj, j),
                    "y are logarithms of probabilities",
                    Code(nn.negative_log_likelihood.terms, "-jnp.sum(times(t, y), -1)"),
                ),
            ),
        ),
        Step(-ti, "linear in y", Code(nn.negative_log_likelihood.slope, "-t")),
        within={t: (0.0, 1.0)},
    )
    kl_divergence = of_one_array(
        nn.kl_divergence,
        y,
        (
            (
                l[n],
                Step(
                    total(tj * (log(tj) - yj), j),
                    "how far the distribution e to the power of y is from t",
                    Code(nn.kl_divergence.terms, "jnp.sum(times_log(t, t) - times(t, y), -1)"),
                ),
            ),
        ),
        Step(-ti, "the entropy does not depend on y", Code(nn.kl_divergence.slope, "-t")),
        chains=(
            Chain(
                l[n],
                Step(
                    -total(tj * yj, j) - (-total(tj * log(tj), j)),
                    "the cross-entropy of t and y, less the entropy of t",
                ),
            ),
        ),
        within={t: (0.125, 1.0)},
    )
    probabilities = (
        pj,
        Step(exp(zj) / total(exp(zk), k), "the probabilities, by softmax"),
    )
    of_one_share = Chain(
        partial(log(pj), zi),
        Step(partial(zj - log(total(exp(zk), k)), zi), "the logarithm of the fraction"),
        Step(same(i, j) - exp(zi) / total(exp(zk), k), "the derivative of log u is u′/u"),
        Step(same(i, j) - pi, "the fraction is a probability again"),
    )
    softmax_cross_entropy = of_one_array(
        nn.softmax_cross_entropy,
        z,
        (
            probabilities,
            (
                l[n],
                Step(
                    -total(tj * log(pj), j),
                    "the cross-entropy of the classes wanted, t, and those given",
                    Code(
                        nn.softmax_cross_entropy.terms,
                        "-jnp.sum(times(t, jax.nn.log_softmax(y)), -1)",
                    ),
                ),
            ),
        ),
        Step(-total(tj * partial(log(pj), zi), j), "a logit moves all of the probabilities"),
        Step(-total(tj * (same(i, j) - pi), j), "the line above"),
        Step(
            pi * total(tj, j) - ti,
            "one term of the first sum is left. The targets of an example mostly sum to 1",
            Code(
                nn.softmax_cross_entropy.slope,
                "jax.nn.softmax(y) * jnp.sum(t, -1, keepdims=True) - t",
            ),
        ),
        chains=(of_one_share,),
        within={t: (0.0, 1.0)},
    )
    softmax_focal = of_one_array(
        nn.softmax_focal,
        z,
        (
            probabilities,
            (
                term[n, j],
                Step(
                    -(tj * (1 - pj) ** gamma * log(pj)),
                    "what is known well, with p near 1, counts less by γ factors 1 − p",
                    Code(nn.softmax_focal.terms, "times(t, self._others(log_p) * log_p)"),
                ),
            ),
            (l[n], Step(total(term[n, j], j), "their sum")),
            (
                a[n, j],
                Step(
                    tj * (gamma * pj * (1 - pj) ** (gamma - 1) * log(pj) - (1 - pj) ** gamma),
                    "the slope of a term by log p, for p moves by p times as much",
                    Code(
                        nn.softmax_focal.slope,
                        "times(t, self._others(log_p) * (self.gamma * ratio - 1))",
                    ),
                ),
            ),
        ),
        Step(total(a[n, j] * partial(log(pj), zi), j), "the chain rule, by way of log p"),
        Step(total(a[n, j] * (same(i, j) - pi), j), "as for softmax_cross_entropy"),
        Step(
            a[n, i] - pi * total(a[n, j], j),
            "one term of the first sum is left",
            Code(nn.softmax_focal.slope, "a - p * jnp.sum(a, -1, keepdims=True)"),
        ),
        chains=(
            Chain(
                partial(term[n, j], pj) * pj,
                Step(
                    (tj * gamma * (1 - pj) ** (gamma - 1) * log(pj) - tj * (1 - pj) ** gamma / pj)
                    * pj,
                    "the product rule",
                ),
                Step(a[n, j], "p cancels in the last term"),
            ),
        ),
        options={"gamma": gamma},
        within={t: (0.0, 1.0)},
    )

    into, by_weight, by_bias = partial(L, x[n, f]), partial(L, W[f, j]), partial(L, b[j])
    by_logits = partial(L, z[n, i])

    def _projected(x, W, b, labels, factors):
        loss = nn.projected_cross_entropy(block=1)
        with jax.enable_x64(True):
            given = Factors(jnp.asarray(x), {"weight": jnp.asarray(W), "bias": jnp.asarray(b)})
            value, slope = jax.jit(loss.weighted)(given, labels, factors)
        return {
            l[n]: value,
            into: slope.x,
            by_weight: slope.params["weight"],
            by_bias: slope.params["bias"],
        }

    projected_cross_entropy = Derivation(
        title="projected_cross_entropy",
        arrays={"x": x, "W": W, "b": b, "labels": label, "factors": c},
        forward=(
            (zj, Step(total(x[n, f] * W[f, j], f) + b[j], "the logits, of a last dense layer")),
            probabilities,
            (l[n], Step(-total(same(label[n], j) * log(pj), j), "here t is the label")),
            (L, Step(total(c[n] * l[n], n), "c is what an example counts in the mean")),
        ),
        chains=(
            Chain(
                by_logits,
                Step(
                    c[n] * (pi - same(label[n], i)),
                    "that of softmax_cross_entropy, of targets that sum to 1",
                    Code(nn.projected_cross_entropy.weighted, "(jax.nn.softmax(z) - hit) * share"),
                ),
            ),
            Chain(
                into,
                Step(total(partial(L, z[n, i]) * W[f, i], i), "that of a dense layer"),
                Step(
                    total(c[n] * (pi - same(label[n], i)) * W[f, i], i),
                    "a block of examples at a time; then its logits are forgotten",
                    Code(nn.projected_cross_entropy.weighted, "dz @ weight.T"),
                ),
            ),
            Chain(
                by_weight,
                Step(total(x[n, f] * partial(L, zj), n), "likewise"),
                Step(
                    total(x[n, f] * c[n] * (pj - same(label[n], j)), n),
                    "the sum grows block by block",
                    Code(
                        nn.projected_cross_entropy.weighted,
                        "jnp.matmul(x.T, dz, preferred_element_type=wide)",
                    ),
                ),
            ),
            Chain(
                by_bias,
                Step(
                    total(c[n] * (pj - same(label[n], j)), n),
                    "likewise",
                    Code(nn.projected_cross_entropy.weighted, "jnp.sum(dz, 0, dtype=wide)"),
                ),
            ),
        ),
        computed=_projected,
        fixed={label: (2, 0)},
    )
