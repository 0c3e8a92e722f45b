"""Recurrent layers, of one example: features before the layer i, of its state j, k, l."""

import numpy as np
import sympy

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import L, array, as_written, function, index, partial, total
from jaxnn.layers.recurrent import scanning
from jaxnn.layers.recurrent.cells import GRUCell, LSTMCell, RNNCell

t = index("t", 3)
i, j, k, l = index("i", 2), index("j", 2), index("k", 2), index("l", 2)  # noqa: E741
x, W, U, b = array("x", t, i), array("W", i, j), array("U", k, j), array("b", j)
u, h, delta = array("u", t, j), array("h", t, j), array(r"\delta", t, j)
sigma = function(r"\sigma", lambda a: 1 / (1 + sympy.exp(-a)))
tanh = sympy.tanh

# The gated cells are given the projections u of their gates, two times of them.
T = index("t", 2)
H, Delta = array("h", T, j), array(r"\delta", T, j)
_COLUMNS = (T, j)
ur, uz, un = (array(f"u^{gate}", *_COLUMNS) for gate in "rzn")
vr, vz, vn = (array(f"v^{gate}", *_COLUMNS) for gate in "rzn")
r, z, new = (array(gate, *_COLUMNS) for gate in "rzn")
Ur, Uz, Un = (array(f"U^{gate}", k, j) for gate in "rzn")
cr, cz, cn = (array(f"c^{gate}", j) for gate in "rzn")
ui, uf, ug, uo = (array(f"u^{gate}", *_COLUMNS) for gate in "ifgo")
gi, gf, gg, go, c = (array(gate, *_COLUMNS) for gate in "ifgoc")
Ui, Uf, Ug, Uo = (array(f"U^{gate}", k, j) for gate in "ifgo")


def _run(layer, u, U, bias, dy):
    """(y, dx, gradients) where x is the projection u itself, of one example."""
    features = u.shape[1]
    recurrent = {"weight": U} | ({} if bias is None else {"bias": bias})
    params = {
        "input": {"weight": np.eye(features), "bias": np.zeros(features)},
        "recurrent": recurrent,
    }
    y, dx, gradient = passes(layer, params, u[None], dy[None])
    return y[0], dx[0], gradient["recurrent"]


