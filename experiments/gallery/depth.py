"""Why depth: the parity of n bits, deep and small or shallow and wide.

The parity of x ∈ {0, 1}ⁿ is x₁ ⊕ … ⊕ xₙ: 1 where an odd number of the bits are 1.

Deep: a ⊕ b = AND(OR(a, b), NAND(a, b)), two layers and three units. A tree of n − 1 such units,
pairing the bits again and again, has 2⌈log₂ n⌉ layers and about 3n units; a bit without a partner
is copied by step(x).

One hidden layer of AND units: unit p fires on one odd pattern p ∈ {0, 1}ⁿ alone,

    step(Σᵢ (2pᵢ − 1) xᵢ − (|p| − ½)),   since the sum is |p| if x = p and at most |p| − 1 if not,

and the output is their OR. There are 2ⁿ⁻¹ odd patterns, and no OR of ANDs has fewer terms.

One hidden layer of counting units gets by with n: with hₖ = step(Σᵢ xᵢ − (k − ½)), which says that
at least k bits are 1, parity = step(h₁ − h₂ + h₃ − … ± hₙ), the sum being 1 or 0. What one hidden
layer needs depends on what its units may compute.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.gallery.descent import at, descend, on_batch
from experiments.gallery.perceptrons import WEIGHTS
from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"a \oplus b = \mathrm{AND}(\mathrm{OR}(a, b), \mathrm{NAND}(a, b))",
    r"\text{layers: } 2 \lceil \log_2 n \rceil \quad\text{or}\quad \text{units: } 2^{n - 1}",
)

EXACT_BITS = (2, 3, 4, 5, 6, 7, 8, 9, 10)
TRAINED_BITS, WIDTHS, SEEDS = (2, 4, 6), (1, 2, 4, 8, 16, 32), 20
LOSS = nn.sigmoid_binary_cross_entropy()


def all_inputs(n: int) -> np.ndarray:
    """All 2ⁿ patterns of n bits, float32 [2ⁿ, n]."""
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float32)


def parity(x: np.ndarray) -> np.ndarray:
    """The truth, float32 [batch]."""
    return x.sum(1) % 2


def threshold_network(*layers: tuple[np.ndarray, np.ndarray]) -> tuple[nn.Layer, Any]:
    """Dense layers with the given (weight, bias), a step behind each: the network, its params."""
    parts, params = [], []
    for weight, bias in layers:
        parts += [nn.dense(weight.shape[1]), nn.heaviside()]
        params += [{"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}, ()]
    return nn.serial(*parts), tuple(params)


def deep_tree(n: int) -> tuple[nn.Layer, Any]:
    """The tree of XOR units: each level is a layer of OR and NAND units, then one of AND units."""
    layers = []
    while n > 1:
        pairs, single = divmod(n, 2)
        first = _zeros(n, 2 * pairs + single)
        second = _zeros(2 * pairs + single, pairs + single)
        for pair in range(pairs):
            bits = [2 * pair, 2 * pair + 1]
            _put(first, bits, 2 * pair, WEIGHTS["OR"])
            _put(first, bits, 2 * pair + 1, WEIGHTS["NAND"])
            _put(second, bits, pair, WEIGHTS["AND"])
        if single:
            _put(first, [n - 1], 2 * pairs, (1, 0))
            _put(second, [2 * pairs], pairs, (1, 0))
        layers += [first, second]
        n = pairs + single
    return threshold_network(*layers)


def _zeros(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((inputs, outputs), np.float32), np.zeros(outputs, np.float32)


def _put(
    layer: tuple[np.ndarray, np.ndarray], inputs: list[int], unit: int, gate: Sequence
) -> None:
    weight, bias = layer
    *weight[inputs, unit], bias[unit] = gate


def one_pattern_units(n: int) -> tuple[nn.Layer, Any]:
    """A hidden AND unit for every odd pattern, and their OR: 2ⁿ⁻¹ hidden units."""
    patterns = all_inputs(n)
    odd = patterns[parity(patterns) == 1]
    return threshold_network(
        ((2 * odd - 1).T, 0.5 - odd.sum(1)),
        (np.ones((len(odd), 1), np.float32), np.zeros(1, np.float32)),
    )


def counting_units(n: int) -> tuple[nn.Layer, Any]:
    """Hidden unit k says that at least k bits are 1; they are added with alternating signs."""
    k = np.arange(1, n + 1, dtype=np.float32)
    signs = np.where(k % 2 == 1, 1, -1).astype(np.float32)
    return threshold_network(
        (np.ones((n, n), np.float32), 0.5 - k), (signs[:, None], np.zeros(1, np.float32))
    )


CONSTRUCTIONS = {
    "tree of XOR units": deep_tree,
    "one hidden layer, a unit for each odd pattern": one_pattern_units,
    "one hidden layer, counting units": counting_units,
}


def measure(construction: str, n: int) -> tuple[int, int, int]:
    """(layers, units, wrong answers among all 2ⁿ inputs) of a construction."""
    network, params = CONSTRUCTIONS[construction](n)
    x = all_inputs(n)
    prediction = network.predict(params, ((),) * len(params), jnp.asarray(x))[:, 0]
    widths = [layer["bias"].size for layer in params if layer]
    return len(widths), sum(widths), int(np.sum(np.asarray(prediction) != parity(x)))


def shallow() -> nn.Layer:
    """One hidden layer of tanh units, as many as the widest network has."""
    return nn.serial(nn.dense(WIDTHS[-1], weight_init="normal(1.0)"), nn.tanh(), nn.dense(1))


def narrowed(params: Any, width: jax.Array) -> Any:
    """The shallow network's params with all but ``width`` hidden units set to 0.

    Such a unit receives no gradient and stays 0, so networks of all widths train in one program.
    """
    first, _, last = params
    kept = jnp.arange(WIDTHS[-1]) < width
    first = jax.tree.map(lambda a: a * kept, first)
    return first, (), last | {"weight": last["weight"] * kept[:, None]}


def deep(n: int) -> nn.Layer:
    """As many layers as the tree of XOR units has, 2n tanh units in each."""
    layer = nn.serial(nn.dense(2 * n, weight_init="glorot"), nn.tanh())
    layers = 2 * int(np.ceil(np.log2(n)))
    return nn.serial(layer, nn.repeat(layer, layers - 1), nn.dense(1))


def descend_from(network: nn.Layer, n: int, params: Any, state: Any, steps: int) -> jax.Array:
    """The share of the 2ⁿ inputs, given as ±1, that a network answers rightly after Adam."""
    x = jnp.asarray(2 * all_inputs(n) - 1)
    target = jnp.asarray(parity(all_inputs(n)))[:, None]
    optimizer, objective = optax.adam(0.02), on_batch(network, LOSS, state, x, target)
    params = at(descend(objective, optimizer, params, steps)[0], -1)
    return jnp.mean((network.predict(params, state, x) > 0) == target)


def train(n: int, seeds: int = SEEDS, steps: int = 1500) -> dict[str, np.ndarray]:
    """For every width of a hidden layer, and for the deep network, what each seed reached."""
    keys = jax.random.split(jax.random.key(0), seeds)

    def run_shallow(width, key):
        params, state = shallow().init(key, all_inputs(n))
        return descend_from(shallow(), n, narrowed(params, width), state, steps)

    def run_deep(key):
        params, state = deep(n).init(key, all_inputs(n))
        return descend_from(deep(n), n, params, state, steps)

    over_seeds = jax.vmap(run_shallow, (None, 0))
    by_width = jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.array(WIDTHS), keys)
    found = {str(width): np.asarray(row) for width, row in zip(WIDTHS, by_width, strict=True)}
    return found | {"deep": np.asarray(jax.jit(jax.vmap(run_deep))(keys))}


def draw_constructions(sizes: dict[str, list[int]]) -> Picture:
    """Units of each construction against n."""
    figure, axes = style.figure(height=3.0)
    for (name, units), marker in zip(sizes.items(), "os^", strict=True):
        axes.semilogy(EXACT_BITS, units, marker=marker, markersize=5, label=name)
    axes.set(xlabel="number of bits n", ylabel="units (hidden and output)")
    axes.legend()
    return Picture("constructions", "The size of three exact networks for parity.", figure)


def draw_training(found: dict[int, dict[str, np.ndarray]]) -> Picture:
    """What every trained network reached: a dot for each seed, by width."""
    figure, panels = style.figure(columns=len(found), height=3.0, sharey=True)
    for axes, (n, results) in zip(panels, found.items(), strict=True):
        for place, accuracies in enumerate(results.values()):
            spread = np.linspace(-0.3, 0.3, len(accuracies))
            colour = style.VERMILLION if place == len(results) - 1 else style.BLUE
            axes.plot(place + spread, 100 * accuracies, ".", markersize=4, color=colour)
        axes.set_xticks(range(len(results)), results)
        axes.set(title=f"n = {n}", xlabel="hidden units")
    panels[0].set(ylabel="inputs answered rightly [%]")
    return Picture(
        "training",
        "What training found, a dot for each random start: one hidden layer of 1 to "
        f"{WIDTHS[-1]} units, and a deep network with the tree's number of layers (vermillion).",
        figure,
    )


def run() -> Result:
    """The three constructions checked on all inputs, and what training finds."""
    measured = {name: [measure(name, n) for n in EXACT_BITS] for name in CONSTRUCTIONS}
    found = {n: train(n) for n in TRAINED_BITS}
    return Result(
        "Parity needs about 3n units in 2⌈log₂ n⌉ layers when it is built as a tree of XOR units. "
        "With one hidden layer it needs 2ⁿ⁻¹ units that detect one pattern each, but only n units "
        "that count. Gradient descent rarely finds the narrowest network that exists: from a few "
        "times that width on it succeeds from every start.",
        [
            draw_constructions({name: [m[1] for m in rows] for name, rows in measured.items()}),
            draw_training(found),
        ],
        [
            Table(
                "Exact networks, checked on all 2ⁿ inputs",
                ("construction", "n", "layers", "units", "wrong answers"),
                [
                    (name, n, *row)
                    for name, rows in measured.items()
                    for n, row in zip(EXACT_BITS, rows, strict=True)
                    if n % 2 == 0
                ],
            ),
            Table(
                f"Trained networks without a wrong answer, of {SEEDS} starts",
                ("hidden units", *(f"n = {n}" for n in TRAINED_BITS)),
                [
                    (width, *(int(np.sum(found[n][width] == 1)) for n in TRAINED_BITS))
                    for width in found[TRAINED_BITS[0]]
                ],
            ),
        ],
    )


if __name__ == "__main__":
    alone("depth")
