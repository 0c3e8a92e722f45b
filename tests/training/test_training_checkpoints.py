import shutil

import chex
import jax
import jax.numpy as jnp
import pytest
import training_problems as problems

import jaxnn as nn
from jaxnn.training import make_optimizer
from jaxnn.training.checkpoints import CheckpointError, Checkpoints


def state(network=None, optimizer=None, seed=0):
    return problems.start(network or problems.network(), optimizer, seed)[3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints 2, 5 and 7 of the states with these seeds."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for epoch in (1, 2, 5, 7):
            checkpoints.save(epoch, state(seed=epoch))
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def restore(folder, like=None):
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.restore(like=like or state())


def test_the_newest_state_comes_back_bit_for_bit_with_its_key(saved):
    epoch, restored = restore(saved)
    expected = state(seed=7)
    assert epoch == 7
    assert jax.random.key_impl(restored.key) == jax.random.key_impl(expected.key)
    ours, theirs = (s._replace(key=jax.random.key_data(s.key)) for s in (restored, expected))
    chex.assert_trees_all_equal_structs(ours, theirs)
    chex.assert_trees_all_equal_dtypes(ours, theirs)
    chex.assert_trees_all_equal(ours, theirs)
    jax.random.normal(restored.key)


def test_only_the_newest_few_are_kept(saved):
    assert sorted(int(path.name) for path in saved.iterdir()) == [2, 5, 7]


def test_saving_an_epoch_again_changes_nothing(copy):
    with Checkpoints(copy) as checkpoints:
        checkpoints.save(7, state(seed=1))
    chex.assert_trees_all_equal(restore(copy)[1].params, state(seed=7).params)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            nn.serial(nn.dense(7), nn.batch_norm(), nn.dense(3)),
            r"params\.0\.bias to be float32\[7\], got absent",
        ),
        (
            nn.serial(nn.dense(6, use_bias=False), nn.dense(3)),
            r"expected params\.1\.bias to be float32\[3\], got absent",
        ),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_by_name(saved, other, message):
    with pytest.raises(CheckpointError, match=f"of another network or optimiser.*{message}"):
        restore(saved, state(other))


def test_a_checkpoint_of_another_optimizer_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"expected optimizer_state\."):
        restore(saved, state(optimizer=make_optimizer("sgd", 0.1)))


def test_a_checkpoint_of_another_dtype_is_refused(saved):
    other = state()
    other = other._replace(params=jax.tree.map(lambda p: p.astype(jnp.float16), other.params))
    with pytest.raises(CheckpointError, match=r"float16\[5, 6\], got float32\[5, 6\]"):
        restore(saved, other)


def test_a_folder_that_is_not_there_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere to be a folder, found none"):
        restore(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected one in .*, found none"):
        restore(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "garbage"])
def test_a_damaged_checkpoint_is_named(copy, damage):
    files = [path for path in (copy / "7").rglob("*") if path.is_file()]
    for path in files:
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif damage == "garbage":
            path.write_bytes(b"\x80\x04garbage")
        else:
            path.unlink()
    with pytest.raises(CheckpointError, match="checkpoints/7 is damaged and cannot be read"):
        restore(copy)


def test_an_array_that_is_cut_short_is_an_error(copy):
    arrays = [path for path in (copy / "7" / "train_state").rglob("d/*") if path.is_file()]
    for path in arrays:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        restore(copy)


def test_what_cannot_be_written_is_an_error_that_names_the_folder(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)
    shutil.rmtree(folder)
    folder.write_text("a file is in the way")
    with pytest.raises(CheckpointError, match=r"cannot write to .*checkpoints"), checkpoints:
        checkpoints.save(1, state())
