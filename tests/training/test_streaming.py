import json
import re

import jax
import numpy as np
import pytest
from chex import assert_trees_all_equal
from training_problems import BATCH_SIZE, EXAMPLES, data, network, start

import jaxnn as nn
from jaxnn.data import load, map_splits, write_mapped
from jaxnn.training import (
    Diverged,
    make_epoch,
    make_optimizer,
    make_step,
    make_streamed_epoch,
    streamed,
    train,
)


def make_step_and_state():
    net, loss, optimizer, state, _, _ = start(network())
    return make_step(nn.backprop(net, loss), optimizer), state


@pytest.fixture
def on_disk(tmp_path):
    """x and target of the problem, mapped."""
    mapped = []
    for name, array in zip(("x", "target"), data(), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    return mapped


@pytest.mark.parametrize("steps_at_once", [1, 2, 32])
def test_an_epoch_read_from_disk_has_the_numbers_of_one_in_memory(on_disk, steps_at_once):
    step, state = make_step_and_state()
    in_memory = make_epoch(step, BATCH_SIZE, donate=False)
    streamed = make_streamed_epoch(step, BATCH_SIZE, steps_at_once=steps_at_once)
    expected, found = state, state
    for _ in range(2):
        expected, losses = in_memory(expected, *data())
        found, streamed_losses = streamed(found, *on_disk)
        np.testing.assert_allclose(streamed_losses, losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[:3], expected[:3])
    assert int(found.step) == 2 * 3


def test_an_epoch_goes_on_in_its_middle_with_the_same_bits(on_disk):
    step, state = make_step_and_state()
    states = []
    run = make_streamed_epoch(step, BATCH_SIZE, steps_at_once=1, after_steps=states.append)
    whole, losses = run(state, *on_disk)
    for taken in (1, 2):  # before a full batch, and before the smaller last one
        rest, later = run(states[taken - 1], *on_disk)
        assert_trees_all_equal(rest.params, whole.params)
        np.testing.assert_array_equal(later, losses[taken:])


def test_no_example_is_read_before_it_is_needed():
    step, state = make_step_and_state()
    reads = []

    class Spy(np.ndarray):
        def __getitem__(self, rows):
            if isinstance(rows, np.ndarray):
                reads.append(rows.size)
            return super().__getitem__(rows)

    x, target = (np.asarray(a) for a in data())
    make_streamed_epoch(step, BATCH_SIZE, steps_at_once=1)(state, x.view(Spy), target)
    assert sum(reads) == EXAMPLES
    assert max(reads) == BATCH_SIZE


def test_training_streams_with_the_numbers_of_training_in_memory(on_disk):
    arguments = start(network(), make_optimizer("sgd", 0.1))
    *_, expected = train(*arguments, epochs=2, batch_size=BATCH_SIZE)
    *_, found = train(*arguments[:4], *on_disk, epochs=2, batch_size=BATCH_SIZE, draw=streamed)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)


def test_only_streaming_goes_on_in_the_middle_of_an_epoch(on_disk):
    net, loss, optimizer, state, *_ = start(network())
    step = jax.jit(make_step(nn.backprop(net, loss), optimizer))
    middle, _ = step(state, *(a[:BATCH_SIZE] for a in data()))
    with pytest.raises(ValueError, match="got one from the middle of epoch 1"):
        train(net, loss, optimizer, middle, *data(), epochs=1, batch_size=BATCH_SIZE)
    options = {"epochs": 1, "batch_size": BATCH_SIZE, "draw": streamed}
    (epoch,) = train(net, loss, optimizer, middle, *on_disk, **options)
    assert (epoch.number, len(epoch.losses), int(epoch.train_state.step)) == (1, 2, 3)
    assert 0 <= epoch.disagreement < 1e-5


def test_autodiff_streams_too(on_disk):
    arguments = start(network(), make_optimizer("sgd", 0.1))
    options = {"epochs": 2, "batch_size": BATCH_SIZE, "gradient": nn.autodiff(*arguments[:2])}
    *_, expected = train(*arguments, **options)
    *_, found = train(*arguments[:4], *on_disk, draw=streamed, **options)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)


