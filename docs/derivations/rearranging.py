"""Layers that rearrange or resample an example: places p of y, places q of x."""

import sympy

import jaxnn as nn
from docs.derivations.computing import passes
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.notation import L, array, as_written, function, index, partial, same, total
from jaxnn.layers.padding import filled_backward
from jaxnn.layers.reshaping import _Reshaping

i, j = index("i", 2), index("j", 2)
p, q = index("p", 4), index("q", 4)
a, b = array("a", i), array("b", j)
y, delta = array("y", p), array(r"\delta", p)
x, part, rest = array("x", q), array("y", i), array("z", j)
of_part, of_rest = array(r"\delta", i), array(r"\epsilon", j)

h, r, c = index("h", 2), index("r", 2), index("c", 2)
table, image = array("x", h, r), array("x", h, q)
finer, of_finer = array("y", p, c), array(r"\delta", p, c)

s, o = index("q", 3), index("p", 5)
three, padded, of_padded = array("x", s), array("y", o), array(r"\delta", o)
t, d = index("q", 2), index("p", 4)
two, doubled, of_doubled = array("x", t), array("y", d), array(r"\delta", d)
place, resized = array("s", p), array("y", p)
hat = function(r"\Lambda", lambda e: sympy.Max(0, 1 - sympy.Abs(e)))


def _alone(*arrays):
    """Each with the axis of a batch of one."""
    return tuple(one[None] for one in arrays)


def _of_one_channel(layer, x, dy):
    """(y, dx) of arrays without the axes of batch and channels."""
    out, into, _ = passes(layer, (), x[None, :, None], dy[None, :, None])
    return out[0, :, 0], into[0, :, 0]