with as_written():
    dx, dh, du = partial(L, x[t, i]), partial(L, h[t, j]), partial(L, u[t, j])
    dW, dU, db = partial(L, W[i, j]), partial(L, U[k, j]), partial(L, b[j])

    def _rnn(x, W, U, b, dy):
        params = {"input": {"weight": W, "bias": b}, "recurrent": {"weight": U}}
        y, into, gradient = passes(nn.rnn(2), params, x[None], dy[None])
        return {
            h[t, j]: y[0],
            dx: into[0],
            dW: gradient["input"]["weight"],
            dU: gradient["recurrent"]["weight"],
            db: gradient["input"]["bias"],
        }

    rnn = Derivation(
        title="rnn",
        arrays={"x": x, "W": W, "U": U, "b": b, "dy": delta},
        forward=(
            (
                u[t, j],
                Step(
                    total(x[t, i] * W[i, j], i) + b[j] + total(h[t - 1, k] * U[k, j], k),
                    "what comes in, and what was there; before the first time h is 0",
                    Code(scanning._step, 'v = state[0] @ params["recurrent"]["weight"]'),
                ),
            ),
            (h[t, j], Step(tanh(u[t, j]), "", Code(RNNCell.step, "h = function(u + v)"))),
        ),
        deltas={h: delta},
        chains=(
            Chain(
                dh,
                Step(
                    delta[t, j] + total(partial(L, u[t + 1, k]) * partial(u[t + 1, k], h[t, j]), k),
                    "a state moves L in two ways: as an output, and through the time after it",
                ),
                Step(
                    delta[t, j] + total(partial(L, u[t + 1, k]) * U[j, k], k),
                    "from u it comes back through the transposed U; after the last time there is "
                    "nothing",
                    Code(scanning._step_back, "dv @ back_from_v"),
                ),
            ),
            Chain(
                du,
                Step(total(dh.subs(j, k) * partial(h[t, k], u[t, j]), k), "the chain rule"),
                Step(
                    dh * (1 - h[t, j] ** 2),
                    "the slope of tanh, from its output. With the line above this is a recursion, "
                    "from the last time to the first",
                    Code(RNNCell.step_back, "dh * slopes"),
                ),
            ),
            Chain(
                dx,
                Step(total(du * partial(u[t, j], x[t, i]), j), "x moves L through its own time"),
                Step(
                    total(du * W[i, j], j),
                    "all times at once, one product with the transposed W",
                    Code(scanning.backward, 'du @ params["input"]["weight"].T'),
                ),
            ),
            Chain(
                dW,
                Step(
                    total(partial(L, u[t, k]) * partial(u[t, k], W[i, j], h), t, k),
                    "the chain rule: all times share W. The states stay as they are, for how they "
                    "move is in ∂L/∂u already",
                ),
                Step(
                    total(x[t, i] * du, t),
                    "as in a dense layer, with times in place of examples",
                    Code(scanning.captures, "LinearCapture(batch_first(kept.xs), batch_first(du))"),
                ),
            ),
            Chain(
                dU,
                Step(total(partial(L, u[t, l]) * partial(u[t, l], U[k, j], h), t, l), "the same"),
                Step(
                    total(h[t - 1, k] * du, t),
                    "what enters U is the state before",
                    Code(scanning.captures, "batch_first(kept.before), batch_first(dv)"),
                ),
            ),
            Chain(
                db,
                Step(total(partial(L, u[t, k]) * partial(u[t, k], b[j], h), t, k), "the same"),
                Step(total(du, t), "b is added at every time"),
            ),
        ),
        computed=_rnn,
    )

    # GRU
    dH = partial(L, H[T, j])
    dur, duz, dun = (partial(L, a[T, j]) for a in (ur, uz, un))
    dvr, dvz, dvn = (partial(L, a[T, j]) for a in (vr, vz, vn))
    dUr, dUz, dUn = (partial(L, a[k, j]) for a in (Ur, Uz, Un))
    dcr, dcz, dcn = (partial(L, a[j]) for a in (cr, cz, cn))

    def _gru(ur, uz, un, Ur, Uz, Un, cr, cz, cn, dy):
        beside = [np.concatenate(arrays, -1) for arrays in ((ur, uz, un), (Ur, Uz, Un))]
        y, into, gradient = _run(nn.gru(2), beside[0], beside[1], np.concatenate([cr, cz, cn]), dy)
        deltas = dict(zip((dur, duz, dun), np.split(into, 3, -1), strict=True))
        of_gates = {
            "weight": (dUr, dUz, dUn),
            "bias": (dcr, dcz, dcn),
        }
        return {H[T, j]: y, **deltas} | {
            gate: part
            for name, gates in of_gates.items()
            for gate, part in zip(gates, np.split(gradient[name], 3, -1), strict=True)
        }

    def _recurrent(U, c):
        return total(H[T - 1, k] * U[k, j], k) + c[j]

    gru = Derivation(
        title="gru",
        arrays={
            **{"ur": ur, "uz": uz, "un": un, "Ur": Ur, "Uz": Uz, "Un": Un},
            **{"cr": cr, "cz": cz, "cn": cn, "dy": Delta},
        },
        forward=(
            (vr[T, j], Step(_recurrent(Ur, cr), "what was there, for each gate")),
            (vz[T, j], Step(_recurrent(Uz, cz))),
            (vn[T, j], Step(_recurrent(Un, cn))),
            (
                r[T, j],
                Step(
                    sigma(ur[T, j] + vr[T, j]),
                    "the reset gate: how much of the old state the candidate sees. The code has "
                    "both gates at once, for σ(a) is ½ + ½ tanh(a/2)",
                    Code(GRUCell.step, "0.5 + 0.5 * jnp.tanh(0.5 * (u + v)[..., : 2 * features])"),
                ),
            ),
            (z[T, j], Step(sigma(uz[T, j] + vz[T, j]), "the gate that keeps the old state")),
            (
                new[T, j],
                Step(
                    tanh(un[T, j] + r[T, j] * vn[T, j]),
                    "the candidate",
                    Code(GRUCell.step, "n = jnp.tanh(u[..., 2 * features :] + r * v_n)"),
                ),
            ),
            (
                H[T, j],
                Step(
                    (1 - z[T, j]) * new[T, j] + z[T, j] * H[T - 1, j],
                    "the state is a mean of the candidate and of what it was",
                    Code(GRUCell.step, "n + z * (before - n)"),
                ),
            ),
        ),
        deltas={H: Delta},
        chains=(
            Chain(
                dun,
                Step(dH * partial(H[T, j], new[T, j]) * partial(new[T, j], un[T, j]), "through n"),
                Step(
                    dH * (1 - z[T, j]) * (1 - new[T, j] ** 2),
                    "the slope of tanh, from its output",
                    Code(GRUCell.step, "slope_n = (1 - z) * (1 - n * n)"),
                ),
            ),
            Chain(
                duz,
                Step(dH * partial(H[T, j], z[T, j]) * partial(z[T, j], uz[T, j]), "through z"),
                Step(
                    dH * (H[T - 1, j] - new[T, j]) * z[T, j] * (1 - z[T, j]),
                    "the slope of σ, from its output",
                    Code(GRUCell.step, "slope_z = (before - n) * z * (1 - z)"),
                ),
            ),
            Chain(
                dur,
                Step(
                    partial(L, new[T, j])
                    * partial(new[T, j], r[T, j])
                    * partial(r[T, j], ur[T, j]),
                    "through r, and n behind it",
                ),
                Step(
                    partial(L, new[T, j])
                    * (1 - new[T, j] ** 2)
                    * vn[T, j]
                    * r[T, j]
                    * (1 - r[T, j]),
                    "the slopes of tanh and of σ",
                ),
                Step(
                    dun * vn[T, j] * r[T, j] * (1 - r[T, j]),
                    "the first two factors are known already, for r v and u stand in one tanh",
                    Code(GRUCell.step, "slope_r = slope_n * v_n * r * (1 - r)"),
                ),
            ),
            Chain(
                dvr,
                Step(dur, "u and v are added up before σ: their deltas are one number"),
            ),
            Chain(dvz, Step(duz, "so here")),
            Chain(
                dvn,
                Step(
                    dun * r[T, j],
                    "and not so here, where v is behind the reset gate",
                    Code(GRUCell.recurrent_delta, "jnp.concatenate([rz, r * n], -1)"),
                ),
            ),
            Chain(
                dH,
                Step(
                    Delta[T, j]
                    + partial(L, H[T + 1, j]) * z[T + 1, j]
                    + total(
                        partial(L, vr[T + 1, k]) * Ur[j, k]
                        + partial(L, vz[T + 1, k]) * Uz[j, k]
                        + partial(L, vn[T + 1, k]) * Un[j, k],
                        k,
                    ),
                    "a state moves L as an output, by being kept, and through the three gates of "
                    "the time after it",
                    Code(GRUCell.step_back, "(dh * passing[1],)"),
                ),
            ),
            Chain(
                dUr,
                Step(
                    total(partial(L, vr[T, l]) * partial(vr[T, l], Ur[k, j], H), T, l),
                    "all times share the reset gate's weights; how the states move is in ∂L/∂v",
                ),
                Step(
                    total(H[T - 1, k] * dvr, T),
                    "v is linear in it, and what enters is the state before",
                    Code(scanning.captures, "batch_first(kept.before), batch_first(dv)"),
                ),
            ),
            Chain(
                dUz,
                Step(
                    total(partial(L, vz[T, l]) * partial(vz[T, l], Uz[k, j], H), T, l),
                    "through the gate that keeps",
                ),
                Step(
                    total(H[T - 1, k] * dvz, T),
                    "the same state, another delta",
                ),
            ),
            Chain(
                dUn,
                Step(
                    total(partial(L, vn[T, l]) * partial(vn[T, l], Un[k, j], H), T, l),
                    "through the candidate",
                ),
                Step(
                    total(H[T - 1, k] * dvn, T),
                    "with the delta behind the reset gate",
                ),
            ),
            Chain(
                dcr,
                Step(
                    total(partial(L, vr[T, l]) * partial(vr[T, l], cr[j], H), T, l),
                    "its bias",
                ),
                Step(total(dvr, T), "c is added at every time"),
            ),
            Chain(
                dcz,
                Step(
                    total(partial(L, vz[T, l]) * partial(vz[T, l], cz[j], H), T, l),
                    "the bias of the gate that keeps",
                ),
                Step(total(dvz, T), "c is added at every time"),
            ),
            Chain(
                dcn,
                Step(
                    total(partial(L, vn[T, l]) * partial(vn[T, l], cn[j], H), T, l),
                    "and that of the candidate, for which v has biases of its own",
                ),
                Step(total(dvn, T), "c is added at every time"),
            ),
        ),
        computed=_gru,
    )

    # LSTM
    dui, duf, dug, duo = (partial(L, a[T, j]) for a in (ui, uf, ug, uo))
    dc = partial(L, c[T, j])
    dUi, dUf, dUg, dUo = (partial(L, a[k, j]) for a in (Ui, Uf, Ug, Uo))

    def _lstm(ui, uf, ug, uo, Ui, Uf, Ug, Uo, dy):
        beside = [np.concatenate(arrays, -1) for arrays in ((ui, uf, ug, uo), (Ui, Uf, Ug, Uo))]
        y, into, gradient = _run(nn.lstm(2), beside[0], beside[1], None, dy)
        deltas = dict(zip((dui, duf, dug, duo), np.split(into, 4, -1), strict=True))
        weights = zip((dUi, dUf, dUg, dUo), np.split(gradient["weight"], 4, -1), strict=True)
        return {H[T, j]: y, **deltas, **dict(weights)}

    def _gate(u, U):
        return u[T, j] + total(H[T - 1, k] * U[k, j], k)

    tanh_c = tanh(c[T, j])

    lstm = Derivation(
        title="lstm",
        arrays={
            **{"ui": ui, "uf": uf, "ug": ug, "uo": uo, "dy": Delta},
            **{"Ui": Ui, "Uf": Uf, "Ug": Ug, "Uo": Uo},
        },
        forward=(
            (
                gi[T, j],
                Step(
                    sigma(_gate(ui, Ui)),
                    "the input gate. The code has all by one tanh, for σ(a) is ½ + ½ tanh(a/2)",
                    Code(LSTMCell.step, "gates = jnp.tanh((u + v) * half) * half + shift"),
                ),
            ),
            (gf[T, j], Step(sigma(_gate(uf, Uf)), "the forget gate")),
            (gg[T, j], Step(tanh(_gate(ug, Ug)), "the candidate")),
            (go[T, j], Step(sigma(_gate(uo, Uo)), "the output gate")),
            (
                c[T, j],
                Step(
                    gf[T, j] * c[T - 1, j] + gi[T, j] * gg[T, j],
                    "the cell: a sum, to which each time adds",
                    Code(LSTMCell.step, "c = f * before + i * g"),
                ),
            ),
            (
                H[T, j],
                Step(
                    go[T, j] * tanh_c,
                    "what is shown of it",
                    Code(LSTMCell.step, "(o * tanh_c, c)"),
                ),
            ),
        ),
        deltas={H: Delta},
        chains=(
            Chain(
                dc,
                Step(
                    dH * partial(H[T, j], c[T, j])
                    + partial(L, c[T + 1, j]) * partial(c[T + 1, j], c[T, j], gi, gf, gg),
                    "the cell moves L through what is shown of it, and through the cell after it, "
                    "whose gates stay as they are: what moves them is h, and that is in ∂L/∂h",
                ),
                Step(
                    dH * go[T, j] * (1 - tanh_c**2) + partial(L, c[T + 1, j]) * gf[T + 1, j],
                    "the second term is the path that an LSTM is made for: no U and no tanh on it, "
                    "a factor f alone",
                    Code(LSTMCell.step_back, "dc = dc + dh * dc_by_dh"),
                ),
            ),
            Chain(
                dug,
                Step(dc * partial(c[T, j], gg[T, j]) * partial(gg[T, j], ug[T, j]), "through g"),
                Step(
                    dc * gi[T, j] * (1 - gg[T, j] ** 2),
                    "g stood beside i",
                    Code(LSTMCell.step, "slopes * jnp.concatenate([g, before, i, tanh_c], -1)"),
                ),
            ),
            Chain(
                dui,
                Step(dc * partial(c[T, j], gi[T, j]) * partial(gi[T, j], ui[T, j]), "through i"),
                Step(dc * gg[T, j] * gi[T, j] * (1 - gi[T, j]), "i stood beside g"),
            ),
            Chain(
                duf,
                Step(dc * partial(c[T, j], gf[T, j]) * partial(gf[T, j], uf[T, j]), "through f"),
                Step(
                    dc * c[T - 1, j] * gf[T, j] * (1 - gf[T, j]),
                    "f stood beside the cell before",
                ),
            ),
            Chain(
                duo,
                Step(dH * partial(H[T, j], go[T, j]) * partial(go[T, j], uo[T, j]), "through o"),
                Step(
                    dH * tanh_c * go[T, j] * (1 - go[T, j]),
                    "the only gate that takes the delta of h, not of c",
                    Code(LSTMCell.step_back, "jnp.concatenate([dc, dc, dc, dh], -1) * slopes"),
                ),
            ),
            Chain(
                dH,
                Step(
                    Delta[T, j]
                    + total(
                        partial(L, ui[T + 1, k]) * Ui[j, k]
                        + partial(L, uf[T + 1, k]) * Uf[j, k]
                        + partial(L, ug[T + 1, k]) * Ug[j, k]
                        + partial(L, uo[T + 1, k]) * Uo[j, k],
                        k,
                    ),
                    "a state moves L as an output, and through the gates of the time after it",
                    Code(scanning._step_back, "dv @ back_from_v"),
                ),
            ),
            Chain(
                dUi,
                Step(
                    total(partial(L, gi[T, l]) * partial(gi[T, l], Ui[k, j], H), T, l),
                    "through the input gate of every time; the states stay as they are",
                ),
                Step(
                    total(H[T - 1, k] * dui, T),
                    "U stands where u stands, but for the factor h before",
                    Code(scanning.captures, "batch_first(kept.before), batch_first(dv)"),
                ),
            ),
            Chain(
                dUf,
                Step(
                    total(partial(L, gf[T, l]) * partial(gf[T, l], Uf[k, j], H), T, l),
                    "through the forget gate",
                ),
                Step(
                    total(H[T - 1, k] * duf, T),
                    "the same state, another delta",
                ),
            ),
            Chain(
                dUg,
                Step(
                    total(partial(L, gg[T, l]) * partial(gg[T, l], Ug[k, j], H), T, l),
                    "through the candidate",
                ),
                Step(
                    total(H[T - 1, k] * dug, T),
                    "the delta before its tanh",
                ),
            ),
            Chain(
                dUo,
                Step(
                    total(partial(L, go[T, l]) * partial(go[T, l], Uo[k, j], H), T, l),
                    "through the output gate",
                ),
                Step(
                    total(H[T - 1, k] * duo, T),
                    "and the delta that came from h",
                ),
            ),
        ),
        computed=_lstm,
    )

DERIVATIONS = (rnn, gru, lstm)
