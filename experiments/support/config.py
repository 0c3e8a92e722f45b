"""The configuration of an experiment: a TOML file whose every value the command line can change."""

import dataclasses
import inspect
import math
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxnn
import jaxnn.data
from experiments.support.calling import command
from experiments.support.expressions import Call, build, parse
from experiments.support.help import CONFIGS
from jaxnn import Layer, Loss
from jaxnn.core.task import Task, of_many_labels
from jaxnn.core.validation import listed, require_positive_integer, unknown_name
from jaxnn.data import Dataset
from jaxnn.data.chunks import load_table, map_table
from jaxnn.data.encoding import Embedded
from jaxnn.data.mnist import MNIST
from jaxnn.data.splitting import take
from jaxnn.data.tables.reading import Reading, is_table
from jaxnn.learning.privacy import Privacy, adaptive
from jaxnn.losses.elementwise import Binary, OfError
from jaxnn.rewrites.precision import POLICIES, Policy, skip_overflow, with_precision
from jaxnn.training import (
    Step,
    make_optimizer,
    make_plateau,
    make_schedule,
    steps_per_epoch,
    update_in_backward,
    weighted_examples,
)
from jaxnn.training.optimizers import TOLD_THE_LOSS, assemble_optimizer

SETTINGS = ("learning_rate", "weight_decay", "clip_norm")
"""The numbers of a configuration that one compiled program can be given many of."""
AUTO = "auto"
_BATCH_SIZES = ((32, 10_000), (128, 100_000), (1024, math.inf))
"""(batch size, up to how many training examples), where none is given,"""
COLUMNS = "columns"
"""In the place of a layer, the embeddings of a table."""
_SMALL = "normal(0.1)"
"""How embeddings begin: the vector of what no training example has stays there, near 0."""
_STEPS = 4000
"""and how many steps are about enough for a table."""
RUN = "run"
"""The table of a TOML file in which a run keeps what is no option."""


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how they are split; see jaxnn.data.load."""

    name: str = "digits"
    """A name such as digits, or a path: of a table, an .npz, a folder with a folder of images for
    each class, or one of .npy files."""
    folder: str | None = None
    """Where the files of mnist or fashion_mnist are."""
    target: tuple[str, ...] | None = None
    """For files: the column or columns of the target, or its array."""
    inputs: tuple[str, ...] | None = None
    """For files: the columns (or the one array) of the features."""
    task: str | None = None
    """For files: classification, regression, or labels (truth values)."""
    test: str | None = None
    """For files: another one, with the test examples."""
    test_fraction: float = 0.2
    """The share that is held out for the test."""
    validation_fraction: float = 0.0
    """The share that is held out for validation after every epoch."""
    stratify: bool = True
    """Whether the classes keep their proportions in a split."""
    groups: str | None = None
    """For tables: a column, whose groups stay together in a split."""
    weights: str | None = None
    """For files: the column or array of what each example counts."""
    seed: int = 0
    """Draws the splits."""
    standardize: str = "none"
    """none, features (each by itself), all (by one mean and deviation), or auto (which follows from
    the data)."""
    standardize_target: bool = False
    """Whether a regression target is standardised too."""
    flatten: bool = True
    """Whether images become vectors."""
    missing: str = "fill"
    """For tables, of empty cells: fill (the median, and a feature that says so), frequent (the most
    frequent value) or refuse."""
    embed: tuple[str, ...] = ()
    """For tables: columns of categories to learn an embedding of."""
    embed_above: int = 50
    """For tables: also of columns of more categories than this."""
    embed_width: int = 0
    """For tables: the length of their vectors; 0 for half as many."""
    missing_target: str = ""
    """For tables, of rows without a target: refuse, drop, or class."""
    kinds: tuple[str, ...] = ()
    """For tables, COLUMN=KIND of what looks otherwise: number, boolean, category, date (or
    date:%%d/%%m/%%Y) or drop."""
    separator: str = ""
    """For tables: between cells; found unless given."""
    decimal: str = ""
    """For tables: the point or the comma; found unless given."""
    encoding: str = ""
    """For tables: of the text; found unless given."""
    header: str = ""
    """For tables: yes or no, whether the first row has names; found unless given."""
    images: str | None = None
    """For tables: the column with the paths of images."""
    size: tuple[int, int] | None = None
    """For images: height and width, to which they are resized."""
    colors: str = ""
    """For images: gray or rgb; gray where all are, unless given."""

    def load(
        self, *, prefer_numbers: bool = False, fold: tuple[int, int] | None = None
    ) -> jaxnn.data.Splits:
        """The splits, or those of one of several folds; ``prefer_numbers`` where whole numbers are
        meant as a regression."""
        options: dict[str, Any] = dataclasses.asdict(self)
        reading = Reading(**{name: options.pop(name) for name in Reading._fields})
        return jaxnn.data.load(
            options.pop("name"),
            reading=reading,
            prefer_numbers=prefer_numbers,
            fold=fold,
            **options,
        )

    def load_in_pieces(self, *, prefer_numbers: bool = False) -> jaxnn.data.Splits:
        """The splits of a table, mapped from a folder in the cache, which is written once."""
        return load_table(self.name, prefer_numbers=prefer_numbers, **self._of_table())

    def _of_table(self) -> dict[str, Any]:
        """What `jaxnn.data.chunks.map_table` is given."""
        options: dict[str, Any] = dataclasses.asdict(self)
        options["reading"] = Reading(**{name: options.pop(name) for name in Reading._fields})
        for name in ("folder", "images", "size", "colors"):
            if given := options.pop(name):
                raise ValueError(f"load: {name} has no meaning for {self.name!r}, got {given!r}")
        embedded = (options.pop(name) for name in ("embed", "embed_above", "embed_width"))
        options["embedded"] = Embedded(*embedded)
        del options["name"], options["flatten"]
        return options

    def map(self, folder: Path, *, prefer_numbers: bool = False) -> Path:
        """Write the splits as a folder of .npy files; tables and images, which may be more than the
        memory holds, in pieces."""
        if self.is_table:
            return map_table(self.name, folder, prefer_numbers=prefer_numbers, **self._of_table())
        if not self.are_images:
            return jaxnn.data.write_mapped(self.load(prefer_numbers=prefer_numbers), folder)
        options: dict[str, Any] = dataclasses.asdict(self)
        reading = Reading(**{name: options.pop(name) for name in Reading._fields})
        for name in ("folder", "inputs", "flatten", "missing", "embed_above", "embed_width"):
            options.pop(name)
        if options.pop("embed"):
            raise ValueError("map_data: expected embed only for a table, got images")
        return jaxnn.data.map_images(
            options.pop("name"), folder, reading=reading, prefer_numbers=prefer_numbers, **options
        )

    def reading(self, said: "ReadingConfig") -> Reading:
        """How another table of such data is read: as it is said, and otherwise as this one is."""
        names = [field.name for field in dataclasses.fields(said)]
        return Reading(**{name: getattr(said, name) or getattr(self, name) for name in names})

    @property
    def is_named(self) -> bool:
        """Whether these are data that jaxnn finds by their name, in place of somebody's files."""
        return self.name in jaxnn.data.NAMES

    @property
    def is_mapped(self) -> bool:
        """Whether they are a folder, whose preparation is in it."""
        return jaxnn.data.is_mapped(self.name)

    @property
    def is_table(self) -> bool:
        """Whether they are the columns of a table."""
        return not self.is_named and is_table(Path(self.name)) and self.images is None

    @property
    def are_images(self) -> bool:
        """Whether they are images in files."""
        return self.images is not None or jaxnn.data.are_images(self.name)

    @property
    def short_name(self) -> str:
        """For people: without the folders."""
        return self.name if self.is_named else Path(self.name).name

    def located(self) -> "DataConfig":
        """The same with absolute paths, so that they are found from any working folder."""
        name = self.name if self.is_named else str(Path(self.name).expanduser().resolve())
        if not self.is_named and not Path(name).exists():
            name = self.name  # which is refused as it was given
        others = (
            None if path is None else str(Path(path).expanduser().resolve())
            for path in (self.folder, self.test)
        )
        folder, test = others
        return dataclasses.replace(self, name=name, folder=folder, test=test)


