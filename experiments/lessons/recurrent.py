"""Recurrent layers: through time, and through one cell."""

import jax.numpy as jnp
import numpy as np

from experiments.lessons.exercise import Exercise, Mistake, gradients
from jaxnn import functional


def sequence_cases(random: np.random.Generator):
    """Sequences with their h, and what arrives at each of these."""
    for batch, time, m, n in ((3, 3, 3, 3), (2, 4, 2, 5)):
        sizes = {"x": (batch, time, m), "weight": (m, n), "recurrent": (n, n), "b": (n,)}
        sizes |= {"dh": (batch, time, n)}
        arrays = {name: random.normal(size=size) for name, size in sizes.items()}
        u = arrays["x"] @ arrays["weight"] + arrays["b"]
        h = [np.tanh(u[:, 0])]
        for t in range(1, time):
            h.append(np.tanh(u[:, t] + h[-1] @ arrays["recurrent"]))
        yield arrays | {"h": np.stack(h, 1)}


def over_time(x, weight, recurrent, bias):
    """`jaxnn.rnn` of its parameters."""
    params = {"input": {"weight": weight, "bias": bias}, "recurrent": {"weight": recurrent}}
    return functional.rnn(params, x)


def sequence(x, h, weight, recurrent, dh):
    """As `jaxnn.rnn` has it; the bias is the one by which the first h are what they are."""
    bias = np.arctanh(h[0, 0]) - x[0, 0] @ weight
    back = gradients(over_time, dh, x, weight, recurrent, bias)
    return dict(zip(("dx", "dweight", "drecurrent", "dbias"), back, strict=True))


def cell_cases(random: np.random.Generator):
    """Gates, the state before, and what arrives."""
    names = ("i", "f", "g", "o", "before", "dh", "dc")
    for shape in ((3, 3), (2, 4)):
        case = {name: random.normal(size=shape) for name in names}
        gates = {name: 1 / (1 + np.exp(-case[name])) for name in ("i", "f", "o")}
        yield case | gates | {"g": np.tanh(case["g"])}


def cell(i, f, g, o, before, dh, dc):
    """As `jaxnn.lstm` has it: one time, and an x that is what enters the gates."""
    features = i.shape[1]
    u = np.concatenate([*(np.log(gate / (1 - gate)) for gate in (i, f)), np.arctanh(g)], 1)
    u = np.concatenate([u, np.log(o / (1 - o))], 1)
    params = {
        "input": {"weight": np.eye(4 * features), "bias": np.zeros(4 * features)},
        "recurrent": {"weight": np.zeros((features, 4 * features))},
    }

    def step(u, before):
        state = (jnp.zeros_like(before), before)
        return functional.lstm(params, u[:, None], None, state, output="all")[1]

    du, dbefore = gradients(step, (dh, dc), u, before)
    blocks = dict(zip(("du_i", "du_f", "du_g", "du_o"), np.split(du, 4, 1), strict=True))
    return blocks | {"dbefore": dbefore}


