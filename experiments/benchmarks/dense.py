"""Training dense networks: jaxnn, plain JAX, Flax, PyTorch, scikit-learn and NumPy.

Every contender starts from the same weights and does the same arithmetic in float32: ReLU between
the layers, softmax cross-entropy averaged over the batch, the same optimizer, every example of an
epoch once in a random order, the losses of all steps kept. Its first losses are compared with those
of the first contender before anything is timed, and so is the mean loss of an epoch, so no one can
skip work. Data and parameters lie in memory from the start; no contender is given batches faster or
slower than it takes them by itself.

PyTorch runs at its best setting: a short trial of its three implementations of the optimizer with
one thread and with all decides which. The contenders in JAX are given `optax.flatten` in networks
of less than 20,000 weights. Short epochs are taken a few in a row, as in training.
How contenders take turns is told in `experiments.benchmarks.measuring`.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from experiments.benchmarks.measuring import (
    Contender,
    Figures,
    Program,
    Settings,
    inspect_program,
    table,
    take_turns,
)
from jaxnn import data
from jaxnn.training import (
    Crosscheck,
    TrainState,
    create_state,
    make_epoch,
    make_step,
    steps_per_epoch,
    train,
)

LEARNING_RATES = {"sgd": 0.01, "adam": 0.001}


class Workload(NamedTuple):
    """What is timed."""

    name: str
    sizes: tuple[int, ...]
    """Features, units of every layer, classes."""
    batch_size: int
    optimizer: str
    data: str
    epoch: bool = False
    """Whether a unit of work is an epoch, and not a step."""


WORKLOADS = [
    Workload("large MLP, one step", (784, 512, 256, 10), 128, "sgd", "fashion_mnist"),
    Workload("digits MLP, one step", (64, 64, 32, 10), 32, "adam", "digits"),
    Workload("digits MLP, one epoch", (64, 64, 32, 10), 32, "adam", "digits", epoch=True),
    Workload("Fashion MLP, one epoch", (784, 256, 128, 10), 128, "adam", "fashion_mnist", True),
]
CROSSCHECK = f"crosscheck every {Crosscheck().every} steps"


class Problem(NamedTuple):
    """A workload with its data and the weights that every contender starts from."""

    workload: Workload
    x: np.ndarray
    labels: np.ndarray
    weights: list[tuple[np.ndarray, np.ndarray]]
    """For each layer the weight [in, out] and the bias [out]."""

    @property
    def learning_rate(self) -> float:
        """The same for all contenders."""
        return LEARNING_RATES[self.workload.optimizer]

    @property
    def first_batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Up to 20 full batches in the order of the data."""
        size = self.workload.batch_size
        starts = range(0, min(20 * size, len(self.x) - size + 1), size)
        return [(self.x[i : i + size], self.labels[i : i + size]) for i in starts]

    def shuffled_batches(self) -> Iterator[np.ndarray]:
        """The indices of every batch of an epoch, for contenders that loop in Python."""
        order = np.random.default_rng(0).permutation(len(self.x))
        size = self.workload.batch_size
        return (order[i : i + size] for i in range(0, len(order), size))

    @property
    def epochs_of_a_turn(self) -> int:
        """So many that they have at least 500 steps."""
        return -(-500 // steps_per_epoch(len(self.x), self.workload.batch_size))

    def optax(self) -> optax.GradientTransformation:
        """The optimizer of the contenders in JAX."""
        optimizer = getattr(optax, self.workload.optimizer)(self.learning_rate)
        # Below some ten thousand parameters to start an operation costs more than to copy arrays.
        small = sum(weight.size for weight, _ in self.weights) < 20_000
        return optax.flatten(optimizer) if small else optimizer


@cache
def read(name: str) -> tuple[np.ndarray, np.ndarray, str]:
    """The training examples, their labels, and a note on where they come from."""
    try:
        examples = data.load(name).train
        return examples.x, examples.target, f"{name}, {len(examples.x)} examples"
    except (OSError, ImportError) as error:
        if name != "fashion_mnist":
            raise
        random = np.random.default_rng(0)
        x = random.random((60_000, 784), np.float32)
        labels = random.integers(0, 10, 60_000, np.int32)
        return x, labels, f"random numbers shaped like {name}, which is not installed ({error})"


def make_problem(workload: Workload) -> Problem:
    """He-initialised weights, and data in memory."""
    x, labels, _ = read(workload.data)
    random = np.random.default_rng(1)
    weights = [
        (
            random.normal(0, np.sqrt(2 / m), (m, n)).astype(np.float32),
            np.zeros(n, np.float32),
        )
        for m, n in itertools.pairwise(workload.sizes)
    ]
    return Problem(workload, x, labels, weights)


class Trainer:
    """A network trained in one way."""

    note = ""

    def start(self) -> None:
        """Take the initial weights and a fresh state of the optimizer."""
        raise NotImplementedError

    def batch(self, x: np.ndarray, labels: np.ndarray) -> tuple:
        """The batch as `step` takes it."""
        return x, labels

    def step(self, x: Any, labels: Any) -> Any:
        """One step; its loss, which may still be on its way."""
        raise NotImplementedError

    def epoch(self) -> Any:
        """One epoch; the losses of its steps."""
        raise NotImplementedError

    def wait(self) -> None:
        """Return when the last step is done."""

    def program(self, batch: tuple, epoch: bool) -> Program | None:
        """Of what XLA compiles."""


class JaxTrainer(Trainer):
    """What the contenders in JAX have in common: ``carry`` is all that a step changes."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.x, self.labels = jnp.asarray(problem.x), jnp.asarray(problem.labels)
        self.run_step: Callable = self.make_step()
        self.run_epoch: Callable | None = None

    def make_step(self) -> Callable:
        """(carry, x, labels) -> (carry, loss), compiled."""
        raise NotImplementedError

    def initial(self) -> Any:
        """A new carry."""
        raise NotImplementedError

    def start(self) -> None:
        self.carry = jax.block_until_ready(self.initial())

    def batch(self, x: np.ndarray, labels: np.ndarray) -> tuple:
        return jnp.asarray(x), jnp.asarray(labels)

    def step(self, x: Any, labels: Any) -> Any:
        self.carry, loss = self.run_step(self.carry, x, labels)
        return loss

    def epoch(self) -> Any:
        """Compiled as a whole where `run_epoch` is, else a loop over steps, as most write it."""
        if self.run_epoch is not None:
            self.carry, losses = self.run_epoch(self.carry, self.x, self.labels)
            return losses
        # NumPy takes the batch many times faster than an indexing operation of JAX by itself.
        x, labels = self.problem.x, self.problem.labels
        return [self.step(x[batch], labels[batch]) for batch in self.problem.shuffled_batches()]

    def wait(self) -> None:
        jax.block_until_ready(self.carry)

    def program(self, batch: tuple, epoch: bool) -> Program | None:
        if epoch and self.run_epoch is not None:
            return inspect_program(self.run_epoch, self.initial(), self.x, self.labels)
        return inspect_program(self.run_step, self.initial(), *batch)


class Jaxnn(JaxTrainer):
    """jaxnn by one of its gradient functions, an epoch as one program."""

    def __init__(self, problem: Problem, gradient: Callable):
        layers = [
            part for units in problem.workload.sizes[1:] for part in (nn.dense(units), nn.relu())
        ]
        self.network = nn.serial(*layers[:-1])
        self.gradient = gradient(self.network, nn.softmax_cross_entropy())
        super().__init__(problem)
        step = make_step(self.gradient, problem.optax())
        self.run_epoch = make_epoch(step, problem.workload.batch_size)

    def make_step(self) -> Callable:
        return jax.jit(make_step(self.gradient, self.problem.optax()), donate_argnums=0)

    def initial(self) -> TrainState:
        return jaxnn_state(self.problem, self.network)


def jaxnn_state(problem: Problem, network: nn.Layer) -> TrainState:
    """The train state with the problem's weights."""
    optimizer = problem.optax()
    state = create_state(network, optimizer, jax.random.key(0), problem.x[:1])
    leaves = [leaf for weight, bias in problem.weights for leaf in (bias, weight)]
    params = jax.tree.unflatten(jax.tree.structure(state.params), map(jnp.array, leaves))
    return state._replace(params=params, optimizer_state=optimizer.init(params))


class PlainJax(JaxTrainer):
    """`jax.grad` and optax as a user of JAX writes them, steps called from a loop."""

    def make_step(self) -> Callable:
        optimizer = self.problem.optax()

        def loss_function(params: Any, x: jax.Array, labels: jax.Array):
            for weight, bias in params[:-1]:
                x = jax.nn.relu(x @ weight + bias)
            weight, bias = params[-1]
            losses = optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, labels)
            return losses.mean()

        @partial(jax.jit, donate_argnums=0)
        def step(carry: Any, x: jax.Array, labels: jax.Array):
            params, optimizer_state = carry
            loss, gradients = jax.value_and_grad(loss_function)(params, x, labels)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), loss

        return step

    def initial(self) -> Any:
        params = jax.tree.map(jnp.array, self.problem.weights)
        return params, self.problem.optax().init(params)


