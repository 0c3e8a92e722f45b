"""What there is by name: configurations, and the layers, losses, … that one can name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from experiments.support.config import LAYERS, LOSSES
from experiments.support.help import CONFIGS
from jaxnn.training.metrics import ALWAYS, METRICS
from jaxnn.training.optimizers import OPTIMIZERS, options_of
from jaxnn.training.schedules import SCHEDULES


def listing(kind: str) -> str:
    """One line for each of a kind, a key of `LISTED`: its name with its options."""
    return "\n".join(LISTED[kind]())


def _expressions(classes: Mapping[str, Any]) -> list[str]:
    """Each as it is called, and the first line of what it says about itself."""
    lines = []
    for name, made in sorted(classes.items()):
        parameters = inspect.signature(made).parameters.values()
        plain = (p.replace(annotation=inspect.Parameter.empty) for p in parameters)
        summary = (inspect.getdoc(made) or "").splitlines()[0]
        lines.append(f"{name}{inspect.Signature([*plain])}\n    {summary}")
    return lines


def _called(name: str, options: Mapping[str, Any]) -> str:
    given = ", ".join(f"{option}={_name_of(value)}" for option, value in options.items())
    return f"{name}({given})"


def _name_of(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)


def _defaults(function: Callable, skipped: int) -> dict[str, Any]:
    parameters = [*inspect.signature(function).parameters.items()][skipped:]
    return {name: parameter.default for name, parameter in parameters}


def _schedules() -> list[str]:
    lines = [_called(n, {**_defaults(f, 2), "warmup": 0.0}) for n, f in sorted(SCHEDULES.items())]
    return [*lines, "reduce_on_plateau(factor=0.1, patience=10, rtol=0.0001, atol=0.0, …)"]


def _metrics() -> list[str]:
    known = sorted((ALWAYS | METRICS).items())
    return [f"{name}: of {' or '.join(m.tasks)}" for name, m in known] + ["top_5: of classes"]


def _configs() -> list[str]:
    """Each by name, with the first line of its file."""
    found = sorted(CONFIGS.glob("*.toml"))
    return [
        f"{p.stem}: {p.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}" for p in found
    ]


LISTED: dict[str, Callable[[], list[str]]] = {
    "configs": _configs,
    "layers": lambda: _expressions(LAYERS),
    "losses": lambda: _expressions(LOSSES),
    "optimizers": lambda: [_called(name, options_of(name)) for name in sorted(OPTIMIZERS)],
    "schedules": _schedules,
    "metrics": _metrics,
}
