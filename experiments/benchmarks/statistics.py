"""Statistics of the backward pass against autodiff and BackPACK, batch 128.

Two networks, the MLP 784-512-256-10 and the CNN of `experiments.benchmarks.cnn`. Every contender
computes the mean gradient too, as it does in training; of a statistic both the time and the
multiple of the contender's own plain gradient count.

- jaxnn: the hand-derived backward pass, its captures contracted.
- vmap(jax.grad): per-example gradients by autodiff of the same network, then reduced, the mean
  among that; or, "and beside jax.grad", the mean by a pass of its own, so that XLA need not hold
  the others. The pools of this network have a backward pass by hand, which flatters autodiff: the
  idiomatic pool is slower.
- BackPACK: its extensions to PyTorch, where both are installed. Its K-FAC has one Monte Carlo
  sample, as that of jaxnn has.
- Opacus: clipped, noisy gradients of PyTorch, in its two ways: each example's gradient held, or
  (ghost) two backward passes.

A private gradient is that of a step of private training: norms, clipping, noise.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from experiments.benchmarks import cnn
from experiments.benchmarks.measuring import (
    Contender,
    Figures,
    Settings,
    align,
    in_seconds,
    inspect_program,
    measure,
)
from jaxnn import statistics
from jaxnn.learning.privacy import private

BATCH, CLASSES = 128, 10
STATISTICS = (
    *("squared norms", "second moment", "variance", "GGN diagonal", "K-FAC", "private gradient"),
)
CLIP_NORM, NOISE = 1.0, 1.0
AUTODIFF = "vmap(jax.grad)", "and beside jax.grad"


def make_mlp() -> nn.Layer:
    """784-512-256-10."""
    return nn.serial(
        nn.flatten(), nn.dense(512), nn.relu(), nn.dense(256), nn.relu(), nn.dense(CLASSES)
    )


NETWORKS: dict[str, Callable[[], nn.Layer]] = {"MLP": make_mlp, "CNN": cnn.make_network}


def by_hand(network: nn.Layer) -> dict[str, Callable]:
    """(params, state, x, labels, key) -> the mean gradient and the statistic, by name."""
    loss = nn.softmax_cross_entropy()
    gradient, run = nn.backprop(network, loss), nn.backward_pass(network, loss)
    shares = jnp.full(BATCH, 1 / BATCH)
    noisy = private(network, loss, clip_norm=CLIP_NORM, noise_multiplier=NOISE, batch_size=BATCH)

    def plain(*arguments):
        return gradient(*arguments)[1]

    def beside_gradient(statistic):
        def compute(*arguments):
            captures = run(*arguments).captures
            return nn.contract(statistics.scaled(captures, shares)), statistic(captures)

        return compute

    def norms_beside_gradient(*arguments):
        # Captures of the mean loss give its gradient as they are, and norms up to the shares.
        captures = run(*arguments, shares).captures
        return nn.contract(captures), statistics.per_example_squared_norms.of(captures) / shares**2

    def with_gradient(statistic):
        return lambda *arguments: (plain(*arguments), statistic(*arguments))

    return {
        "gradient": plain,
        "squared norms": norms_beside_gradient,
        "second moment": beside_gradient(statistics.gradient_second_moment.of),
        "variance": beside_gradient(statistics.gradient_variance.of),
        "GGN diagonal": with_gradient(statistics.diagonal_ggn(network, loss)),
        "K-FAC": with_gradient(statistics.kfac_factors(network, loss)),
        "private gradient": lambda *arguments: noisy(*arguments)[1],
    }


def by_autodiff(network: nn.Layer, *, beside_mean: bool) -> dict[str, Callable]:
    """The same by `jax.vmap` of `jax.grad`, where that has a way.

    Args:
        network: The network.
        beside_mean: Whether the mean gradient has a pass of its own.
    """
    loss = nn.softmax_cross_entropy()

    def own_loss(params, state, example, label):
        prediction = network.forward(params, state, example[None], None)[0]
        return loss.value(prediction, label[None])[0]

    def plain(params, state, x, labels, key):
        return nn.autodiff(network, loss)(params, state, x, labels, key)[1]

    def reduced(reduce):
        def compute(params, state, x, labels, key):
            each = jax.vmap(jax.grad(own_loss), (None, None, 0, 0))(params, state, x, labels)
            if beside_mean:
                return plain(params, state, x, labels, key), reduce(each)
            return jax.tree.map(lambda g: g.mean(0), each), reduce(each)

        return compute

    def private_gradient(params, state, x, labels, key):
        each = jax.vmap(jax.grad(own_loss), (None, None, 0, 0))(params, state, x, labels)
        factors = jnp.minimum(1, CLIP_NORM * jax.lax.rsqrt(norms(each)))
        leaves, treedef = jax.tree.flatten(each)
        totals = [
            jnp.tensordot(factors, g, 1) + NOISE * CLIP_NORM * jax.random.normal(k, g.shape[1:])
            for k, g in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        ]
        return treedef.unflatten([total / BATCH for total in totals])

    def norms(each):
        return sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(each))

    common = {} if beside_mean else {"private gradient": private_gradient}
    return common | {
        "gradient": plain,
        "squared norms": reduced(norms),
        "second moment": reduced(partial(jax.tree.map, lambda g: (g**2).mean(0))),
        "variance": reduced(partial(jax.tree.map, lambda g: g.var(0))),
    }


def torch_model(name: str) -> Any:
    """The network in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]

    if name == "CNN":
        return cnn.torch_network(torch)
    layers = torch.nn
    return layers.Sequential(
        layers.Flatten(),
        layers.Linear(784, 512),
        layers.ReLU(),
        layers.Linear(512, 256),
        layers.ReLU(),
        layers.Linear(256, CLASSES),
    )