class ScannedJax(PlainJax):
    """The same, an epoch as one program with `lax.scan`, shuffled by `jax.random.permutation`."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        size = problem.workload.batch_size

        @partial(jax.jit, donate_argnums=0)
        def epoch(carry: Any, x: jax.Array, labels: jax.Array):
            key, (params_and_state) = carry
            key, order_key = jax.random.split(key)
            order = jax.random.permutation(order_key, len(x))
            whole = len(x) // size * size

            def body(inner: Any, batch: jax.Array):
                return self.run_step(inner, x[batch], labels[batch])

            inner, losses = jax.lax.scan(body, params_and_state, order[:whole].reshape(-1, size))
            if whole < len(x):
                inner, last = body(inner, order[whole:])
                losses = jnp.append(losses, last)
            return (key, inner), losses

        self.run_epoch = epoch

    def step(self, x: Any, labels: Any) -> Any:
        key, inner = self.carry
        inner, loss = self.run_step(inner, x, labels)
        self.carry = key, inner
        return loss

    def initial(self) -> Any:
        return jax.random.key(0), super().initial()


class FlaxNnx(JaxTrainer):
    """Flax NNX with `nnx.Optimizer` and `nnx.jit`, graph nodes cached as its guide advises."""

    def __init__(self, problem: Problem):
        from flax import nnx

        self.nnx = nnx
        super().__init__(problem)

    def initial(self) -> Any:
        nnx = self.nnx
        layers = []
        for index, (weight, bias) in enumerate(self.problem.weights):
            layer = nnx.Linear(*weight.shape, rngs=nnx.Rngs(0))
            layer.kernel, layer.bias = nnx.Param(jnp.array(weight)), nnx.Param(jnp.array(bias))
            layers += [layer, jax.nn.relu] if index + 1 < len(self.problem.weights) else [layer]
        model = nnx.Sequential(*layers)
        return model, nnx.Optimizer(model, self.problem.optax(), wrt=nnx.Param)

    def start(self) -> None:
        self.carry = self.initial()
        self.cached = self.nnx.cached_partial(self.run_step, *self.carry)

    def make_step(self) -> Callable:
        nnx = self.nnx

        def loss_function(model: Any, x: jax.Array, labels: jax.Array):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        @nnx.jit
        def step(model: Any, optimizer: Any, x: jax.Array, labels: jax.Array):
            loss, gradients = nnx.value_and_grad(loss_function)(model, x, labels)
            optimizer.update(model, gradients)
            return loss

        return step

    def step(self, x: Any, labels: Any) -> Any:
        return self.cached(x, labels)

    def wait(self) -> None:
        jax.block_until_ready(self.nnx.state(self.carry))

    def program(self, batch: tuple, epoch: bool) -> Program | None:
        return inspect_program(self.run_step, *self.initial(), *batch)


class Equinox(PlainJax):
    """Equinox, a model of layers for one example that `jax.vmap` maps, `filter_jit`."""

    def __init__(self, problem: Problem):
        import equinox

        self.equinox = equinox
        super().__init__(problem)

    def make_step(self) -> Callable:
        equinox, optimizer = self.equinox, self.problem.optax()

        def loss_function(model: Any, x: jax.Array, labels: jax.Array):
            logits = jax.vmap(model)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        @equinox.filter_jit(donate="all-except-first")
        def step(batch: tuple, carry: Any):
            model, state = carry
            loss, gradients = equinox.filter_value_and_grad(loss_function)(model, *batch)
            arrays = equinox.filter(model, equinox.is_array)
            updates, state = optimizer.update(gradients, state, arrays)
            return (equinox.apply_updates(model, updates), state), loss

        def run(carry: Any, x: jax.Array, labels: jax.Array):
            return step((x, labels), carry)

        return run

    def initial(self) -> Any:
        equinox, layers, key = self.equinox, [], jax.random.key(0)
        for index, (weight, bias) in enumerate(self.problem.weights):
            layer = equinox.nn.Linear(*weight.shape, key=key)
            arrays = jnp.array(weight.T), jnp.array(bias)
            layer = equinox.tree_at(lambda own: (own.weight, own.bias), layer, arrays)
            last = index + 1 == len(self.problem.weights)
            layers += [layer] if last else [layer, equinox.nn.Lambda(jax.nn.relu)]
        model = equinox.nn.Sequential(layers)
        return model, self.problem.optax().init(equinox.filter(model, equinox.is_array))

    def program(self, batch: tuple, epoch: bool) -> Program | None:
        return None  # what `filter_jit` lowers has no figures of memory of its own


class PyTorch(Trainer):
    """PyTorch, batches taken by index tensors: eager, or by `torch.compile`."""

    def __init__(self, problem: Problem, implementation: str, threads: int, compiled: bool = False):
        import torch  # pyright: ignore[reportMissingImports]

        self.torch, self.problem, self.threads = torch, problem, threads
        self.note = f"{implementation}, {threads} thread{'s' if threads > 1 else ''}"
        self.note += ", compiled" if compiled else ""
        self.linear = [torch.nn.Linear(*weight.shape) for weight, _ in problem.weights]
        layers = [part for linear in self.linear for part in (linear, torch.nn.ReLU())]
        self.model = torch.nn.Sequential(*layers[:-1])
        self.forward = torch.compile(self.model) if compiled else self.model
        name = {"sgd": "SGD", "adam": "Adam"}[problem.workload.optimizer]
        options = {} if implementation == "default" else {implementation: True}
        self.make_optimizer = partial(
            getattr(torch.optim, name), lr=problem.learning_rate, **options
        )
        self.x, self.labels = self.batch(problem.x, problem.labels)

    def start(self) -> None:
        torch = self.torch
        torch.set_num_threads(self.threads)
        with torch.no_grad():
            for layer, (weight, bias) in zip(self.linear, self.problem.weights, strict=True):
                layer.weight.copy_(torch.tensor(weight.T))
                layer.bias.copy_(torch.tensor(bias))
        self.optimizer = self.make_optimizer(self.model.parameters())

    def batch(self, x: np.ndarray, labels: np.ndarray) -> tuple:
        return self.torch.tensor(x), self.torch.tensor(labels, dtype=self.torch.int64)

    def step(self, x: Any, labels: Any) -> Any:
        self.optimizer.zero_grad()
        loss = self.torch.nn.functional.cross_entropy(self.forward(x), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def epoch(self) -> Any:
        order = self.torch.randperm(len(self.x))
        batches = order.split(self.problem.workload.batch_size)
        return [self.step(self.x[batch], self.labels[batch]) for batch in batches]


class ScikitLearn(Trainer):
    """scikit-learn's MLPClassifier; ``partial_fit`` on all examples is one epoch."""

    def __init__(self, problem: Problem):
        from sklearn.neural_network import MLPClassifier

        self.problem = problem
        batch_size: Any = problem.workload.batch_size  # annotated there as a string alone
        self.classifier = MLPClassifier(
            hidden_layer_sizes=problem.workload.sizes[1:-1],
            solver=problem.workload.optimizer,
            momentum=0.0,
            alpha=0.0,
            batch_size=batch_size,
            learning_rate_init=problem.learning_rate,
            random_state=0,
        )
        classes = np.arange(problem.workload.sizes[-1])
        self.classifier.partial_fit(
            *problem.first_batches[0], classes=classes
        )  # allocates the weights

    def start(self) -> None:
        weights, biases = zip(*self.problem.weights, strict=True)
        self.classifier.coefs_ = [weight.copy() for weight in weights]
        self.classifier.intercepts_ = [bias.copy() for bias in biases]
        del self.classifier._optimizer  # made anew around the new weights

    def step(self, x: Any, labels: Any) -> Any:
        return self.classifier.partial_fit(x, labels).loss_

    def epoch(self) -> Any:
        return [self.step(self.problem.x, self.problem.labels)]