@pytest.mark.parametrize("steps_before", [0, 1])
def test_divergence_while_streaming_names_step_and_layer(on_disk, steps_before):
    net, loss, optimizer, state, *_ = start(network(), make_optimizer("sgd", 1e30))
    state = state._replace(step=state.step + steps_before)
    message = rf"at step {1 + steps_before}: .* first gradient not finite is that of 4 dense"
    options = {"epochs": 3, "batch_size": BATCH_SIZE, "draw": streamed}
    with pytest.raises(Diverged, match=message):
        list(train(net, loss, optimizer, state, *on_disk, **options))


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_mapped_splits_are_those_that_were_written(name, tmp_path):
    splits = load(name, validation_fraction=0.1)
    mapped = map_splits(write_mapped(splits, tmp_path / "data"))
    assert isinstance(mapped.train.x, np.memmap)
    assert mapped.train.class_names == splits.train.class_names
    for part, expected in zip(mapped[:3], splits[:3], strict=True):
        np.testing.assert_array_equal(part.x, expected.x)
        np.testing.assert_array_equal(part.target, expected.target)
        assert part.target.dtype == expected.target.dtype


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "test_x.npy").unlink(), FileNotFoundError, "test_x.npy: expected a file"),
        (
            lambda f: np.save(f / "train_x.npy", np.zeros((3, 2))),
            TypeError,
            "train_x.npy: expected float32 .* got float64",
        ),
        (
            lambda f: np.save(f / "train_target.npy", np.zeros(3, np.int32)),
            ValueError,
            "train_target.npy: expected one target",
        ),
        (
            lambda f: (f / "train_x.npy").write_bytes(b"\x93NUMPY nonsense"),
            ValueError,
            "train_x.npy: expected a whole .npy array",
        ),
        (
            lambda f: np.save(f / "train_x.npy", np.array([[{}]], object), allow_pickle=True),
            ValueError,
            "train_x.npy: expected a whole .npy array",
        ),
        (
            lambda f: np.save(f / "train_target.npy", np.full(125, 7, np.int32)),
            ValueError,
            "expected labels 0 to 2 for 3 classes, got 7",
        ),
    ],
)
def test_a_damaged_folder_is_refused(change, error, message, tmp_path):
    folder = write_mapped(load("wine", test_fraction=0.3), tmp_path / "data")
    change(folder)
    with pytest.raises(error, match=message):
        map_splits(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class_names": ["c0", "c1", "x"]}, "(13,) of the classes {names}, got one of (13,)"),
        ({"shape": [999_999_999_999]}, "got one of (999999999999,) and {names}"),
    ],
)
def test_a_preparation_of_other_data_is_refused_before_it_takes_memory(changed, message, tmp_path):
    splits = load("wine", test_fraction=0.3)
    folder = write_mapped(splits, tmp_path / "data")
    facts = json.loads((folder / "preparation.json").read_text())
    (folder / "preparation.json").write_text(json.dumps(facts | changed))
    names = ", ".join(splits.train.class_names)
    with pytest.raises(ValueError, match=re.escape(message.format(names=names))):
        map_splits(folder)


def test_a_folder_in_use_is_not_written_over(tmp_path):
    (tmp_path / "notes").touch()
    with pytest.raises(FileExistsError, match="to be a new or empty folder"):
        write_mapped(load("wine"), tmp_path)


def test_load_takes_a_folder_and_refuses_options_that_it_has_no_meaning_for(tmp_path):
    folder = write_mapped(load("digits", flatten=False), tmp_path / "data")
    flat = load(folder)
    assert flat.train.x.shape[1:] == (64,)
    assert isinstance(flat.train.x, np.memmap)
    assert load(folder, flatten=False).train.x.shape[1:] == (8, 8, 1)
    with pytest.raises(ValueError, match="load: standardize has no meaning for"):
        load(folder, standardize="all")
