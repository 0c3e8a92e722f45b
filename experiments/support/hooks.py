"""Metrics to other programs: ``--log wandb``, mlflow, aim, tensorboard, or something of one's own.

``--log module:function`` calls ``function(folder)`` with the run folder; what it returns has the
methods of `Hook`. None of these can lose a run: one that raises is warned of, and left out.
"""

import importlib
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from experiments.support.tracking import scalars_of
from jaxnn.core.validation import unknown_name

TENSORBOARD = "tensorboard"
"""Whose event files `jaxnn` writes by itself; see `experiments.support.tracking`."""


class Hook(Protocol):
    """What is told of a run."""

    def start(self, config: dict[str, Any]) -> None:
        """The options of the run by name, before its first epoch."""
        ...

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Metrics by name, after an epoch; those of the test set, test/…, after the last."""
        ...

    def finish(self, status: str) -> None:
        """The end: "finished", "stopped" (by a signal) or "failed"."""
        ...


Factory = Callable[[Path], Hook]


class Wandb:
    """Weights & Biases."""

    def __init__(self, folder: Path):
        self._module, self._folder = importlib.import_module("wandb"), folder

    def start(self, config: dict[str, Any]) -> None:
        """A run of the project jaxnn, called as the run folder."""
        self._run = self._module.init(project="jaxnn", name=self._folder.name, config=config)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One step of it."""
        self._run.log(values, step=step)

    def finish(self, status: str) -> None:
        """Its end; 1 where the run did not come to its own."""
        self._run.finish(exit_code=int(status != "finished"))


class MLflow:
    """MLflow."""

    _STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}  # noqa: RUF012

    def __init__(self, folder: Path):
        self._module, self._folder = importlib.import_module("mlflow"), folder

    def start(self, config: dict[str, Any]) -> None:
        """A run of the experiment jaxnn, called as the run folder."""
        self._module.set_experiment("jaxnn")
        self._module.start_run(run_name=self._folder.name)
        self._module.log_params(config)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One step of it; names have the characters that MLflow allows."""
        allowed = {re.sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}
        self._module.log_metrics(allowed, step=step)

    def finish(self, status: str) -> None:
        """Its end."""
        self._module.end_run(self._STATUS[status])


class Aim:
    """Aim."""

    def __init__(self, folder: Path):
        self._module, self._folder = importlib.import_module("aim"), folder

    def start(self, config: dict[str, Any]) -> None:
        """A run of the experiment that is called as the run folder."""
        self._run = self._module.Run(experiment=self._folder.name)
        self._run["config"] = config

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One step of it."""
        for name, value in values.items():
            self._run.track(value, name=name, step=step)

    def finish(self, status: str) -> None:
        """Its end."""
        self._run["status"] = status
        self._run.close()


PACKAGES: dict[str, Factory] = {"wandb": Wandb, "mlflow": MLflow, "aim": Aim}
"""Hooks by the name of the package that they need."""


def find_hooks(names: Sequence[str]) -> dict[str, Factory]:
    """What makes the hooks of these names, but for tensorboard's, once all are found to be there.

    Raises:
        ValueError: There is none of a name, or a function of one's own cannot be imported.
        ImportError: The package is missing.
    """
    found: dict[str, Factory] = {}
    for name in names:
        module, colon, function = name.partition(":")
        if colon:
            try:
                found[name] = getattr(importlib.import_module(module), function)
            except (ImportError, AttributeError, ValueError) as error:
                raise ValueError(
                    f"log: expected module:function that can be imported, got {name!r}: {error}"
                ) from None
        elif name in PACKAGES:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ImportError(f"--log {name} needs {name}: pip install {name}") from error
            found[name] = PACKAGES[name]
        elif name != TENSORBOARD:
            known = unknown_name("log", name, [*PACKAGES, TENSORBOARD])
            raise ValueError(f"{known}, or module:function")
    return found


class Hooks:
    """Those of one run; a context manager that tells them its end.

    Args:
        factories: What `find_hooks` found.
        folder: The run folder.
        config: The options of the run by name.
        epoch: How many epochs the run has behind it.
    """

    def __init__(
        self, factories: dict[str, Factory], folder: Path, config: dict[str, Any], epoch: int = 0
    ):
        self._hooks: dict[str, Hook] = {}
        self._epoch = epoch
        for name, make in factories.items():
            self._guard(name, lambda name=name, make=make: self._start(name, make, folder, config))

    def __enter__(self) -> "Hooks":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        status = "finished"
        if kind is not None:
            status = "failed" if issubclass(kind, Exception) else "stopped"
        for name, hook in [*self._hooks.items()]:
            self._guard(name, lambda hook=hook: hook.finish(status))

    def tell(self, record: dict[str, Any]) -> None:
        """One record of the metrics; one without an epoch belongs to the last."""
        self._epoch = record.get("epoch", self._epoch)
        values = dict(scalars_of(record))
        for name, hook in [*self._hooks.items()]:
            self._guard(name, lambda hook=hook: hook.scalars(self._epoch, values))

    def _start(self, name: str, make: Factory, folder: Path, config: dict[str, Any]) -> None:
        hook = make(folder)
        hook.start(dict(config))
        self._hooks[name] = hook

    def _guard(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self._hooks.pop(name, None)
            warnings.warn(
                f"--log {name} failed and is told nothing more: {type(error).__name__}: {error}",
                stacklevel=3,
            )
