import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def rows(network, *shape):
    return nn.summarize(network, jax.ShapeDtypeStruct(shape, jnp.float32)).rows


def test_a_dense_network_is_counted_by_hand():
    network = nn.serial(nn.dense(32), nn.relu(), nn.dense(3))
    first, activation, last = rows(network, 16, 13)
    assert [row.layer for row in (first, activation, last)] == ["0 dense", "1 relu", "2 dense"]
    assert [row.output for row in (first, activation, last)] == ["[16, 32]", "[16, 32]", "[16, 3]"]
    assert [row.parameters for row in (first, activation, last)] == [13 * 32 + 32, 0, 32 * 3 + 3]
    # A product takes 2 · batch · in · out, the bias batch · out, the activation one for each unit.
    assert first.flops == 2 * 16 * 13 * 32 + 16 * 32
    assert activation.flops == 16 * 32
    assert last.flops == 2 * 16 * 32 * 3 + 16 * 3


def test_what_backward_keeps_is_counted_once_and_without_the_input():
    network = nn.serial(nn.dense(32), nn.relu(), nn.dense(3))
    # The input of the first layer exists anyway; relu's output is also what the last layer keeps.
    assert [row.residual_bytes for row in rows(network, 16, 13)] == [0, 16 * 32 * 4, 0]


def test_the_rows_have_the_layers_of_combinators_by_their_place():
    network = nn.serial(nn.skip(nn.dense(4), nn.tanh()), nn.dense(2))
    names = [row.layer for row in rows(network, 8, 4)]
    assert names[-1] == "1 dense"
    assert [name.split()[-1] for name in names if name.split()[-1] in ("dense", "tanh")] == [
        "dense",
        "tanh",
        "dense",
    ]


def test_a_repeated_layer_counts_all_of_its_copies():
    once = rows(nn.serial(nn.dense(4)), 8, 4)[0]
    (repeated,) = rows(nn.repeat(nn.dense(4), 3), 8, 4)
    assert repeated.parameters == 3 * once.parameters
    assert repeated.flops == 3 * once.flops


def test_parameters_are_those_that_init_makes():
    network = nn.serial(nn.dense(5), nn.batch_norm(), nn.skip(nn.layer_norm()), nn.dense(2))
    summary = nn.summarize(network, jnp.zeros((3, 4)))
    params, _ = network.init(jax.random.key(0), jnp.zeros((3, 4)))
    assert summary.total.parameters == sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def test_the_table_has_a_line_for_each_layer_and_the_totals():
    text = str(nn.summarize(nn.serial(nn.dense(1000), nn.relu()), jnp.zeros((128, 64))))
    head, _, dense, relu, _, total = text.splitlines()
    assert head.split() == ["layer", "output", "parameters", "kept", "for", "backward", "FLOPs"]
    assert dense.split()[:5] == ["0", "dense", "[128,", "1000]", "65,000"]
    assert "500 KiB" in relu
    assert total.split()[:2] == ["total", "65,000"]
    assert len({len(line) for line in text.splitlines()}) == 1


@pytest.mark.parametrize(
    ("layer", "gates"),
    [(nn.rnn(32), 1), (nn.lstm(32), 4), (nn.lstm(32, chunk=5), 4), (nn.gru(32), 3)],
)
def test_operations_of_a_recurrent_layer_are_those_of_every_time(layer, gates):
    products = 2 * 3 * 20 * (32 + 32) * 32 * gates
    assert products <= nn.summarize(layer, jnp.zeros((3, 20, 32))).total.flops < 1.3 * products


def test_operations_of_nested_loops_are_those_of_all_iterations():
    x, y = jnp.zeros((2, 30, 16)), jnp.zeros((2, 60, 16))
    for layer in (nn.attention(2, block=10), nn.repeat(nn.rnn(16), 3)):
        short, long = (nn.summarize(layer, a).total.flops for a in (x, y))
        assert 1.8 < long / short < 4.2
    assert nn.summarize(nn.repeat(nn.rnn(16), 3), x).total.flops == (
        3 * nn.summarize(nn.rnn(16), x).total.flops
    )