@dataclass(frozen=True)
class ReadingConfig:
    """How a table of other examples is read, where that is not as it was in training."""

    separator: str = ""
    """Between cells."""
    decimal: str = ""
    """The point or the comma."""
    encoding: str = ""
    """Of the text."""
    header: str = ""
    """yes or no, whether the first row names the columns."""
    missing_target: str = ""
    """What becomes of rows without a target: refuse, drop, or class (where NA is one)."""


@dataclass(frozen=True)
class PrivacyConfig:
    """What private training does to gradients; see jaxnn.learning.privacy."""

    clip_norm: float = 1.0
    """The largest norm of an example's gradient, or the first."""
    noise_multiplier: float = 1.0
    """The deviation of the noise, in units of clip_norm."""
    delta: float = 1e-5
    """The probability with which the promise may fail."""
    per_layer: bool = False
    """Clip each layer's gradient by itself."""
    automatic: float | None = None
    """γ of automatic clipping: scale to clip_norm / (norm + γ)."""
    quantile: float | None = None
    """Let clip_norm follow this quantile of the norms."""
    count_noise: float | None = None
    """The deviation of noise on counts of norms; batch / 20."""
    allow_no_noise: bool = False
    """Whether the noise may be 0, which keeps nothing private."""


@dataclass(frozen=True)
class Config:
    """A network, its loss, the data and how it is trained."""

    network: tuple[str, ...] = ("dense(64)", "relu()", "dense(32)", "relu()", "dense(10)")
    """Layers as called in Python, or one "serial(stem=dense(64), …)"; outputs: their number;
    columns, in the first place: the embeddings of a table."""
    loss: str = "softmax_cross_entropy()"
    """The loss, as one would call it in Python."""
    optimizer: str = "adam()"
    """Of optax or optax.contrib: "adam(b1=0.95)", muon …"""
    learning_rate: float = 1e-3
    """The largest learning rate."""
    schedule: str = "constant()"
    """constant, cosine, linear, exponential, step, onecycle, polynomial, sgdr or reduce_on_plateau:
    "cosine(warmup=0.1)"."""
    weight_decay: float = 0.0
    """λ of the L2 penalty; decoupled for adamw, lamb, lion …"""
    clip_norm: float | None = None
    """Scale gradients of a larger global norm down to it."""
    epochs: int = 20
    """How often every training example is used."""
    batch_size: int = 32
    """How many examples a step uses."""
    gradient: str = "manual"
    """manual (hand-derived), autodiff, or private."""
    in_backward: bool = False
    """Update layer by layer on the way back, without a whole gradient."""
    micro_batches: int = 1
    """In how many parts a batch goes through the network."""
    precision: str = "float32"
    """float32, or bfloat16 or float16 for the arithmetic."""
    crosscheck_every: int = 500
    """Steps between two comparisons with autodiff; 0 for none."""
    crosscheck_tolerance: float = 1e-3
    """The largest relative error of a parameter's gradient."""
    stream: bool = False
    """Read batches from disk as they are needed; a table piece by piece."""
    class_weights: str = ""
    """balanced: every class counts the same, whatever its size."""
    metrics: tuple[str, ...] = ()
    """Beside loss and accuracy, or loss, r2 and mae: f1, f1_each, precision, recall, roc_auc,
    log_loss, brier, top_5, rmse …"""
    best: str = "loss"
    """The metric of validation that tells the best epoch; or last."""
    patience: int | None = None
    """Stop after this many epochs without a smaller validation loss."""
    seed: int = 0
    """Draws initial parameters, the order of examples and noise."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which data."""
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    """Of the gradients, where gradient is private."""

    @cached_property
    def layers(self) -> Layer:
        """The network."""
        return self._in_privacy(self._in_precision(self._plain_layers))

    @cached_property
    def fused_layers(self) -> Layer:
        """The same network, computed faster by hand; see `jaxnn.fuse`."""
        return self._in_privacy(self._in_precision(jaxnn.fuse(self._plain_layers)))

    @cached_property
    def _plain_layers(self) -> Layer:
        if not self.network:
            raise ValueError("config: expected network to have at least one layer, got none")
        match tuple(build(text, "layer", LAYERS) for text in self.network):
            case (jaxnn.serial(names=(_, *_)) as network,):  # the names of its parts are the paths
                return network
            case layers:
                return jaxnn.serial(*layers)

    def _in_privacy(self, network: Layer) -> Layer:
        """The network, whose state holds a clip norm that follows a quantile."""
        count_noise = self.privacy.count_noise
        if self.privacy.quantile is None and count_noise is not None:
            raise ValueError(
                "config: expected privacy.count_noise only with privacy.quantile, whose counts it "
                f"is added to, got {count_noise:g} without: say --privacy.quantile as well"
            )
        if self.gradient != "private" or self.privacy.quantile is None:
            return network
        if count_noise is None:
            count_noise = max(self.batch_size, 1) / 20
        numbers = {"quantile": self.privacy.quantile, "count_noise": count_noise}
        return adaptive(network, self.privacy.clip_norm, **numbers)

    @property
    def policy(self) -> Policy | None:
        """The dtypes of the network; None for float32 throughout."""
        if self.precision == "float32":
            return None
        if self.precision not in POLICIES:
            raise ValueError(
                f"config: {unknown_name('precision', self.precision, ['float32', *POLICIES])}"
            )
        if self.gradient not in ("manual", "crosscheck"):
            raise ValueError(
                f"config: expected gradient to be manual where precision is {self.precision}, got "
                f"{self.gradient}, which would not scale its deltas"
            )
        return POLICIES[self.precision]

    def _in_precision(self, network: Layer) -> Layer:
        return network if self.policy is None else with_precision(network, self.policy)

    @cached_property
    def loss_function(self) -> Loss:
        """The loss."""
        return build(self.loss, "loss", LOSSES)

    def make_optimizer(
        self, examples: int, settings: Mapping[str, Any] | None = None
    ) -> optax.GradientTransformation:
        """The optimiser, for training on this many examples.

        ``settings``, if given, stand in for the learning rate, weight decay and clip norm of the
        configuration; they may be traced numbers.
        """
        require_positive_integer("config", "epochs", self.epochs)
        require_positive_integer("config", "batch_size", self.batch_size)
        schedule = parse(self.schedule, "schedule")
        optimizer = parse(self.optimizer, "optimizer")
        for call in (schedule, optimizer):
            if call.arguments:
                raise ValueError(
                    f"config: expected options of {call.name} by name, got {call.arguments}"
                )
        by_epoch = steps_per_epoch(examples, self.batch_size)
        steps, plateau = self.epochs * by_epoch, None
        if schedule.name == "reduce_on_plateau":
            plateau = make_plateau(schedule.options, accumulation_size=by_epoch)
            schedule = Call("constant", (), {})
        if self.gradient == "private" and (plateau or optimizer.name in TOLD_THE_LOSS):
            raise ValueError(
                f"config: expected an optimizer and a schedule that are not told the loss where "
                f"gradient is private, which is a promise about the gradient alone, got "
                f"{self.optimizer} and {self.schedule}"
            )
        numbers = {name: getattr(self, name) for name in SETTINGS}
        if self.in_backward:
            numbers["clip_norm"] = None  # the step clips
        if settings is None:
            numbers["learning_rate"] = make_schedule(
                schedule.name, self.learning_rate, steps, schedule.options
            )
            made = make_optimizer(optimizer.name, options=optimizer.options, **numbers)
        else:
            numbers |= settings
            peak, unit = (
                numbers["learning_rate"],
                make_schedule(schedule.name, 1.0, steps, schedule.options),
            )
            numbers["learning_rate"] = lambda count: peak * unit(count)
            made = assemble_optimizer(optimizer.name, options=optimizer.options, **numbers)
        made = optax.chain(made, plateau) if plateau else made
        return skip_overflow(made) if self.policy and self.policy.scales else made

    def make_update(self, examples: int) -> optax.GradientTransformation | Step:
        """What `jaxnn.training.train` takes as its optimiser: that of `make_optimizer`, or the step
        that updates each layer by it on the way back."""
        optimizer = self.make_optimizer(examples)
        if not self.in_backward:
            return optimizer
        for name, allowed in (("gradient", ("manual",)), ("micro_batches", (1,))):
            if (given := getattr(self, name)) not in allowed:
                raise ValueError(
                    f"config: expected {name} to be {allowed[0]} where in_backward is set, which "
                    f"has no gradient of the whole network, got {given}"
                )
        return update_in_backward(
            self.layers, self.loss_function, optimizer, clip_norm=self.clip_norm
        )

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """Those that are asked for, and that by which the best epoch is known."""
        best = () if self.best == "last" else (self.best,)
        return tuple(dict.fromkeys((*self.metrics, *best)))

    @property
    def privacy_of_gradients(self) -> Privacy | None:
        """Clip norm, noise and δ, where gradient is private; None otherwise."""
        if self.gradient != "private":
            return None
        return Privacy(*(getattr(self.privacy, name) for name in Privacy._fields))

    def task(self, splits: jaxnn.data.Splits) -> Task:
        """What the loss asks of these data."""
        return task_on(self.loss_function, splits.preparation)

    def supervised(self, train: Dataset, task: Task) -> tuple[Loss, Any]:
        """The loss to train with, and the targets as it takes them: with the weights of the
        examples, if they have some, so scaled that their mean is 1."""
        target = task.prepare(train.target)
        if train.weights is None:
            return self.loss_function, target
        mean = np.mean(train.weights, dtype=np.float64)
        return weighted_examples(self.loss_function), (target, np.float32(train.weights / mean))

    def load(self, fold: tuple[int, int] | None = None) -> jaxnn.data.Splits:
        """The splits of the data, or of one fold; whole numbers are a regression for a loss of
        errors."""
        if self.stream and fold is None and self.data.is_table:
            return self.data.load_in_pieces(prefer_numbers=self._is_of_error)
        return self.data.load(prefer_numbers=self._is_of_error, fold=fold)

    def map(self, folder: Path) -> Path:
        """Write the splits as a folder of .npy files."""
        return self.data.map(folder, prefer_numbers=self._is_of_error)

    @property
    def _is_of_error(self) -> bool:
        return self.loss != AUTO and isinstance(self.loss_function, OfError)

    def resolved(self, splits: jaxnn.data.Splits) -> "Config":
        """The same with numbers in place of what follows from the data: a loss "auto", "outputs" in
        the network, a batch size or number of epochs of 0; a batch is at most all of the data."""
        known, examples = splits.preparation, len(splits.train.target)
        loss = self.loss
        if loss == AUTO:
            by_task = "sigmoid_binary_cross_entropy()" if known.task else "half_squared_error()"
            loss = "softmax_cross_entropy()" if known.class_names else by_task
        if self.class_weights:
            loss = repr(_balanced(self.class_weights, build(loss, "loss", LOSSES), splits.train))
        outputs = task_on(build(loss, "loss", LOSSES), known).outputs
        if outputs is None:
            outputs = splits.train.target.shape[-1]
        network = _for_images(known) if self.network == (AUTO,) else self.network
        network = tuple(
            re.sub(r"\boutputs\b", str(outputs), text)
            for layer in network
            for text in (_for_columns(known) if layer == COLUMNS else (layer,))
        )
        batch_size = self.batch_size or next(
            size for size, most in _BATCH_SIZES if examples <= most
        )
        batch_size = min(batch_size, examples)
        steps = steps_per_epoch(examples, max(batch_size, 1))
        most = 200 if known.images is None else 30
        epochs = self.epochs or int(np.clip(_STEPS // steps, 10, most))
        standardize = self.data.standardize
        if standardize == AUTO:
            standardize = "features" if known.feature_names else "all"
            standardize = "none" if self.data.is_mapped else standardize
        standardize_target = self.data.standardize_target or not (
            self.data.is_mapped or known.target_standardization.is_identity
        )
        return dataclasses.replace(
            self,
            loss=loss,
            network=network,
            batch_size=batch_size,
            epochs=epochs,
            data=dataclasses.replace(
                self.data, standardize=standardize, standardize_target=standardize_target
            ),
        )


def _for_columns(known: jaxnn.data.Preparation) -> tuple[str, ...]:
    """The vectors of the columns that are embedded beside the numbers; nothing without any."""
    tables = [repr(jaxnn.embedding(e.codes, e.width, weight_init=_SMALL)) for e in known.embedded]
    if not tables:
        return ()
    numbers = ["identity()"] * bool(known.network_shape[0])
    return (f"parallel({', '.join(numbers + tables)})", "concatenate()")


def _for_images(known: jaxnn.data.Preparation) -> tuple[str, ...]:
    """Convolutions and pooling until the shorter side has 4 to 7 pixels, then dense layers; for
    anything but images, dense layers alone."""
    shape = known.network_shape
    if len(shape) != 3:
        return (COLUMNS, "dense(64)", "relu()", "dense(32)", "relu()", "dense(outputs)")
    pools = min(max(int(math.log2(min(shape[:2]) / 4)), 0), 6)
    first = 32 if pools < 4 else 16
    layers = [f"conv({first}, (3, 3))", "relu()"] * (pools < 2)
    for level in range(pools):
        layers += [f"conv({min(first << level, 128)}, (3, 3))", "relu()", "max_pool(2)"]
    return (*layers, "flatten()", "dropout(0.25)", "dense(64)", "relu()", "dense(outputs)")


def _exported(kind: type) -> dict[str, Any]:
    """The public classes of jaxnn that can be made and are of this kind, by name."""
    public = {name: getattr(jaxnn, name) for name in dir(jaxnn)}
    return {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, kind) and not inspect.isabstract(value)
    }


def task_on(loss: Loss, known: Dataset | jaxnn.data.Preparation) -> Task:
    """What a loss asks of such data, with the units and names that they have."""
    if known.task != "labels":
        task = loss.task(len(known.class_names))
        task = task._replace(names=known.class_names or known.target_names)
        if isinstance(known, Dataset) or task.decide is not None:
            return task
        mean, deviation = known.target_standardization
        return task._replace(mean=mean, deviation=deviation)
    if not isinstance(loss, Binary):
        raise ValueError(
            f"config: expected a loss of truth values for several targets of them, such as "
            f'--loss "sigmoid_binary_cross_entropy()", got {loss!r}; --data.task regression takes '
            "them as numbers"
        )
    first, second = map(float, loss.labels)
    task = of_many_labels(loss.threshold, (first, second), loss.probability)
    return task._replace(names=known.target_names)


def _balanced(how: str, loss: Loss, train: Dataset) -> Loss:
    """The loss in which a class of n_k among n examples of c classes counts n / (c n_k)."""
    if how != "balanced":
        raise ValueError(f"config: {unknown_name('class_weights', how, ['balanced'])}")
    field = next((f for f in ("class_weights", "pos_weight") if hasattr(loss, f)), None)
    if not train.class_names or field is None:
        raise ValueError(
            f"config: expected class_weights with classes and a loss that can weigh them, such as "
            f"softmax_cross_entropy(), got {'numbers' if not train.class_names else loss!r}"
        )
    counts = np.bincount(train.target, minlength=len(train.class_names))
    if not counts.all():
        name = train.class_names[int(np.argmin(counts))]
        raise ValueError(
            f"config: expected class_weights of classes with examples, {name!r} has none"
        )
    weights = len(train.target) / (len(counts) * counts)
    balanced = tuple(float(f"{w:.6g}") for w in weights)
    value = balanced if field == "class_weights" else float(f"{counts[0] / counts[1]:.6g}")
    return dataclasses.replace(loss, **{field: value})


LAYERS = _exported(Layer) | {Policy.__name__: Policy}
LOSSES = _exported(Loss)


def load_config(name: str) -> Config:
    """The configuration in a file that `find_config` finds."""
    return read_config(find_config(name))


def find_config(name: str) -> Path:
    """The file of a configuration: a path that ends in .toml, or a name in configs/."""
    if (Path(name) / "config.toml").is_file():
        raise ValueError(
            f"config: {name} is a run folder; to continue it: {command('train')} --resume "
            f"{shlex.quote(name)}"
        )
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise FileNotFoundError(f"config: expected {path} to be a file, found none")
        raise ValueError(unknown_name("config", name, [p.stem for p in CONFIGS.glob("*.toml")]))
    return path


def read_config(path: Path) -> Config:
    """The configuration in a TOML file.

    Raises:
        ValueError: the file is no TOML, or has an unknown key (the message has the nearest valid
            one) or a value of another type.
    """
    table = read_toml(path)
    table.pop(RUN, None)
    data = _fill(DataConfig, table.pop("data", {}), f"{path.name} [data]")
    privacy = _fill(PrivacyConfig, table.pop("privacy", {}), f"{path.name} [privacy]")
    return dataclasses.replace(_fill(Config, table, path.name), data=data, privacy=privacy)


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds; raises ValueError where it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"config: expected {path} to be TOML: {error}") from None