with as_written():
    da, db, dx = partial(L, a[i]), partial(L, b[j]), partial(L, x[q])
    behind = y[j + 2]

    def _concatenate(a, b, dy):
        out, into, _ = passes(nn.concatenate(), (), _alone(a, b), dy[None])
        return {y[i]: out[0], behind: out[0], da: into[0][0], db: into[1][0]}

    concatenate = Derivation(
        title="concatenate",
        arrays={"a": a, "b": b, "dy": delta},
        forward=(
            (
                y[i],
                Step(
                    a[i], "first all of a", Code(nn.concatenate.apply, "jnp.concatenate(x, axis)")
                ),
            ),
            (behind, Step(b[j], "then all of b")),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                da,
                Step(total(delta[p] * partial(y[p], a[i]), p), "the chain rule"),
                Step(delta[i], "a stands in the first places of y alone"),
            ),
            Chain(
                db,
                Step(total(delta[p] * partial(y[p], b[j]), p), "the chain rule"),
                Step(
                    delta[j + 2],
                    "and b behind it: δ is cut up at the same place",
                    Code(nn.concatenate.pull_back, "jnp.split(dy, cuts, self.axis)"),
                ),
            ),
        ),
        computed=_concatenate,
    )

    def _split(x, dy, dz):
        out, into, _ = passes(nn.split(2), (), x[None], _alone(dy, dz))
        return {part[i]: out[0][0], rest[j]: out[1][0], dx: into[0]}

    split = Derivation(
        title="split",
        arrays={"x": x, "dy": of_part, "dz": of_rest},
        forward=(
            (
                part[i],
                Step(
                    x[i], "one half of x", Code(nn.split.apply, "jnp.split(x, self.n, self.axis)")
                ),
            ),
            (rest[j], Step(x[j + 2], "and the other")),
        ),
        deltas={part: of_part, rest: of_rest},
        chains=(
            Chain(
                dx,
                Step(
                    of_part[q] + of_rest[q - 2],
                    "what is outside of a part is 0, so that the two stand side by side again",
                    Code(nn.split.pull_back, "jnp.concatenate(dy, self.axis)"),
                ),
            ),
        ),
        computed=_split,
    )

    dtable, dimage = partial(L, table[h, r]), partial(L, image[h, q])

    def _flatten(x, dy):
        out, into, _ = passes(nn.flatten(), (), *_alone(x, dy))
        return {y[p]: out[0], dtable: into[0]}

    flatten = Derivation(
        title="flatten",
        arrays={"x": table, "dy": delta},
        forward=(
            (
                y[p],
                Step(
                    total(table[h, r] * same(2 * h + r, p), h, r),
                    "row after row: element (h, r) comes to place 2h + r",
                    Code(_Reshaping.apply, "x.reshape(x.shape[0], *self.target(example))"),
                ),
            ),
        ),
        deltas={y: delta},
        chains=(
            Chain(
                dtable,
                Step(total(delta[p] * partial(y[p], table[h, r]), p), "the chain rule"),
                Step(
                    delta[2 * h + r],
                    "and its delta comes back from there: the old shape again",
                    Code(_Reshaping.pull_back, "dy.reshape(dy.shape[0], *residuals.value)"),
                ),
            ),
        ),
        computed=_flatten,
    )

    def _pixel_shuffle(x, dy):
        out, into, _ = passes(nn.pixel_shuffle((2,)), (), *_alone(x, dy))
        return {finer[p, c]: out[0], dimage: into[0]}

    pixel_shuffle = Derivation(
        title="pixel_shuffle",
        arrays={"x": image, "dy": of_finer},
        forward=(
            (
                finer[p, c],
                Step(
                    total(image[h, 2 * c + r] * same(2 * h + r, p), h, r),
                    "4 channels at 2 places become 2 channels c at 4 places: of each pair of "
                    "channels, one for every new place",
                    Code(nn.pixel_shuffle.apply, "_shuffled(x, factors, self.mode)"),
                ),
            ),
        ),
        deltas={finer: of_finer},
        chains=(
            Chain(
                dimage,
                Step(
                    total(of_finer[p, c] * partial(finer[p, c], image[h, q]), p, c),
                    "the chain rule",
                ),
                Step(
                    total(of_finer[2 * h + r, c] * same(2 * c + r, q), c, r),
                    "one term is left: the inverse, which is pixel_unshuffle",
                    Code(nn.pixel_shuffle.pull_back, "_unshuffled(dy, residuals.value, self.mode)"),
                ),
            ),
        ),
        computed=_pixel_shuffle,
    )

    dthree, dtwo = partial(L, three[s]), partial(L, two[t])

    def _pad(x, dy):
        out, into = _of_one_channel(nn.pad(1, mode="circular"), x, dy)
        return {padded[o]: out, dthree: into}

    pad = Derivation(
        title="pad",
        arrays={"x": three, "dy": of_padded},
        forward=(
            (
                padded[o],
                Step(
                    three[o - 1] + three[o + 2] + three[o - 4],
                    "mode “circular”: x in the middle, its last element before it and its first "
                    "behind it; two of the three terms are outside of x and so 0",
                    Code(nn.pad.apply, "filled(x, pairs, self.mode, self.value)"),
                ),
            ),
        ),
        deltas={padded: of_padded},
        chains=(
            Chain(
                dthree,
                Step(
                    total(of_padded[o] * partial(padded[o], three[s]), o),
                    "the chain rule",
                ),
                Step(
                    of_padded[s + 1] + of_padded[s - 2] + of_padded[s + 4],
                    "the sum over the copies. Of a constant around x the first term alone is left",
                    Code(filled_backward, "at[*before, sources[around]].add(copies)"),
                ),
            ),
        ),
        computed=_pad,
    )

    def _upsample(x, dy):
        out, into = _of_one_channel(nn.upsample(2), x, dy)
        return {doubled[d]: out, dtwo: into}

    upsample = Derivation(
        title="upsample",
        arrays={"x": two, "dy": of_doubled},
        forward=(
            (
                doubled[d],
                Step(
                    total(two[t] * (same(2 * t, d) + same(2 * t + 1, d)), t),
                    "each element twice",
                    Code(
                        nn.upsample.apply, "jnp.broadcast_to(y, (x.shape[0], *copies, x.shape[-1]))"
                    ),
                ),
            ),
        ),
        deltas={doubled: of_doubled},
        chains=(
            Chain(
                dtwo,
                Step(total(of_doubled[d] * partial(doubled[d], two[t]), d), "the chain rule"),
                Step(
                    of_doubled[2 * t] + of_doubled[2 * t + 1],
                    "the sum over its copies",
                    Code(nn.upsample.pull_back, "jnp.sum(copied, range(2, len(copies) + 1, 2))"),
                ),
            ),
        ),
        computed=_upsample,
    )

    def _resize(x, dy):
        out, into = _of_one_channel(nn.resize(4), x, dy)
        return {resized[p]: out, dthree: into}

    half = sympy.Rational(1, 2)
    at = (p + half) * sympy.Rational(3, 4) - half

    resize = Derivation(
        title="resize",
        arrays={"x": three, "dy": delta},
        forward=(
            (
                place[p],
                Step(
                    sympy.Min(sympy.Max(at, 0), 2),
                    "where on x element p of y lies: 3 elements drawn as 4",
                    Code(nn.resize._taps, "np.clip((p + 0.5) / scale - 0.5, 0, n - 1)"),
                ),
            ),
            (
                resized[p],
                Step(
                    total(hat(place[p] - s) * three[s], s),
                    "Λ(d) = max(0, 1 − |d|): the two neighbours, the nearer one the more",
                    Code(nn.resize._taps, "(lower, 1 - weight)"),
                ),
            ),
        ),
        deltas={resized: delta},
        chains=(
            Chain(
                dthree,
                Step(total(delta[p] * partial(resized[p], three[s]), p), "the chain rule"),
                Step(
                    total(hat(place[p] - s) * delta[p], p),
                    "y is linear in x, so this is the transposed table of weights",
                    Code(nn.resize.pull_back, ".add(_weighed(part, axis, weight))"),
                ),
            ),
        ),
        computed=_resize,
    )

DERIVATIONS = (concatenate, split, flatten, pixel_shuffle, pad, upsample, resize)
