import random
import shutil
import warnings
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_problems as problems

import jaxnn as nn
from jaxnn.training import make_optimizer
from jaxnn.training.checkpoints import CheckpointError, Checkpoints
from jaxnn.training.checksums import checksums


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
    chex.assert_trees_all_equal_dtypes(restored, expected)
    assert_equal_states(restored, expected)
    jax.random.normal(restored.key)


def named_network(units=6):
    return nn.serial(
        stem=nn.serial(nn.dense(units, use_bias=False), nn.batch_norm()),
        trunk=nn.skip(up=nn.dense(7), act=nn.relu(), down=nn.dense(units)),
        head=nn.dense(problems.CLASSES),
    )


def test_a_network_with_named_parts_comes_back_with_its_names(tmp_path):
    saved = state(named_network())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, saved)
    _, restored = restore(tmp_path, state(named_network(), seed=1))
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    assert_equal_states(restored, saved)
    chex.assert_trees_all_equal(restored.params.head["bias"], saved.params.head["bias"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (named_network(5), r"expected params\.stem\.0\.weight to be float32\[5, 5\], got"),
        (
            nn.serial(*named_network().layers),
            r"expected params\.0\.0\.weight to be float32\[5, 6\], got absent",
        ),
    ],
)
def test_a_checkpoint_of_other_named_parts_is_refused_by_their_names(other, message, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(named_network()))
    with pytest.raises(CheckpointError, match=f"of another network or optimiser.*{message}"):
        restore(tmp_path, state(other))


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


def files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def damage(folder, way):
    for path in files(folder):
        if way == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif way == "garbage":
            path.write_bytes(b"\x80\x04garbage")
        else:
            path.unlink()


def assert_equal_states(ours, theirs):
    plain = (s._replace(key=jax.random.key_data(s.key)) for s in (ours, theirs))
    chex.assert_trees_all_equal(*plain)


@pytest.mark.parametrize("way", ["truncated", "emptied", "garbage"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_comes_back(copy, way):
    damage(copy / "7", way)
    with pytest.warns(UserWarning, match="checkpoints/7 is damaged.*; going back to 5"):
        epoch, restored = restore(copy)
    assert epoch == 5
    assert_equal_states(restored, state(seed=5))


@pytest.mark.parametrize("way", ["truncated", "garbage"])
def test_where_all_are_damaged_each_is_named(copy, way):
    for epoch in (2, 5, 7):
        damage(copy / str(epoch), way)
    with pytest.raises(CheckpointError, match=r"(?s)/7 is damaged.*/5 is damaged.*/2 is damaged"):
        restore(copy)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    rng = random.Random(path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("offset", [0, 1])
def test_no_file_can_be_damaged_unnoticed(saved, tmp_path, offset):
    """What comes back is the state that was saved, or an older one and a warning."""
    ways = (flip_a_bit, cut_short, flip_a_bit, Path.unlink)
    for number, path in enumerate(files(saved / "7"), offset):
        folder = shutil.copytree(saved, tmp_path / str(number))
        ways[number % len(ways)](folder / path.relative_to(saved))
        assert_noticed_or_harmless(folder)


def assert_noticed_or_harmless(folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        epoch, restored = restore(folder)
    assert epoch == (5 if any("/7 is damaged" in str(w.message) for w in caught) else 7)
    assert_equal_states(restored, state(seed=epoch))


def test_a_flipped_bit_that_only_the_checksum_can_notice_is_noticed(tmp_path):
    """In arrays too large to lie in the index, orbax reads other numbers without a word."""
    states = [state(nn.serial(nn.dense(300), nn.dense(3)), seed=seed) for seed in (1, 2)]
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for epoch, train_state in enumerate(states, 1):
            checkpoints.save(epoch, train_state)
    largest = max(files(folder / "2"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.warns(UserWarning, match="the checksum of params.0.weight is not the one"):
        epoch, restored = restore(folder, states[0])
    assert epoch == 1
    assert_equal_states(restored, states[0])


def rename(folder, *names):
    for old, new in names:
        (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([("7", "9")], "9 to be of epoch 9, .* got epoch 7: it was renamed; rename it to 7"),
        ([("7", "t"), ("5", "7"), ("t", "5")], "7 to be of epoch 7, .* got epoch 5"),
    ],
    ids=["renamed", "swapped"],
)
def test_a_checkpoint_of_another_epoch_than_its_folder_is_called_is_refused(copy, names, message):
    rename(copy, *names)
    with pytest.raises(CheckpointError, match=message):
        restore(copy)


def test_a_state_of_another_epoch_in_a_checkpoint_is_noticed(copy):
    rename(copy, ("7/train_state", "t"), ("5/train_state", "7/train_state"), ("t", "5/train_state"))
    with pytest.warns(UserWarning, match=r"7 is damaged .*checksum.*\n?.*"):
        epoch, restored = restore(copy)
    assert epoch == 2
    assert_equal_states(restored, state(seed=2))


def test_what_comes_after_an_epoch_can_be_discarded_and_saved_anew(copy):
    with Checkpoints(copy) as checkpoints:
        checkpoints.discard_after(2)
        assert checkpoints.latest == 2
        checkpoints.save(5, state(seed=3))
    epoch, restored = restore(copy)
    assert epoch == 5
    assert_equal_states(restored, state(seed=3))


def test_what_a_save_that_was_cut_off_left_is_removed(copy):
    torn = copy / "9.orbax-checkpoint-tmp"
    shutil.copytree(copy / "7" / "contents", torn / "contents")
    assert restore(copy)[0] == 7
    assert torn.exists()
    with Checkpoints(copy) as checkpoints:
        checkpoints.save(9, state(seed=9))
    assert not torn.exists()
    assert restore(copy)[0] == 9


@pytest.mark.parametrize("dtype", ["float64", jnp.bfloat16, "int8", "int32", "bool"])
def test_a_checksum_changes_with_every_element_and_with_their_order(dtype, x64):
    array = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype)
    others = [array[::-1], array.T.reshape(3, 4)]
    for place in np.ndindex(array.shape):
        others.append(array.copy())
        others[-1][place] = not array[place]
    numbers = checksums([jnp.asarray(a) for a in (array, *others)])
    assert len(set(numbers)) == len(numbers)


def test_the_two_zeros_and_nans_of_other_bits_have_other_checksums():
    bits = jnp.array([0, 0x80000000, 0x7FC00000, 0x7FC00001], jnp.uint32)
    values = jax.lax.bitcast_convert_type(bits, jnp.float32)
    assert len(set(checksums(list(values)))) == 4


def test_what_cannot_be_written_is_an_error_that_names_the_folder(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)
    shutil.rmtree(folder)
    folder.write_text("a file is in the way")
    with pytest.raises(CheckpointError, match=r"cannot write to .*checkpoints"), checkpoints:
        checkpoints.save(1, state())
