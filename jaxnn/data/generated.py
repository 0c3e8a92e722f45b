"""Data sets made by a known rule: a signal in one dimension, solids in three.

Each is drawn from a fixed seed, so it is the same on every machine that has the same NumPy
generator.
"""

from collections.abc import Callable

import numpy as np

from jaxnn.data.dataset import Dataset, make_dataset

WAVES = ("sine", "square", "sawtooth", "triangle")
SOLIDS = ("ball", "cube", "cylinder", "cone")


def make_waves(examples: int = 1600, length: int = 128, noise: float = 0.3) -> Dataset:
    """Four wave forms of random pitch, phase and loudness in noise, x [examples, length, 1].

    3 to 8 periods fit in the length; amplitudes are 0.7 to 1.3 and the noise is normal with
    standard deviation ``noise``.
    """
    rng = np.random.default_rng(0)
    target = np.arange(examples) % len(WAVES)
    periods, phases = rng.uniform(3, 8, examples), rng.uniform(0, 1, examples)
    turns = (np.linspace(0, 1, length) * periods[:, None] + phases[:, None]) % 1
    forms = np.stack(
        [
            np.sin(2 * np.pi * turns),
            np.where(turns < 0.5, 1.0, -1.0),
            2 * turns - 1,
            4 * np.abs(turns - 0.5) - 1,
        ]
    )
    loud = rng.uniform(0.7, 1.3, (examples, 1))
    x = loud * forms[target, np.arange(examples)] + rng.normal(0, noise, turns.shape)
    return make_dataset("waves", x[..., None], target, (), WAVES)


def make_solids(examples: int = 800, side: int = 12, noise: float = 0.2) -> Dataset:
    """Four upright solids of random size and place in noise, x [examples, side, side, side, 1].

    Axes are height, depth and width. A voxel is 1 inside of the solid and 0 outside, plus normal
    noise with standard deviation ``noise``.
    """
    rng = np.random.default_rng(0)
    target = np.arange(examples) % len(SOLIDS)
    radius = rng.uniform(2.5, 4.5, examples)
    centre = rng.uniform(radius, side - 1 - radius, (3, examples))
    grid = np.indices((side, side, side))[:, None]  # [axis, 1, height, depth, width]
    offset = grid - centre[:, :, None, None, None]
    height, flat = offset[0], np.hypot(offset[1], offset[2])
    r = radius[:, None, None, None]
    inside = np.stack(
        [
            np.hypot(height, flat) <= r,
            np.abs(offset).max(0) <= r,
            (np.abs(height) <= r) & (flat <= r),
            (np.abs(height) <= r) & (flat <= (height + r) / 2),
        ]
    )
    x = inside[target, np.arange(examples)] + rng.normal(0, noise, (examples, side, side, side))
    return make_dataset("solids", x[..., None], target, (), SOLIDS)


GENERATED: dict[str, Callable[[], Dataset]] = {"waves": make_waves, "solids": make_solids}