class NumPy(Trainer):
    """The textbook's formulas in NumPy."""

    def __init__(self, problem: Problem):
        self.problem = problem

    def start(self) -> None:
        self.params = [array.copy() for pair in self.problem.weights for array in pair]
        self.means = [np.zeros_like(p) for p in self.params]
        self.squares = [np.zeros_like(p) for p in self.params]
        self.count = 0

    def step(self, x: Any, labels: Any) -> Any:
        inputs, weights, biases = [x], self.params[::2], self.params[1::2]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(np.maximum(inputs[-1] @ weight + bias, 0))
        logits = inputs[-1] @ weights[-1] + biases[-1]
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        delta = exponentials / exponentials.sum(1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(delta[rows, labels]).mean()
        delta[rows, labels] -= 1
        delta /= np.float32(len(labels))
        gradients = []
        for x, weight in zip(inputs[::-1], weights[::-1], strict=True):
            gradients += [delta.sum(0), x.T @ delta]
            if x is not inputs[0]:
                delta = (delta @ weight.T) * (x > 0)
        self.update(gradients[::-1])
        return loss

    def update(self, gradients: Sequence[np.ndarray]) -> None:
        """SGD, or Adam (Kingma and Ba, 2015)."""
        rate = np.float32(self.problem.learning_rate)
        if self.problem.workload.optimizer == "sgd":
            for p, g in zip(self.params, gradients, strict=True):
                p -= rate * g
            return
        self.count += 1
        mean_correction = np.float32(1 - 0.9**self.count)
        square_correction = np.float32(1 - 0.999**self.count)
        for p, g, m, v in zip(self.params, gradients, self.means, self.squares, strict=True):
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.001) * (g * g - v)
            root = np.sqrt(v / square_correction)
            p -= rate * (m / mean_correction) / (root + np.float32(1e-8))

    def epoch(self) -> Any:
        x, labels = self.problem.x, self.problem.labels
        return [self.step(x[batch], labels[batch]) for batch in self.problem.shuffled_batches()]


