"""Generated data sets: the same on every call, and true to their rule."""

import numpy as np
import pytest

from jaxnn.data import load
from jaxnn.data.generated import make_solids, make_waves


@pytest.mark.parametrize("make", [make_waves, make_solids])
def test_every_call_gives_the_same_examples(make):
    np.testing.assert_array_equal(make(40).x, make(40).x)


@pytest.mark.parametrize(("name", "shape"), [("waves", (128, 1)), ("solids", (12, 12, 12, 1))])
def test_loads_by_name_with_four_balanced_classes(name, shape):
    splits = load(name, flatten=False)
    assert splits.train.x.shape[1:] == shape
    assert len(splits.train.class_names) == 4
    counts = np.bincount(splits.train.target)
    assert counts.min() == counts.max()


def test_waves_without_noise_are_their_forms():
    waves = make_waves(8, noise=0.0)
    sine, square, sawtooth, triangle = (waves.x[i, :, 0] for i in range(4))
    assert len(np.unique(square)) == 2
    steps = np.diff(sawtooth)
    assert np.mean(steps > 0) > 0.9
    slopes = np.unique(np.round(np.abs(np.diff(triangle)), 4))
    assert np.median(np.abs(np.diff(triangle))) == pytest.approx(slopes.max(), rel=1e-3)
    assert np.abs(np.diff(sine)).max() < np.abs(np.diff(square)).max()


def test_solids_without_noise_are_full_inside_and_empty_outside():
    solids = make_solids(8, noise=0.0)
    assert set(np.unique(solids.x)) == {0.0, 1.0}
    volumes = solids.x.sum((1, 2, 3, 4))
    assert volumes.min() > 10


def test_a_cone_is_wider_at_one_end_and_a_cylinder_is_not():
    solids = make_solids(8, noise=0.0)
    _, _, cylinder, cone = (solids.x[i, ..., 0].sum((1, 2)) for i in range(4))
    assert len(set(cylinder[cylinder > 0])) == 1
    assert len(set(cone[cone > 0])) > 2