EXERCISES = (
    Exercise(
        "rnn",
        sequence_cases,
        sequence,
        (
            Mistake(
                "dh[:, t] + later",
                "dh[:, t]",
                "What flows back from the time after is missing: h[t] has a part in h[t + 1].",
            ),
            Mistake(
                "dh[:, t] + later",
                "(later if t < x.shape[1] - 1 else dh[:, t])",
                "Every dh[t] arrives: add it to what flows back from the time after.",
            ),
            Mistake(
                "(dh[:, t] + later) * (1 - h[:, t] ** 2)",
                "(dh[:, t] + later)",
                "The slope of tanh is missing.",
            ),
            Mistake(
                "(dh[:, t] + later) * (1 - h[:, t] ** 2)",
                "dh[:, t] * (1 - h[:, t] ** 2) + later",
                "What flows back from the time after goes through the tanh, too.",
            ),
            Mistake(
                "1 - h[:, t] ** 2",
                "h[:, t] * (1 - h[:, t])",
                "That is the slope of the sigmoid, in place of that of tanh.",
            ),
            Mistake(
                "before = h[:, t - 1] if t > 0 else zeros",
                "before = h[:, t]",
                "What entered U at time t is the h of the time before.",
            ),
            Mistake(
                "before = h[:, t - 1] if t > 0 else zeros",
                "before = h[:, t - 1]",
                "Before the first time h is 0; in Python h[:, −1] is the last one.",
            ),
            Mistake(
                "dweight += ",
                "dweight = ",
                "W is used at every time: dW is the sum over the times.",
            ),
            Mistake(
                "drecurrent += ",
                "drecurrent = ",
                "U is used at every time: dU is the sum over the times.",
            ),
            Mistake(
                "dbias += ", "dbias = ", "b is used at every time: db is the sum over the times."
            ),
            Mistake(
                "later = delta @ recurrent.T",
                "later = delta @ recurrent",
                "The way back to the time before needs U transposed.",
            ),
            Mistake(
                "later = delta @ recurrent.T",
                "later = later + delta @ recurrent.T",
                "What flows back to h[t − 1] from time t is delta Uᵀ alone: what came from later "
                "times is in delta already.",
            ),
            Mistake(
                "delta @ weight.T",
                "delta @ weight",
                "The way back to x needs W transposed.",
            ),
            Mistake(
                "before.T @ delta",
                "delta.T @ before",
                "What you have for dU is its transpose: U is [from h[t − 1], to h[t]].",
            ),
        ),
    ),
    Exercise(
        "lstm",
        cell_cases,
        cell,
        (
            Mistake(
                "dc + dh * o * (1 - tanh_c**2)",
                "dc",
                "A way to c is missing: c has a part in h, so that dh flows back to it, too.",
            ),
            Mistake(
                "dc + dh * o * (1 - tanh_c**2)",
                "dh * o * (1 - tanh_c**2)",
                "dc is missing: what arrives at c from the next time is added to what comes by h.",
            ),
            Mistake(
                "dc + dh * o * (1 - tanh_c**2)",
                "dc + dh * o",
                "On the way from h to c, the slope of tanh is missing.",
            ),
            Mistake(
                "dc + dh * o * (1 - tanh_c**2)",
                "dc + dh * (1 - tanh_c**2)",
                "On the way from h to c, the output gate is missing.",
            ),
            Mistake(
                "at_c * g * i * (1 - i)",
                "at_c * g",
                "The slope of the sigmoid of i is missing.",
            ),
            Mistake(
                "at_c * g * i * (1 - i)",
                "at_c * i * (1 - i)",
                "i is multiplied by g in c: that factor is missing.",
            ),
            Mistake(
                "at_c * before * f * (1 - f)",
                "at_c * before",
                "The slope of the sigmoid of f is missing.",
            ),
            Mistake(
                "at_c * before * f * (1 - f)",
                "at_c * f * (1 - f)",
                "f is multiplied by c₀ in c: that factor is missing.",
            ),
            Mistake(
                "at_c * before * f * (1 - f)",
                "at_c * (f * before + i * g) * f * (1 - f)",
                "f is multiplied by the c of the time before, and not by the c of this one.",
            ),
            Mistake(
                "at_c * i * (1 - g**2)",
                "at_c * i * g * (1 - g)",
                "g is a tanh, whose slope is not that of a sigmoid.",
            ),
            Mistake(
                "at_c * i * (1 - g**2)",
                "at_c * i",
                "The slope of the tanh of g is missing.",
            ),
            Mistake(
                "at_c * i * (1 - g**2)",
                "at_c * (1 - g**2)",
                "g is multiplied by i in c: that factor is missing.",
            ),
            Mistake(
                "dh * tanh_c * o * (1 - o)",
                "dh * tanh_c",
                "The slope of the sigmoid of o is missing.",
            ),
            Mistake(
                "dh * tanh_c * o * (1 - o)",
                "dh * o * (1 - o)",
                "o is multiplied by tanh(c) in h: that factor is missing.",
            ),
            Mistake(
                "dh * tanh_c * o * (1 - o)",
                "dh * (f * before + i * g) * o * (1 - o)",
                "o is multiplied by tanh(c) in h, and not by c.",
            ),
            Mistake(
                "dbefore = at_c * f",
                "dbefore = at_c",
                "c₀ is multiplied by the forget gate in c: that factor is missing.",
            ),
            Mistake(
                "dbefore = at_c * f",
                "dbefore = dc * f",
                "What flows back to c₀ comes through c by both ways, by dh also.",
            ),
        ),
    ),
)
