"""Losses: worked examples, and why logistic regression uses the cross-entropy.

Mean squared error (1/n) Σ (t − y)²,  L1 Σ |y − t|,  L2 Σ (y − t)²,
cross-entropy −Σ t log(y + δ),  binary cross-entropy −(t log y + (1 − t) log(1 − y)).

Logistic regression y = σ(z), z = w x + b. By the parameters, with x̃ = (x, 1):

    cross-entropy:  ∇ = (y − t) x̃,  Hessian  y (1 − y) x̃ x̃ᵀ,  never negative: convex;
    squared error:  ∇ = 2 (y − t) y (1 − y) x̃,  Hessian  2 y (1 − y) (y (1 − y)
                    + (y − t)(1 − 2y)) x̃ x̃ᵀ,  negative where an answer is far off: not convex.

Where y is near 0 or 1 and wrong, the factor y (1 − y) also makes the squared error flat.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"\frac{1}{n} \sum_i (t_i - y_i)^2, \quad \sum_i |t_i - y_i|, \quad -\sum_k t_k "
    r"\log(y_k + \delta)",
    r"\nabla_{\text{cross-entropy}} = (y - t)\,\tilde x",
    r"\nabla_{\text{squared error}} = 2\,(y - t)\, y\,(1 - y)\,\tilde x",
)

X = jnp.array([[-3.0], [-2.0], [-1.0], [0.5], [1.0], [2.0], [3.0]])
T = jnp.array([[0.0], [0.0], [1.0], [0.0], [1.0], [1.0], [1.0]])
"""Seven examples of one feature; two of them lie on the wrong side of any line."""
MODELS = {
    "squared error": (nn.serial(nn.dense(1), nn.sigmoid()), nn.mean_squared_error()),
    "cross-entropy": (nn.serial(nn.dense(1)), nn.sigmoid_binary_cross_entropy()),
}


def examples() -> list[tuple[str, str, str, float]]:
    """Loss, prediction, target and value of the worked examples, in float64."""
    near, hit = ([0.9, 0.2, 0.1, 0.4, 0.9], [1.0, 0.0, 0.0, 1.0, 1.0])
    cases = [
        ("mean squared error", nn.mean_squared_error(), [3.0, 5.0, 8.0], [2.0, 4.0, 6.0]),
        ("half sum of squares", nn.half_squared_error(), [3.0, 5.0, 8.0], [2.0, 4.0, 6.0]),
        ("L1", nn.sum_absolute_error(), near, hit),
        ("L2", nn.sum_squared_error(), near, hit),
        ("binary cross-entropy", nn.binary_cross_entropy(), near, hit),
        ("cross-entropy", nn.categorical_cross_entropy(), [0.15, 0.85], [0.0, 1.0]),
        ("cross-entropy, y = 0", nn.categorical_cross_entropy(), [0.0, 1.0], [1.0, 0.0]),
    ]
    with jax.enable_x64(True):
        return [
            (name, str(y), str(t), float(loss.value(jnp.array([y]), jnp.array([t]))[0]))
            for name, loss, y, t in cases
        ]


def surface(model: str, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """The loss, its gradient and its Hessian's least eigenvalue for every pair of w and b.

    Returns:
        loss [b, w], gradient [b, w, 2] (by w, by b) and the eigenvalue [b, w].
    """
    network, loss = MODELS[model]
    compute = nn.backprop(network, loss)

    empty = ((),) * len(network.parts)

    def value_and_gradient(pair):
        params = ({"weight": pair[:1, None], "bias": pair[1:]}, *empty[1:])
        (value, _), gradients = compute(params, empty, X, T)
        return value, jnp.append(gradients[0]["weight"], gradients[0]["bias"])

    def everything(pair):
        value, gradient = value_and_gradient(pair)
        hessian = jax.jacfwd(lambda p: value_and_gradient(p)[1])(pair)
        return value, gradient, jnp.linalg.eigvalsh(hessian)[0]

    pairs = jnp.stack(jnp.meshgrid(jnp.asarray(w), jnp.asarray(b)), -1).reshape(-1, 2)
    results = jax.jit(jax.vmap(everything))(pairs)
    return tuple(np.asarray(r).reshape(len(b), len(w), *r.shape[1:]) for r in results)


SIDE = np.linspace(-8, 8, 65, dtype=np.float32)


def draw_surfaces(surfaces: dict) -> Picture:
    """Both losses over (w, b), with the field of descent and where they curve downwards."""
    figure, row = style.figure(columns=2, height=3.7)
    for axes, (name, (value, gradient, least)) in zip(row, surfaces.items(), strict=True):
        levels = np.geomspace(value.min(), value.max(), 15)
        filled = axes.contourf(SIDE, SIDE, value, levels, cmap=style.SEQUENTIAL)
        lowest = np.unravel_index(np.argmin(value), value.shape)
        axes.plot(SIDE[lowest[1]], SIDE[lowest[0]], "*", color=style.VERMILLION, markersize=10)
        figure.colorbar(filled, ax=axes, format="%.2g", label="mean loss", shrink=0.78)
        if (least < -1e-5).any():  # beyond rounding in float32
            axes.contourf(SIDE, SIDE, least, [-np.inf, -1e-5], colors="none", hatches=["//"])
        few = slice(3, -3, 6)  # no arrow on the border, which would cut it
        down = -gradient[few, few] / np.linalg.norm(gradient[few, few], axis=-1, keepdims=True)
        axes.quiver(
            SIDE[few],
            SIDE[few],
            down[..., 0],
            down[..., 1],
            color="white",
            edgecolor="black",
            linewidth=0.5,
            scale=20,
            width=0.01,
        )
        axes.set(title=name, xlabel="weight w", ylabel="bias b", aspect="equal")
        axes.grid(False)
    caption = (
        "The two losses over weight and bias of a logistic regression. The star marks the least "
        "value, arrows give the direction of descent; hatched is where the surface curves "
        "downwards somewhere."
    )
    return Picture("surfaces", caption, figure)


def draw_curves() -> Picture:
    """Losses of one example by its prediction: of the logit, and of the error."""
    z = jnp.linspace(-6, 6, 121)[:, None]
    one, y = jnp.ones_like(z), jax.nn.sigmoid(z)
    of_logit = {
        "squared error of σ(z)": (nn.mean_squared_error(), y, y * (1 - y)),
        "cross-entropy": (nn.sigmoid_binary_cross_entropy(), z, one),
        "hinge": (nn.hinge(), z, one),
    }
    of_error = {
        "squared": nn.mean_squared_error(),
        "absolute": nn.sum_absolute_error(),
        "Huber, δ = 1": nn.huber(),
    }
    figure, (left, middle, right) = style.figure(columns=3, height=2.9)
    for name, (loss, prediction, chain) in of_logit.items():
        left.plot(z[:, 0], loss.value(prediction, one), label=name)
        middle.plot(z[:, 0], (loss.gradient(prediction, one) * chain)[:, 0], label=name)
    error = jnp.linspace(-3, 3, 121)[:, None]
    for name, loss in of_error.items():
        right.plot(error[:, 0], loss.value(error, jnp.zeros_like(error)), label=name)
    right.plot(error[:, 0], error[:, 0] ** 2 / 2, ":", color=style.GREY, label="e² / 2")
    left.set(title="loss where the answer is 1", xlabel="logit z", ylabel="loss")
    middle.set(title="its gradient by z", xlabel="logit z", ylabel="∂L/∂z")
    right.set(title="regression losses", xlabel="error y − t", ylabel="loss", ylim=(0, 4.5))
    left.legend(loc="upper right", fontsize=8)
    right.legend(loc="upper center", fontsize=8)
    caption = (
        "Far on the wrong side (z → −∞) the squared error is flat and the cross-entropy is not. "
        "Huber's loss is e²/2 near 0 (dotted), half of the squared error, and linear beyond δ."
    )
    return Picture("curves", caption, figure)


def run() -> Result:
    """The worked examples, and the two surfaces of logistic regression."""
    surfaces = {name: surface(name, SIDE, SIDE) for name in MODELS}
    least = [(name, float(s[2].min()), np.mean(s[2] < -1e-5)) for name, s in surfaces.items()]
    return Result(
        "Losses on the numbers of the notes. Over the weight and bias of a logistic regression "
        "the squared error has flat plains and regions that curve downwards, where descent can "
        "stop far from the answer; the cross-entropy is convex, and its gradient by the logit, "
        "σ(z) − 1 where the answer is 1, stays near −1 however wrong the answer is.",
        [draw_surfaces(surfaces), draw_curves()],
        [
            Table("Worked examples", ("loss", "prediction", "target", "value"), examples()),
            Table(
                "Curvature over −8 … 8: the least eigenvalue of the Hessian",
                ("loss", "least", "share of the plane where it is negative"),
                least,
            ),
        ],
    )


if __name__ == "__main__":
    alone("losses")