def best_pytorch(problem: Problem) -> PyTorch:
    """The fastest of PyTorch's settings in a short trial of steps."""
    threads = sorted({1, os.cpu_count() or 1})
    settings = itertools.product(("default", "foreach", "fused"), threads, (False, True))
    trainers = {s: PyTorch(problem, *s) for s in settings}
    for setting, trainer in list(trainers.items()):
        if setting[-1]:
            try:
                trainer.forward(trainer.x[: problem.workload.batch_size])
            except Exception as error:  # whatever its compiler raises where it lacks something
                print(f"torch.compile: left out, {str(error).strip().splitlines()[0]}")
                del trainers[setting]
    contenders = {str(s): contender_of(t, problem, epoch=False) for s, t in trainers.items()}
    figures = take_turns(contenders, 10, seconds=3.0)
    return min(trainers.items(), key=lambda item: figures[str(item[0])].minimum)[1]


CONTENDERS: dict[str, Callable[[Problem], Trainer]] = {
    "jaxnn manual": partial(Jaxnn, gradient=nn.backprop),
    "jaxnn autodiff": partial(Jaxnn, gradient=nn.autodiff),
    "jax.grad + optax": PlainJax,
    "jax.grad + optax, scanned": ScannedJax,
    "Flax NNX": FlaxNnx,
    "Equinox": Equinox,
    "PyTorch": best_pytorch,
    "scikit-learn": ScikitLearn,
    "NumPy": NumPy,
}


