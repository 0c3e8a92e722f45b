"""Losses of every output by itself."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sympy import Abs, exp, log, pi, sign

import jaxnn as nn
from docs.derivations.computing import losses
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import (
    array,
    as_written,
    count,
    function,
    index,
    indicator,
    number,
    partial,
    same,
    total,
)
from jaxnn.losses import elementwise
from jaxnn.losses.targets import Reduced

n = index("n", 2)
i, j = index("i", 3), index("j", 3)
y, t, e, l = array("y", n, j), array("t", n, j), array("e", n, j), array(r"\ell", n)  # noqa: E741
z, p, mu, v = array("z", n, j), array("p", n, j), array("m", n, j), array("v", n, j)
alpha, beta, gamma = number(r"\alpha"), number(r"\delta"), number(r"\gamma")
h, ones, zeros = array("h", n, j), array("f^{1}", n, j), array("f^{0}", n, j)
tau, w = number(r"\tau"), array("w", j)

TARGETS = ((2, -1, 1), (1, 3, -2))
ERRORS = ((-3, 0, 1), (2, -1, 0))
"""Errors of losses that consist of pieces, at the kinks too."""

with as_written():
    sigma = function(r"\sigma", lambda a: 1 / (1 + exp(-a)))

    def of_one_array(
        make: Callable[..., nn.Loss],
        prediction: Any,
        forward: tuple,
        *steps: Step,
        chains: tuple[Chain, ...] = (),
        options: Mapping[str, Any] | None = None,
        fixed: Mapping[Any, Any] | None = None,
        within: Mapping[Any, tuple[float, float]] | None = None,
    ) -> Derivation:
        """Of a loss whose prediction and target are arrays of one shape."""
        options = options or {}
        gradient = partial(l[n], prediction[n, i])

        def computed(prediction, target, **given):
            loss = make(**{name: _plain(value) for name, value in given.items()})
            value, slope = losses(loss, np.asarray(prediction, float), np.asarray(target, float))
            return {l[n]: value, gradient: slope}

        return Derivation(
            title=make.__name__,
            arrays={"prediction": prediction, "target": t, **options},
            forward=forward,
            chains=(*chains, Chain(gradient, *steps)),
            computed=computed,
            fixed=fixed or {},
            within=within or {},
        )

    def _plain(value: Any) -> Any:
        return tuple(map(float, value)) if np.ndim(value) else float(value)

    yj, yi, tj, ti, ej, ei = y[n, j], y[n, i], t[n, j], t[n, i], e[n, j], e[n, i]
    zj, zi, pj, pi = z[n, j], z[n, i], p[n, j], p[n, i]
    error = (ej, Step(yj - tj, "the error of an output"))
    averaged = Code(Reduced.gradient, "self.slope(y, t) / over(count, y.ndim)")
    ALIKE = {y: (np.array(ERRORS) + TARGETS).tolist(), t: TARGETS}

    mean_squared_error = of_one_array(
        nn.mean_squared_error,
        y,
        (error, (l[n], Step(total(ej**2, j) / count(j), "the mean over the J outputs"))),
        Step(total(partial(ej**2, yi), j) / count(j), "term by term"),
        Step(total(2 * ej * partial(ej, yi), j) / count(j), "the chain rule"),
        Step(total(2 * ej * same(j, i), j) / count(j), "an output moves its own error alone"),
        Step(2 * (yi - ti) / count(j), "one term is left", averaged),
    )
    sum_squared_error = of_one_array(
        nn.sum_squared_error,
        y,
        (error, (l[n], Step(total(ej**2, j), "the squared length of the error"))),
        Step(total(2 * ej * same(j, i), j), "as above, not divided"),
        Step(
            2 * (yi - ti),
            "",
            Code(elementwise._SquaredError.of_error, "jnp.square(e), 2 * e"),
        ),
    )
    half_squared_error = of_one_array(
        nn.half_squared_error,
        y,
        (error, (l[n], Step(total(ej**2, j) / 2, "half of it"))),
        Step(total(2 * ej * same(j, i), j) / 2, "as above"),
        Step(
            yi - ti,
            "the ½ was there for this",
            Code(nn.half_squared_error.of_error, "e * e / 2, e"),
        ),
    )
    absolute = Code(elementwise._AbsoluteError.of_error, "e * jnp.sign(e), jnp.sign(e)")
    sum_absolute_error = of_one_array(
        nn.sum_absolute_error,
        y,
        (error, (l[n], Step(total(Abs(ej), j), "the sum of the distances"))),
        Step(total(sign(ej) * same(j, i), j), "the slope of |e| is 1 above 0 and −1 below"),
        Step(sign(yi - ti), "and 0 at the kink, where prediction and target are equal", absolute),
        fixed=ALIKE,
    )
    mean_absolute_error = of_one_array(
        nn.mean_absolute_error,
        y,
        (error, (l[n], Step(total(Abs(ej), j) / count(j), "their mean"))),
        Step(sign(yi - ti) / count(j), "as above, divided", averaged),
        fixed=ALIKE,
    )
    quantile = of_one_array(
        nn.quantile,
        y,
        (
            error,
            (
                l[n],
                Step(
                    total(((1 - tau) * indicator(ej > 0) - tau * indicator(ej < 0)) * ej, j)
                    / count(j),
                    "too much costs 1 − τ, too little τ",
                ),
            ),
        ),
        Step(
            ((1 - tau) * indicator(ei > 0) - tau * indicator(ei < 0)) / count(j),
            "two lines, with their slopes; 0 where they meet",
            Code(
                nn.quantile.of_error,
                "jnp.sign(e) * jnp.where(e > 0, 1 - self.level, self.level)",
            ),
        ),
        options={"level": tau},
        fixed=ALIKE,
    )
    huber = of_one_array(
        nn.huber,
        y,
        (
            error,
            (
                h[n, j],
                Step(
                    ej**2 / 2 * indicator(Abs(ej) <= beta)
                    + beta * (Abs(ej) - beta / 2) * indicator(Abs(ej) > beta),
                    "a square for small errors, a line from δ on",
                    Code(nn.huber.of_error, "quadratic * (jnp.abs(e) - quadratic / 2)"),
                ),
            ),
            (l[n], Step(total(h[n, j], j) / count(j), "the mean over the outputs")),
        ),
        Step(
            (ei * indicator(Abs(ei) <= beta) + beta * sign(ei) * indicator(Abs(ei) > beta))
            / count(j),
            "e, clipped to [−δ, δ]: where both meet, value and slope are the same",
            Code(nn.huber.of_error, "jnp.clip(e, -self.delta, self.delta)"),
        ),
        options={"delta": beta},
    )
    hinge = of_one_array(
        nn.hinge,
        y,
        (
            (
                l[n],
                Step(
                    total((1 - tj * yj) * indicator(tj * yj < 1), j) / count(j),
                    "t is 1 or −1; nothing is lost if y has its sign and is at least 1 away from 0",
                    Code(nn.hinge.terms, "jax.nn.relu(1 - t * y)"),
                ),
            ),
        ),
        Step(
            -ti * indicator(ti * yi < 1) / count(j),
            "a line and a flat piece; at the kink 0",
            Code(nn.hinge.slope, "jnp.where(t * y < 1, -t, 0)"),
        ),
        fixed={y: ((2, 1, 0), (-3, -1, 1)), t: ((1, 1, 1), (1, -1, -1))},
    )
    PROBABILITIES = {y: (0.125, 0.875), t: (0.0, 1.0), p: (0.125, 0.875)}
    binary_cross_entropy = of_one_array(
        nn.binary_cross_entropy,
        y,
        (
            (
                l[n],
                Step(
                    -(
                        total(w[j] * tj * log(yj + beta) + (1 - tj) * log(1 - yj + beta), j)
                        / count(j)
                    ),
                    "t is the share that class 1 should have, w what it counts; δ keeps log 0 away",
                    Code(
                        nn.binary_cross_entropy.terms,
                        "times_log(self.positive(y, t), y + self.delta)",
                    ),
                ),
            ),
        ),
        Step(
            -((w[i] * ti / (yi + beta) - (1 - ti) / (1 - yi + beta)) / count(j)),
            "the derivative of log u is u′/u, and 1 − y falls as y grows",
        ),
        Step(
            ((1 - ti) / (1 - yi + beta) - w[i] * ti / (yi + beta)) / count(j),
            "",
            Code(nn.binary_cross_entropy.slope, "ratio(1 - t, 1 - y + self.delta) - of_ones"),
        ),
        options={"delta": beta, "pos_weight": w},
        within={**PROBABILITIES, w: (0.5, 2)},
    )
    sigmoid_binary_cross_entropy = of_one_array(
        nn.sigmoid_binary_cross_entropy,
        z,
        (
            (
                l[n],
                Step(
                    -(
                        total(w[j] * tj * log(sigma(zj)) + (1 - tj) * log(1 - sigma(zj)), j)
                        / count(j)
                    ),
                    "the same of y = σ(z), computed from log σ(z) = −softplus(−z)",
                    Code(
                        nn.sigmoid_binary_cross_entropy.terms,
                        "times(self.positive(y, t), jax.nn.softplus(-y))",
                    ),
                ),
            ),
        ),
        Step(
            -(w[i] * ti / sigma(zi) - (1 - ti) / (1 - sigma(zi)))
            * partial(sigma(zi), zi)
            / count(j),
            "the chain rule, with the derivative above",
        ),
        Step(
            -(w[i] * ti / sigma(zi) - (1 - ti) / (1 - sigma(zi)))
            * (sigma(zi) * (1 - sigma(zi)))
            / count(j),
            "the slope of the sigmoid",
        ),
        Step(
            ((1 - ti) * sigma(zi) - w[i] * ti * (1 - sigma(zi))) / count(j),
            "it cancels both denominators: no division is left that could go wrong",
            Code(
                nn.sigmoid_binary_cross_entropy.slope,
                "(1 - t) * jax.nn.sigmoid(y) - self.positive(y, t) * jax.nn.sigmoid(-y)",
            ),
        ),
        options={"pos_weight": w},
        within={t: (0.0, 1.0), w: (0.5, 2)},
    )
    of_ones, of_zeros = ones[n, i], zeros[n, i]
    focal = of_one_array(
        nn.focal,
        z,
        (
            (pj, Step(sigma(zj), "the probability of class 1")),
            (
                ones[n, j],
                Step(
                    -((1 - pj) ** gamma * log(pj)),
                    "what class 1 costs: easy examples, p near 1, count less by γ factors 1 − p",
                    Code(nn.focal._easing, "times(self._others(z), jax.nn.softplus(-z))"),
                ),
            ),
            (zeros[n, j], Step(-(pj**gamma * log(1 - pj)), "and class 0")),
            (
                l[n],
                Step(total(tj * ones[n, j] + (1 - tj) * zeros[n, j], j) / count(j), "weighed by t"),
            ),
        ),
        Step(
            (ti * partial(of_ones, zi) + (1 - ti) * partial(of_zeros, zi)) / count(j),
            "the two chains above",
            Code(nn.focal.slope, "times(ones, self._slope(y)) - times(zeros, self._slope(-y))"),
        ),
        chains=(
            Chain(
                partial(of_ones, zi),
                Step(
                    (gamma * (1 - pi) ** (gamma - 1) * log(pi) - (1 - pi) ** gamma / pi)
                    * partial(pi, zi),
                    "the product rule, and the chain rule",
                ),
                Step(
                    (1 - pi) ** gamma * (gamma * pi * log(pi) - (1 - pi)),
                    "∂p/∂z is p (1 − p)",
                    Code(
                        nn.focal._slope,
                        "-self._others(z) * (self.gamma * certain + jax.nn.sigmoid(-z))",
                    ),
                ),
            ),
            Chain(
                partial(of_zeros, zi),
                Step(
                    -(pi**gamma * (gamma * (1 - pi) * log(1 - pi) - pi)),
                    "the same with p and 1 − p, z and −z exchanged",
                ),
            ),
        ),
        options={"gamma": gamma},
        within={t: (0.0, 1.0)},
    )
    poisson_nll = of_one_array(
        nn.poisson_nll,
        y,
        (
            (
                l[n],
                Step(
                    total(exp(yj) - tj * yj, j) / count(j),
                    "−log of rateᵗ e to the −rate / t!, of the rate eʸ, without log t!",
                    Code(
                        nn.poisson_nll.terms,
                        "rate - (times(t, y) if self.log_input else times_log(t, y + self.delta))",
                    ),
                ),
            ),
        ),
        Step(
            (exp(yi) - ti) / count(j),
            "what is expected, less what was counted",
            Code(nn.poisson_nll.slope, "jnp.exp(y) - t"),
        ),
        within={t: (0.0, 5.0)},
    )

    by_mean, by_variance = partial(l[n], mu[n, i]), partial(l[n], v[n, i])

    def _gaussian(mean, variance, target):
        value, (of_mean, of_variance) = losses(nn.gaussian_nll(), (mean, variance), target)
        return {l[n]: value, by_mean: of_mean, by_variance: of_variance}

    gaussian_nll = Derivation(
        title="gaussian_nll",
        arrays={"mean": mu, "variance": v, "target": t},
        forward=(
            (
                l[n],
                Step(
                    total((log(v[n, j]) + (tj - mu[n, j]) ** 2 / v[n, j]) / 2, j) / count(j),
                    "−log of the normal density, without ½ log 2π",
                    Code(nn.gaussian_nll.value, "(jnp.log(v) + (t - m) * ((t - m) / v)) / 2"),
                ),
            ),
        ),
        chains=(
            Chain(
                by_mean,
                Step(-2 * (ti - mu[n, i]) / (2 * v[n, i] * count(j)), "of the square"),
                Step(
                    (mu[n, i] - ti) / (v[n, i] * count(j)),
                    "the error, in units of the variance",
                    Code(nn.gaussian_nll.gradient, "(m - t) / v"),
                ),
            ),
            Chain(
                by_variance,
                Step(
                    (1 / v[n, i] - (ti - mu[n, i]) ** 2 / v[n, i] ** 2) / (2 * count(j)),
                    "of the logarithm, and of 1/v",
                ),
                Step(
                    (1 / v[n, i] - ((mu[n, i] - ti) / v[n, i]) ** 2) / (2 * count(j)),
                    "0 where the variance is the square of the error",
                    Code(nn.gaussian_nll.gradient, "(1 / v - jnp.square(by_mean)) / 2"),
                ),
            ),
        ),
        computed=_gaussian,
        within={v: (0.5, 2)},
    )