def torch_data() -> tuple[Any, Any]:
    """The same batch, channels first."""
    import torch  # pyright: ignore[reportMissingImports]

    x, labels = cnn.data()
    images = torch.tensor(np.array(x)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(np.array(labels)).long()


def by_opacus(name: str, *, ghost: bool) -> dict[str, Callable[[], object]]:
    """The private gradient by Opacus; nothing, and why, where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from opacus import GradSampleModule  # pyright: ignore[reportMissingImports]
        from opacus.grad_sample import (  # pyright: ignore[reportMissingImports]
            GradSampleModuleFastGradientClipping,
        )
        from opacus.optimizers import (  # pyright: ignore[reportMissingImports]
            DPOptimizer,
            DPOptimizerFastGradientClipping,
        )
        from opacus.utils.fast_gradient_clipping_utils import (  # pyright: ignore[reportMissingImports]
            DPLossFastGradientClipping,
        )
    except ImportError as error:
        print(f"Opacus: left out, {error}")
        return {}
    # Of every backward pass whose input needs no gradient, which is any training's.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    images, target = torch_data()
    model, loss = torch_model(name), torch.nn.CrossEntropyLoss()
    plain = torch_model(name)

    def plain_gradient() -> None:
        plain.zero_grad(set_to_none=True)
        loss(plain(images), target).backward()

    noise: dict[str, Any] = {
        "noise_multiplier": NOISE,
        "max_grad_norm": CLIP_NORM,
        "expected_batch_size": BATCH,
    }
    if ghost:
        model = GradSampleModuleFastGradientClipping(
            model,
            max_grad_norm=CLIP_NORM,  # pyright: ignore[reportArgumentType] (a float all the same)
            use_ghost_clipping=True,
        )
        optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(model.parameters(), lr=0.1), **noise
        )
        criterion = DPLossFastGradientClipping(model, optimizer, loss)
    else:
        model, criterion = GradSampleModule(model), loss
        optimizer = DPOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), **noise)

    def private_gradient() -> None:
        optimizer.zero_grad(set_to_none=True)
        criterion(model(images), target).backward()
        optimizer.pre_step()

    return {"gradient": plain_gradient, "private gradient": private_gradient}


def by_backpack(name: str) -> dict[str, Callable[[], object]]:
    """The same by BackPACK; nothing, and why, where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from backpack import backpack, extend, extensions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"BackPACK: left out, {error}")
        return {}
    layers, model = torch.nn, torch_model(name)
    plain_loss = layers.CrossEntropyLoss()
    model, extended_loss = extend(model), extend(layers.CrossEntropyLoss())
    images, target = torch_data()

    def run(loss: Any, *chosen: Any) -> None:
        model.zero_grad(set_to_none=True)
        with backpack(*chosen):
            loss(model(images), target).backward()

    makers = {
        "squared norms": extensions.BatchL2Grad,
        "second moment": extensions.SumGradSquared,
        "variance": extensions.Variance,
        "GGN diagonal": extensions.DiagGGNExact,
        "K-FAC": extensions.KFAC,
    }
    runs = {key: partial(run, extended_loss, make()) for key, make in makers.items()}
    plain: dict[str, Callable[[], object]] = {"gradient": partial(run, plain_loss)}
    return plain | runs


def contenders(name: str) -> dict[str, Contender]:
    """Such as "jaxnn, variance"."""
    network = NETWORKS[name]()
    x, labels = cnn.data()
    params, state = network.init(jax.random.key(0), x)
    arguments = (params, state, x, labels, jax.random.key(1))
    made = {}
    ways = {
        "jaxnn": by_hand(network),
        AUTODIFF[0]: by_autodiff(network, beside_mean=False),
        AUTODIFF[1]: by_autodiff(network, beside_mean=True),
    }
    for way, programs in ways.items():
        for statistic, function in programs.items():
            compiled = jax.jit(function)
            made[f"{way}, {statistic}"] = Contender(
                run=partial(_finish, compiled, arguments),
                program=inspect_program(compiled, *arguments),
            )
    for way, functions in (
        ("BackPACK", by_backpack(name)),
        ("Opacus", by_opacus(name, ghost=False)),
        ("Opacus ghost", by_opacus(name, ghost=True)),
    ):
        made |= {f"{way}, {statistic}": Contender(f) for statistic, f in functions.items()}
    return made


def multiples(name: str, figures: dict[str, Figures]) -> str:
    """Of every statistic the least time, and the multiple of the way's own gradient."""
    ways = list(dict.fromkeys(name.partition(", ")[0] for name in figures))
    rows = [("", *ways, "best vmap / jaxnn", "")]
    for statistic in ("gradient", *STATISTICS):
        cells, by_way = [], {}
        for way in ways:
            of_one, plain = (figures.get(f"{way}, {s}") for s in (statistic, "gradient"))
            if of_one is None or plain is None:
                cells.append("–")
                continue
            by_way[way] = of_one.minimum
            cells.append(f"{in_seconds(of_one.minimum)}  {of_one.minimum / plain.minimum:5.2f}×")
        faster = "–"
        peers = [by_way[way] for way in AUTODIFF if way in by_way]
        if peers and "jaxnn" in by_way:
            faster = f"{min(peers) / by_way['jaxnn']:.1f}"
        rows.append((statistic, *cells, faster, ""))
    return f"{name}, batch {BATCH}: minimum, multiple of the way's own gradient\n{align(rows)}"


def run(settings: Settings) -> dict[str, Any]:
    """Measure both networks, and print a table of times and multiples for each."""
    workloads = {name: partial(contenders, name) for name in NETWORKS}
    return measure(workloads, settings, multiples)


def _finish(compiled: Callable, arguments: tuple) -> None:
    jax.block_until_ready(compiled(*arguments))
