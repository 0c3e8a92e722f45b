"""Write a data set as a folder of .npy files, from which training can read batch by batch.

python -m experiments.map_data fashion_cnn --output fashion
python -m experiments.train fashion_cnn --data.name fashion --stream
python -m experiments.map_data --data.name photographs --data.size 64 64 --output mapped
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.support.command_line import Configured, parse_options, run_script, take_config
from jaxnn.data import map_splits

USES = ("data", "loss")
"""Of a configuration; by the loss whole numbers are classes or a regression."""


@dataclass(frozen=True)
class Options:
    """Write the data of a configuration, split and standardised, as a folder of .npy files.

    They are what the configuration's data.* options make of them; of the folder these are then to
    be left out. Where data are named and no configuration, the options follow from the data.
    """

    config: Configured
    output: Path = field(kw_only=True)
    """The folder, which must not exist or be empty."""


def main(arguments: list[str]) -> None:
    """Load, and write."""
    _, config, arguments = take_config(arguments, auto=True)
    options = parse_options(
        Options, "map_data [CONFIG]", arguments, USES, config=config, output=Path("data")
    )
    folder = options.config.map(options.output)
    size = sum(path.stat().st_size for path in folder.iterdir())
    count = len(map_splits(folder).train.target)
    print(f"{folder}: {count} training examples, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