def contender_of(trainer: Trainer, problem: Problem, epoch: bool) -> Contender:
    """The trainer's work: some epochs, or a step on each of the first batches."""
    epochs = problem.epochs_of_a_turn
    batches = [trainer.batch(*batch) for batch in problem.first_batches]

    def run() -> None:
        if epoch:
            for _ in range(epochs):
                trainer.epoch()
        else:
            for batch in batches:
                trainer.step(*batch)
        trainer.wait()

    work = epochs if epoch else len(batches)
    return Contender(run, trainer.start, trainer.program(batches[0], epoch), work, trainer.note)


def trainers_of(problem: Problem, names: Sequence[str]) -> Iterator[tuple[str, Trainer]]:
    """Those whose packages are installed; prints which are not."""
    for name in names:
        if name.endswith("scanned") and not problem.workload.epoch:
            continue  # a step by itself is that of the plain contender
        try:
            yield name, CONTENDERS[name](problem)
        except ModuleNotFoundError as error:
            print(f"{name}: skipped, the package {error.name} is not installed")


def require_same_losses(problem: Problem, trainers: Mapping[str, Trainer]) -> dict[str, list]:
    """The losses of the first three steps (and the mean one of an epoch), of every contender.

    Raises:
        RuntimeError: They differ: by a ten-thousandth in a step, which the frameworks' rounding
            stays below, or by a tenth in an epoch, whose order is random.
    """
    losses = {}
    for name, trainer in trainers.items():
        trainer.start()
        batches = [trainer.batch(*batch) for batch in problem.first_batches[:3]]
        losses[name] = [float(trainer.step(*batch)) for batch in batches]
        if problem.workload.epoch:
            trainer.start()
            losses[name].append(float(np.mean([float(loss) for loss in trainer.epoch()])))
    tolerances = [1e-4] * len(problem.first_batches[:3]) + [0.1] * problem.workload.epoch
    first, reference = next(iter(losses.items()))
    for name, own in losses.items():
        if not np.all(np.abs(np.subtract(own, reference)) <= np.multiply(tolerances, reference)):
            raise RuntimeError(
                f"benchmark: {problem.workload.name}: expected all contenders to have the same "
                f"losses, got {reference} of {first} and {own} of {name}"
            )
    return losses


