"""Metrics as event files of TensorBoard: tensorboard --logdir runs"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Events:
    """The event file in a folder, in place of those that are there.

    An event has the name of the metric and, as its step, the epoch. Every event is written from the
    record of an epoch, those of past epochs anew, so that none is there twice.

    Args:
        folder: Where it is; made if it does not exist.
        records: The metrics of the epochs so far, as `Run.epochs` has them.

    Raises:
        ImportError: tensorboardX is missing.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, records: Sequence[dict[str, Any]]):
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboardX.summary import scalar
        except ImportError as error:
            raise ImportError(
                'event files need tensorboardX: pip install "jaxnn[experiments]"'
            ) from error
        self._event, self._scalar, self._epoch = Event, scalar, 0
        folder.mkdir(exist_ok=True)
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        # Not the library's SummaryWriter: its thread would keep a full disk to itself.
        self._writer = EventsWriter(str(folder / "events"))
        for record in records:
            self._add(record)
        self._writer.flush()

    def write(self, record: dict[str, Any]) -> None:
        """Write one record of the metrics; one without an epoch belongs to the last."""
        self._add(record)
        self._writer.flush()

    def _add(self, record: dict[str, Any]) -> None:
        self._epoch = record.get("epoch", self._epoch)
        for name, value in scalars_of(record):
            event = self._event(summary=self._scalar(name, value), step=self._epoch)
            event.wall_time = time.time()
            self._writer.write_event(event)


def scalars_of(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record by name; those of a group behind its name, test/loss."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from scalars_of(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "epoch":
            yield prefix + name, value
