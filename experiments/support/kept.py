"""Networks that no configuration describes, kept in a run folder with what it takes to use them.

model.json     what they are for, the network as an expression, and the facts that belong to it
weights/       its parameters
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from experiments.support.config import LAYERS
from experiments.support.expressions import build
from experiments.support.files import as_json
from experiments.support.processes import versions
from jaxnn import Layer
from jaxnn.core.files import write_file
from jaxnn.data.facts import BAD_FACTS, parse_facts
from jaxnn.training import TrainState, create_state
from jaxnn.training.checkpoints import Checkpoints

FORMAT = 1


class Kept(NamedTuple):
    """A network with its parameters, and what is known of it."""

    network: Layer
    train_state: TrainState
    facts: dict[str, Any]


def keep(folder: Path, kind: str, kept: Kept) -> None:
    """Write a network that has been trained into its run folder.

    Args:
        folder: The run folder.
        kind: What it is for: "text" or "sound".
        kept: The network, and facts that JSON can hold.
    """
    model = {
        "format": FORMAT,
        "kind": kind,
        "network": repr(kept.network),
        "facts": kept.facts,
        "versions": versions(),
    }
    with Checkpoints(folder / "weights") as weights:
        weights.save(1, kept.train_state._replace(optimizer_state=()))
    text = as_json(model, indent=1, ensure_ascii=False) + "\n"
    write_file(folder / "model.json", lambda p: p.write_text(text, encoding="utf-8"))


def restore(folder: Path, kind: str, x: Any) -> Kept:
    """The network in a run folder.

    Args:
        folder: The run folder.
        kind: What it is to be for.
        x: An input, of which shape and dtype matter; or what makes one of the facts.

    Raises:
        FileNotFoundError: It is not the folder of such a run.
        ValueError: It is of another kind or version, or damaged.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected {folder} to be the folder of a trained model, got none")
    model = parse_facts(path, path.read_bytes())
    try:
        if (model["format"], model["kind"]) != (FORMAT, kind):
            raise ValueError(f"format {model['format']} for {model['kind']}")
        network, facts = build(str(model["network"]), "layer", LAYERS), dict(model["facts"])
        like = create_state(network, optax.identity(), jax.random.key(0), x(facts))
    except BAD_FACTS as error:
        raise ValueError(
            f"{path}: expected format {FORMAT} for {kind}, as this version of jaxnn writes it, got "
            f"{error}"
        ) from None
    with Checkpoints(folder / "weights", read_only=True) as weights:
        _, train_state = weights.restore(like._replace(optimizer_state=()))
    return Kept(network, train_state, facts)