def measure(
    workload: Workload, settings: Settings
) -> tuple[dict[str, Figures], dict[str, list[float]]]:
    """The figures and the losses of every contender."""
    problem = make_problem(workload)
    names = [name for name in CONTENDERS if settings.takes(name)]
    trainers = dict(trainers_of(problem, names))
    contenders = {
        name: contender_of(trainer, problem, workload.epoch) for name, trainer in trainers.items()
    }
    losses = require_same_losses(problem, trainers)
    return take_turns(contenders, settings.repeats, settings.seconds), losses


def measure_crosscheck(workload: Workload, settings: Settings) -> dict[str, Figures]:
    """An epoch through `jaxnn.training.train` with and without comparisons."""
    problem = make_problem(workload)
    network = Jaxnn(problem, nn.backprop).network
    epochs = problem.epochs_of_a_turn  # at least one comparison

    def contender(crosscheck: Crosscheck | None) -> Contender:
        running = train(
            network,
            nn.softmax_cross_entropy(),
            problem.optax(),
            jaxnn_state(problem, network),
            problem.x,
            problem.labels,
            epochs=10**6,
            batch_size=workload.batch_size,
            crosscheck=crosscheck,
        )
        return Contender(lambda: [next(running) for _ in range(epochs)], work=epochs)

    contenders = {"manual": contender(None), "crosscheck": contender(Crosscheck())}
    return take_turns(contenders, settings.repeats, settings.seconds)


def run(settings: Settings) -> dict[str, Any]:
    """Measure all workloads and print a table for each."""
    settings.require_contenders(CONTENDERS)
    results = {}
    for workload in WORKLOADS:
        sizes = "-".join(map(str, workload.sizes))
        note = read(workload.data)[2]
        title = f"{workload.name}: {sizes}, batch {workload.batch_size}, {workload.optimizer}"
        if settings.wants(workload.name):
            figures, losses = measure(workload, settings)
            results[workload.name] = {"data": note, "figures": figures, "losses": losses}
            print(table(f"\n{title}; {note}", figures), flush=True)
        if workload.epoch and settings.wants(name := f"{workload.name}, {CROSSCHECK}"):
            figures = measure_crosscheck(workload, settings)
            results[name] = {"data": note, "figures": figures}
            print(table(f"\n{name}; {note}", figures), flush=True)
    return results