def _fill(kind: type, table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: expected a table of options, got {table!r}")
    types = {f.name: f.type for f in dataclasses.fields(kind)}
    values = {}
    for key, value in table.items():
        if key not in types:
            raise ValueError(f"{where}: {unknown_name('key', key, types)}")
        values[key] = _convert(value, types[key], f"{where}: {key}")
    return kind(**values)


def _convert(value: Any, expected: Any, where: str) -> Any:
    if isinstance(value, str) and str(expected).startswith("tuple") and "None" in str(expected):
        value = (value,)
    inner = int if "tuple[int" in str(expected) else str
    if isinstance(value, list) and all(type(v) is inner for v in value):
        value = tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and "float" in str(expected):
        value = float(value)
    accepts = getattr(expected, "__args__", None)
    kinds = accepts if accepts and Ellipsis not in accepts else (expected,)
    origins = tuple(getattr(kind, "__origin__", kind) for kind in kinds)
    if not isinstance(value, origins) or (isinstance(value, bool) and bool not in origins):
        name = getattr(expected, "__name__", str(expected))
        raise ValueError(f"{where}: expected {name}, got {value!r}")
    return value


def to_table(config: Config) -> dict[str, Any]:
    """The configuration as TOML holds it: what is None is left out."""

    def clean(table: dict) -> dict:
        return {
            key: clean(value) if isinstance(value, dict) else value
            for key, value in table.items()
            if value is not None
        }

    return clean(dataclasses.asdict(config))


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a configuration by names such as data.seed."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def sample_of(config: Config, examples: int = 4) -> tuple[Any, Any]:
    """The shapes and dtypes of a few inputs and their targets as the loss takes them.

    Nothing is downloaded for it.
    """
    data = config.data
    if data.name in MNIST:
        classes = len(MNIST[data.name].class_names)
        x = np.zeros((examples, 28 * 28) if data.flatten else (examples, 28, 28, 1), np.float32)
        labels = np.zeros(examples, np.int32)
    else:
        part = config.load().train
        part = take(part, slice(examples))
        x, labels, classes = part.x, part.target, len(part.class_names)
    target = config.loss_function.task(classes).prepare(labels)
    return jax.eval_shape(lambda *arrays: arrays, x, target)


def require_compatible(config: Config, splits: jaxnn.data.Splits) -> None:
    """Check network, loss and data against each other before any work starts.

    Raises:
        ValueError, TypeError: the network cannot take the data, or does not have the number of
            outputs that the loss needs.
    """
    network, loss, task = config.layers, config.loss_function, config.task(splits)
    first = take(splits.train, slice(1))
    x, target = first.x, task.prepare(first.target)

    def run(key, x):
        params, state = network.init(key, x)
        return network.predict(params, state, x), network.forward(params, state, x, key)[0]

    try:
        prediction, in_training = jax.eval_shape(run, jax.random.key(0), x)
    except (ValueError, TypeError) as error:
        if not (embedded := splits.preparation.embedded):
            raise
        raise ValueError(
            f"{error}; the network is given the codes of "
            f"{listed([e.column.name for e in embedded])} beside the numbers: begin it with their "
            'embeddings, --network columns "dense(64)" …, or take the columns as one-hot, '
            "--data.embed-above 1000000"
        ) from error
    expected = splits.train.target.shape[-1] if task.outputs is None else task.outputs
    way_out = '; a last layer "dense(outputs)" has as many as are needed'
    shape = getattr(prediction, "shape", None)
    if shape is None or shape[1:] != (expected,):
        raise ValueError(
            f"config: expected network to return {expected} outputs for {config.loss} on "
            f"{config.data.short_name}, got {'a tuple' if shape is None else f'shape {shape[1:]}'}"
            f"{way_out}"
        )
    jax.eval_shape(loss.value, in_training, target)
