"""Activations: functions of single elements, of an axis, and gates."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import sympy
from sympy import Abs, Float, Integer, erf, exp, log, pi, sqrt
from sympy import tanh as hyperbolic

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import (
    L,
    array,
    as_written,
    function,
    index,
    indicator,
    number,
    partial,
    same,
    total,
)
from jaxnn.core.adapters import Pointwise
from jaxnn.core.captures import AffineCapture
from jaxnn.layers import activations

KINKS = (-4, -3, -1, 0, 1, 2, 3, 6, 7)
"""Where functions that consist of pieces are compared: within the pieces, and where two meet."""

n, m = index("n", len(KINKS)), index("m", len(KINKS))
x, y, delta = array("x", n), array("y", n), array(r"\delta", n)
slope = partial(y[n], x[n])
t, u = array("t", n), array("u", n)
A, B = array("a", n), array("b", n)

# Rows, whose elements depend on each other or share parameters.
b = index("b", 2)
i, j, k, l = (index(name, 3) for name in "ijkl")  # noqa: E741
X, Y, D = array("x", b, i), array("y", b, i), array(r"\delta", b, i)
a = array("a", i)
c, length = array("c", b), array("s", b)

with as_written():
    sigma = function(r"\sigma", lambda a: 1 / (1 + exp(-a)))
    Phi = function(r"\Phi", lambda a: (1 + erf(a / sqrt(2))) / 2)
    phi = function(r"\varphi", lambda a: exp(-(a**2) / 2) / sqrt(2 * pi))
    alpha, lam = number(r"\alpha"), number(r"\lambda")
    xn, yn = x[n], y[n]

    def _pointwise(
        make: Callable[..., nn.Layer],
        forward: Step,
        *steps: Step,
        before: tuple = (),
        chains: tuple[Chain, ...] = (),
        options: Mapping[str, Any] | None = None,
        kinks: bool = False,
        title: str | None = None,
    ) -> Derivation:
        """y = f(x) and its slope, which is what backward makes of a delta of 1."""
        options = options or {}

        def computed(x, **given):
            layer = make(**{name: float(value) for name, value in given.items()})
            x = np.asarray(x, float)
            out, into, _ = passes(layer, (), x, np.ones_like(x))
            return {yn: out, slope: into}

        return Derivation(
            title=title or make.__name__,
            arrays={"x": x, **options},
            forward=(*before, (yn, forward)),
            chains=(*chains, Chain(slope, *steps)),
            computed=computed,
            fixed={x: KINKS} if kinks else {},
        )

    def _sigmoid(x, dy):
        out, into, _ = passes(nn.sigmoid(), (), x, dy)
        return {yn: out, dx: into}

    dx = partial(L, xn)
    sigmoid = Derivation(
        title="sigmoid",
        arrays={"x": x, "dy": delta},
        forward=(
            (
                yn,
                Step(
                    1 / (1 + exp(-xn)),
                    "from 0 to 1; ½ at x = 0",
                    Code(nn.sigmoid.function, "jax.nn.sigmoid(x)"),
                ),
            ),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                slope,
                Step(exp(-xn) / (1 + exp(-xn)) ** 2, "the derivative of 1/u is −u′/u²"),
                Step(yn * exp(-xn) / (1 + exp(-xn)), "one of the two factors below makes a y"),
                Step(
                    yn * (1 - yn),
                    "what is left is missing to 1 in y. So y is enough: x need not be kept",
                    Code(nn.sigmoid.slope_from_output, "y * (1 - y)"),
                ),
            ),
            Chain(
                dx,
                Step(
                    total(partial(L, y[m]) * partial(y[m], xn), m),
                    "the chain rule over all elements of y",
                ),
                Step(
                    delta[n] * slope,
                    "an element of x moves its own element of y alone",
                    Code(Pointwise.pull_back, "slope(residuals) * dy"),
                ),
                Step(delta[n] * yn * (1 - yn)),
            ),
        ),
        computed=_sigmoid,
    )

    def _fraction(sign):
        return exp(xn) + sign * exp(-xn)

    tanh = _pointwise(
        nn.tanh,
        Step((exp(xn) - exp(-xn)) / (exp(xn) + exp(-xn)), "from −1 to 1"),
        Step(
            ((exp(xn) + exp(-xn)) ** 2 - (exp(xn) - exp(-xn)) ** 2) / (exp(xn) + exp(-xn)) ** 2,
            "the derivative of u/v is (u′v − uv′)/v², and here u′ = v, v′ = u",
        ),
        Step(1 - yn**2, "", Code(nn.tanh.slope_from_output, "1 - y * y")),
    )

    softplus = _pointwise(
        nn.softplus,
        Step(log(1 + exp(xn)), "a smooth ReLU"),
        Step(exp(xn) / (1 + exp(xn)), "the derivative of log u is u′/u"),
        Step(sigma(xn), "divided by eˣ above and below"),
        Step(
            1 - exp(-yn),
            "for e⁻ʸ = 1/(1 + eˣ) = 1 − σ(x)",
            Code(nn.softplus.slope_from_output, "-jnp.expm1(-y)"),
        ),
    )

    log_sigmoid = _pointwise(
        nn.log_sigmoid,
        Step(-log(1 + exp(-xn)), "log σ(x), without a logarithm of 0 for x far below it"),
        Step(exp(-xn) / (1 + exp(-xn)), "the derivative of log u is u′/u"),
        Step(1 - sigma(xn), "what is missing to 1 is 1/(1 + e⁻ˣ)"),
        Step(1 - exp(yn), "for eʸ = σ(x)", Code(nn.log_sigmoid.slope_from_output, "-jnp.expm1(y)")),
    )

    identity = _pointwise(
        nn.identity,
        Step(xn, "nothing happens", Code(nn.identity.apply, "return x, ()")),
        Step(Integer(1), "so that dx = dy", Code(nn.identity.pull_back, "return dy")),
    )

    heaviside = _pointwise(
        nn.heaviside,
        Step(indicator(xn > 0), "the step", Code(nn.heaviside.function, "(x > 0)")),
        Step(
            Integer(0),
            "it is flat; at the jump by convention",
            Code(nn.heaviside.slope_from_output, "jnp.zeros_like(y)"),
        ),
        kinks=True,
    )

    relu = _pointwise(
        nn.relu,
        Step(xn * indicator(xn > 0), "max(0, x)", Code(nn.relu.function, "jax.nn.relu(x)")),
        Step(indicator(xn > 0), "at the kink the slope of its left side"),
        Step(
            indicator(yn > 0),
            "y is positive where x is: y is enough",
            Code(nn.relu.slope_from_output, "(y > 0)"),
        ),
        kinks=True,
    )

    leaky_relu = _pointwise(
        nn.leaky_relu,
        Step(
            xn * indicator(xn > 0) + alpha * xn * indicator(xn <= 0),
            "α, the negative slope, is 0.01 unless given",
            Code(nn.leaky_relu.function, "jnp.where(x > 0, x, self.negative_slope * x)"),
        ),
        Step(indicator(xn > 0) + alpha * indicator(xn <= 0), "at the kink that of the left side"),
        Step(
            indicator(yn > 0) + alpha * indicator(yn <= 0),
            "y has the sign of x",
            Code(nn.leaky_relu.slope_from_output, "jnp.where(y > 0, 1, self.negative_slope)"),
        ),
        options={"negative_slope": alpha},
        kinks=True,
    )

    relu6 = _pointwise(
        nn.relu6,
        Step(
            xn * indicator(xn > 0) * indicator(xn < 6) + 6 * indicator(xn >= 6),
            "ReLU, at most 6",
        ),
        Step(indicator(xn > 0) * indicator(xn < 6), "0 at both kinks"),
        Step(
            indicator(yn > 0) * indicator(yn < 6),
            "",
            Code(nn.relu6.slope_from_output, "((y > low) & (y < high))"),
        ),
        kinks=True,
    )

    hard_tanh = _pointwise(
        nn.hard_tanh,
        Step(
            xn * indicator(Abs(xn) < 1) + indicator(xn >= 1) - indicator(xn <= -1),
            "x, but not below −1 or above 1",
        ),
        Step(indicator(Abs(xn) < 1), "0 at both kinks"),
        Step(
            indicator(Abs(yn) < 1),
            "",
            Code(nn.hard_tanh.slope_from_output, "((y > low) & (y < high))"),
        ),
        kinks=True,
    )

    hard_sigmoid = _pointwise(
        nn.hard_sigmoid,
        Step(
            (xn / 6 + Integer(1) / 2) * indicator(Abs(xn) < 3) + indicator(xn >= 3),
            "a line from 0 at −3 to 1 at 3",
        ),
        Step(
            indicator(Abs(xn) < 3) / 6,
            "0 at both kinks",
            Code(nn.hard_sigmoid.slope_from_input, "jnp.where(abs(x) < 3, 1 / 6, 0)"),
        ),
        kinks=True,
    )

    hard_swish = _pointwise(
        nn.hard_swish,
        Step(
            xn * (xn / 6 + Integer(1) / 2) * indicator(Abs(xn) < 3) + xn * indicator(xn >= 3),
            "x times the hard sigmoid of x",
        ),
        Step(
            (xn / 3 + Integer(1) / 2) * indicator(Abs(xn) < 3) + indicator(xn >= 3),
            "a product; at the kinks that of the outer piece",
            Code(
                nn.hard_swish.slope_from_input,
                "jnp.where(x >= 3, 1, jnp.where(x <= -3, 0, x / 3 + 0.5))",
            ),
        ),
        kinks=True,
    )

    elu = _pointwise(
        nn.elu,
        Step(
            xn * indicator(xn > 0) + alpha * (exp(xn) - 1) * indicator(xn <= 0),
            "bends to −α in place of staying at 0",
        ),
        Step(indicator(xn > 0) + alpha * exp(xn) * indicator(xn <= 0), "piece by piece"),
        Step(
            indicator(yn > 0) + (yn + alpha) * indicator(yn <= 0),
            "below 0, α eˣ is y + α",
            Code(nn.elu.slope_from_output, "jnp.where(y > 0, scale, (y + scale * alpha) / beta)"),
        ),
        options={"alpha": alpha},
        kinks=True,
    )

    celu = _pointwise(
        nn.celu,
        Step(
            xn * indicator(xn > 0) + alpha * (exp(xn / alpha) - 1) * indicator(xn <= 0),
            "with a slope of 1 on both sides of 0, for every α",
        ),
        Step(indicator(xn > 0) + exp(xn / alpha) * indicator(xn <= 0), "piece by piece"),
        Step(
            indicator(yn > 0) + (yn + alpha) / alpha * indicator(yn <= 0),
            "below 0, α e to the power of x/α is y + α",
            Code(nn.celu.slope_from_output, "jnp.where(y > 0, scale, (y + scale * alpha) / beta)"),
        ),
        options={"alpha": alpha},
        kinks=True,
    )

    selu = _pointwise(
        nn.selu,
        Step(
            lam * xn * indicator(xn > 0) + lam * alpha * (exp(xn) - 1) * indicator(xn <= 0),
            "λ times ELU",
        ),
        Step(
            lam * indicator(xn > 0) + lam * alpha * exp(xn) * indicator(xn <= 0),
            "λ times its slope",
        ),
        Step(
            lam * indicator(yn > 0) + (yn + lam * alpha) * indicator(yn <= 0),
            "below 0, λ α eˣ is y + λ α",
            Code(nn.selu.slope_from_output, "jnp.where(y > 0, scale, (y + scale * alpha) / beta)"),
        ),
        before=(
            (
                alpha,
                Step(
                    Float("1.6732632423543772"),
                    "with which numbers of mean 0 and variance 1 keep both",
                    Code(nn.selu.constants.fget, "1.6732632423543772"),
                ),
            ),
            (
                lam,
                Step(
                    Float("1.0507009873554805"),
                    "likewise",
                    Code(nn.selu.constants.fget, "1.05070098735548"),
                ),
            ),
        ),
        kinks=True,
    )

    silu = _pointwise(
        nn.silu,
        Step(
            xn * sigma(xn), "x through a gate of its own", Code(nn.silu.function, "jax.nn.silu(x)")
        ),
        Step(sigma(xn) + xn * partial(sigma(xn), xn), "the product rule"),
        Step(sigma(xn) + xn * sigma(xn) * (1 - sigma(xn)), "the slope of the sigmoid"),
        Step(
            sigma(xn) * (1 + xn * (1 - sigma(xn))),
            "",
            Code(nn.silu.slope_from_input, "s * (1 + x * (1 - s))"),
        ),
    )

    tn, un = t[n], u[n]
    mish = _pointwise(
        nn.mish,
        Step(xn * tn, "x through another gate"),
        Step(tn + xn * partial(tn, xn), "the product rule"),
        Step(
            tn + xn * (1 - tn**2) * partial(log(1 + exp(xn)), xn),
            "the slope of tanh, and the chain rule",
        ),
        Step(
            tn + xn * (1 - tn**2) * sigma(xn),
            "the slope of softplus",
            Code(nn.mish.slope_from_input, "t + x * (1 - t * t) * jax.nn.sigmoid(x)"),
        ),
        before=(
            (
                tn,
                Step(
                    hyperbolic(log(1 + exp(xn))),
                    "tanh of softplus",
                    Code(nn.mish.slope_from_input, "jnp.tanh(jax.nn.softplus(x))"),
                ),
            ),
        ),
    )

    gelu_exact = _pointwise(
        lambda: nn.gelu(approximate=False),
        Step(xn * Phi(xn), "x times the share of a normal distribution that is below x"),
        Step(Phi(xn) + xn * partial(Phi(xn), xn), "the product rule"),
        Step(
            Phi(xn) + xn * phi(xn),
            "the slope of a distribution function is its density φ",
            Code(
                activations._gelu_exact_slope,
                "jax.scipy.special.erfc(-x / math.sqrt(2)) / 2 + x * density",
            ),
        ),
        chains=(
            Chain(
                partial(Phi(xn), xn),
                Step(partial((1 + erf(xn / sqrt(2))) / 2, xn), "Φ by the error function"),
                Step(exp(-(xn**2 / 2)) / sqrt(2 * pi), "whose slope is 2/√π e to the power −u²"),
                Step(
                    phi(xn),
                    "the density",
                    Code(
                        activations._gelu_exact_slope,
                        "jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)",
                    ),
                ),
            ),
        ),
        title="gelu",
    )

    cubic = Float("0.044715", 25)
    gelu = _pointwise(
        nn.gelu,
        Step(xn * (1 + tn) / 2, "(1 + t)/2 is near to Φ"),
        Step((1 + tn) / 2 + xn * partial(tn, xn) / 2, "the product rule"),
        Step((1 + tn) / 2 + xn * (1 - tn**2) * partial(un, xn) / 2, "the slope of tanh"),
        Step(
            (1 + tn) / 2 + xn * (1 - tn**2) * sqrt(2 / pi) * (1 + 3 * cubic * xn**2) / 2,
            "the slope of u",
            Code(
                activations._gelu_tanh_slope,
                "(1 + t) / 2 + x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x) / 2",
            ),
        ),
        before=(
            (un, Step(sqrt(2 / pi) * (xn + cubic * xn**3))),
            (
                tn,
                Step(
                    hyperbolic(un),
                    "",
                    Code(
                        activations._gelu_tanh_slope,
                        "jnp.tanh(root * (x + 0.044715 * x**3))",
                    ),
                ),
            ),
        ),
    )

    softsign = _pointwise(
        nn.softsign,
        Step(xn / (1 + Abs(xn)), "from −1 to 1 as tanh, but slowly"),
        Step(
            (1 + Abs(xn) - xn * sympy.sign(xn)) / (1 + Abs(xn)) ** 2,
            "the derivative of u/v is (u′v − uv′)/v²",
        ),
        Step(
            1 / (1 + Abs(xn)) ** 2,
            "x sign(x) is |x|",
            Code(nn.softsign.slope_from_input, "jnp.square(1 / (1 + abs(x)))"),
        ),
    )

    into, by_a = partial(L, X[b, i]), partial(L, a[i])

    def _prelu(x, a, dy):
        layer = nn.prelu(per_channel=True)
        out, dx, gradient = passes(layer, {"scale": a}, np.asarray(x, float), dy)
        return {Y[b, i]: out, into: dx, by_a: gradient["scale"]}

    prelu = Derivation(
        title="prelu",
        arrays={"x": X, "a": a, "dy": D},
        forward=(
            (
                Y[b, i],
                Step(
                    X[b, i] * indicator(X[b, i] > 0) + a[i] * X[b, i] * indicator(X[b, i] <= 0),
                    "leaky ReLU, whose slope below 0 is learned, here one for each channel i",
                    Code(nn.prelu.forward, "jnp.where(x > 0, x, scale * jnp.where(x > 0, 0, x))"),
                ),
            ),
        ),
        deltas={Y: D},
        chains=(
            Chain(
                into,
                Step(D[b, i] * partial(Y[b, i], X[b, i]), "element by element"),
                Step(
                    D[b, i] * indicator(X[b, i] > 0) + a[i] * D[b, i] * indicator(X[b, i] <= 0),
                    "at the kink that of the left side. x must be kept: for a negative a, y does "
                    "not tell its sign",
                    Code(nn.prelu.backward, 'jnp.where(x > 0, dy, params["scale"] * dy)'),
                ),
            ),
            Chain(
                by_a,
                Step(
                    total(partial(L, Y[b, j]) * partial(Y[b, j], a[i]), b, j),
                    "the chain rule: all examples share a",
                ),
                Step(
                    total(D[b, j] * X[b, j] * indicator(X[b, j] <= 0) * same(j, i), b, j),
                    "y depends on a where x is not positive, in its own channel",
                ),
                Step(
                    total(X[b, i] * indicator(X[b, i] <= 0) * D[b, i], b),
                    "the sum of min(x, 0) δ",
                    Code(AffineCapture.sums, "jnp.sum(products, axis=0)"),
                ),
            ),
        ),
        computed=_prelu,
        fixed={X: ((-3, 0, 2), (1, -1, -2))},
    )

    def _along(layer):
        def computed(x, dy):
            out, dx, _ = passes(layer, (), x, dy)
            return {Y[b, i]: out, into: dx}

        return computed

    softmax = Derivation(
        title="softmax",
        arrays={"x": X, "dy": D},
        forward=(
            (
                Y[b, i],
                Step(
                    exp(X[b, i] - c[b]) / total(exp(X[b, k] - c[b]), k),
                    "c is the largest element of the row, so that no exponential overflows",
                    Code(nn.softmax.apply, "jax.nn.softmax(_wide(x), self.axis)"),
                ),
            ),
        ),
        deltas={Y: D},
        chains=(
            Chain(
                Y[b, i],
                Step(
                    exp(X[b, i]) / total(exp(X[b, k]), k),
                    "e to the power of −c stands above and below, so that c is of no consequence",
                ),
            ),
            Chain(
                partial(Y[b, j], X[b, i]),
                Step(partial(exp(X[b, j]) / total(exp(X[b, k]), k), X[b, i])),
                Step(
                    exp(X[b, j]) * same(i, j) / total(exp(X[b, k]), k)
                    - exp(X[b, j]) * exp(X[b, i]) / total(exp(X[b, k]), k) ** 2,
                    "(u′v − uv′)/v²: u moves with its own x alone, v with every one",
                ),
                Step(
                    Y[b, j] * (same(i, j) - Y[b, i]),
                    "one term on the diagonal, and one everywhere: diag(y) − y yᵀ",
                ),
            ),
            Chain(
                into,
                Step(
                    total(partial(L, Y[b, j]) * partial(Y[b, j], X[b, i]), j),
                    "the chain rule: x moves all of its row of y",
                ),
                Step(total(D[b, j] * Y[b, j] * (same(i, j) - Y[b, i]), j), "the line above"),
                Step(
                    Y[b, i] * (D[b, i] - total(Y[b, j] * D[b, j], j)),
                    "the matrix is never made: a sum and two products",
                    Code(
                        nn.softmax.pull_back,
                        "y * (d - jnp.sum(y * d, self.axis, keepdims=True))",
                    ),
                ),
            ),
        ),
        computed=_along(nn.softmax()),
    )

    log_softmax = Derivation(
        title="log_softmax",
        arrays={"x": X, "dy": D},
        forward=(
            (
                Y[b, i],
                Step(
                    X[b, i] - log(total(exp(X[b, k]), k)),
                    "the logarithm of softmax, without one of a number that was rounded to 0",
                    Code(nn.log_softmax.apply, "jax.nn.log_softmax(_wide(x), self.axis)"),
                ),
            ),
        ),
        deltas={Y: D},
        chains=(
            Chain(
                partial(Y[b, j], X[b, i]),
                Step(
                    same(i, j) - exp(X[b, i]) / total(exp(X[b, k]), k),
                    "the derivative of log u is u′/u",
                ),
                Step(same(i, j) - exp(Y[b, i]), "the fraction is the softmax, e to the power of y"),
            ),
            Chain(
                into,
                Step(total(partial(L, Y[b, j]) * partial(Y[b, j], X[b, i]), j), "the chain rule"),
                Step(
                    D[b, i] - exp(Y[b, i]) * total(D[b, j], j),
                    "the first term is there once, for j = i",
                    Code(
                        nn.log_softmax.pull_back,
                        "d - exp_y * jnp.sum(d, self.axis, keepdims=True)",
                    ),
                ),
            ),
        ),
        computed=_along(nn.log_softmax()),
    )

    normalize = Derivation(
        title="normalize",
        arrays={"x": X, "dy": D},
        forward=(
            (
                length[b],
                Step(
                    sqrt(total(X[b, k] ** 2, k)),
                    "the length of the row, here above ε",
                    Code(nn.normalize.apply, "norm_along(wide, (self.axis,))"),
                ),
            ),
            (
                Y[b, i],
                Step(X[b, i] / length[b], "of length 1", Code(nn.normalize.apply, "wide / ")),
            ),
        ),
        deltas={Y: D},
        chains=(
            Chain(
                partial(length[b], X[b, i]),
                Step(
                    2 * X[b, i] / (2 * sqrt(total(X[b, k] ** 2, k))),
                    "of a root and a sum of squares",
                ),
                Step(Y[b, i], "the length grows fastest along x"),
            ),
            Chain(
                partial(Y[b, j], X[b, i]),
                Step(
                    same(i, j) / length[b] - X[b, j] * partial(length[b], X[b, i]) / length[b] ** 2,
                    "x stands above, and in the length below",
                ),
                Step((same(i, j) - Y[b, j] * Y[b, i]) / length[b], "the line above"),
            ),
            Chain(
                into,
                Step(total(partial(L, Y[b, j]) * partial(Y[b, j], X[b, i]), j), "the chain rule"),
                Step(
                    (D[b, i] - Y[b, i] * total(Y[b, j] * D[b, j], j)) / length[b],
                    "of δ, what lies along y is taken away: in that direction y cannot move",
                    Code(nn.normalize.pull_back, "(d - y * along) / floored"),
                ),
            ),
        ),
        computed=_along(nn.normalize()),
    )

    an, bn = A[n], B[n]
    da, db = partial(L, an), partial(L, bn)
    product = Code(nn.multiply.pull_back, "functools.reduce(jnp.multiply, rest, dy)")

    def _gated(layer: nn.Layer, gate: Any, reason: str, *steps: Step) -> Derivation:
        """y = a f(b), with what f′ is, step by step."""

        def computed(a, b, dy):
            x = np.concatenate([a, b])[None]
            params, state = layer.init(jax.random.key(0), x)
            out, dx, _ = passes(layer, params, x, dy[None], state)
            return {yn: out[0], da: dx[0, : len(a)], db: dx[0, len(a) :]}

        return Derivation(
            title=layer.name,
            arrays={"a": A, "b": B, "dy": delta},
            forward=((yn, Step(an * gate, reason)),),
            deltas={y: delta},
            chains=(
                Chain(
                    da,
                    Step(delta[n] * partial(yn, an), "element by element"),
                    Step(
                        delta[n] * gate,
                        "y is linear in a: where the gate is shut, nothing",
                        product,
                    ),
                ),
                Chain(
                    db,
                    Step(delta[n] * an * partial(gate, bn), "a multiplies whatever the gate does"),
                    *steps,
                ),
            ),
            computed=computed,
        )

    glu = _gated(
        nn.glu(),
        sigma(bn),
        "the halves of x: a, and b that is its gate",
        Step(
            delta[n] * an * sigma(bn) * (1 - sigma(bn)),
            "the slope of the sigmoid",
            Code(nn.sigmoid.slope_from_output, "y * (1 - y)"),
        ),
    )
    swiglu = _gated(
        nn.swiglu(),
        bn * sigma(bn),
        "the gate is SiLU of b",
        Step(
            delta[n] * an * sigma(bn) * (1 + bn * (1 - sigma(bn))),
            "the slope of SiLU",
            Code(nn.silu.slope_from_input, "s * (1 + x * (1 - s))"),
        ),
    )
    geglu = _gated(
        nn.geglu(approximate=False),
        bn * Phi(bn),
        "the gate is GELU of b",
        Step(
            delta[n] * an * (Phi(bn) + bn * phi(bn)),
            "the slope of GELU",
            Code(nn.gelu.slope_from_input, "_gelu_exact_slope(x)"),
        ),
    )
