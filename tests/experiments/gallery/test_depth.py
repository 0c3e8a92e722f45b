import numpy as np
import pytest

from experiments.gallery import depth


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("construction", depth.CONSTRUCTIONS)
def test_every_construction_answers_all_inputs_rightly(construction, n):
    assert depth.measure(construction, n)[2] == 0


@pytest.mark.parametrize(("n", "layers"), [(2, 2), (3, 4), (4, 4), (5, 6), (8, 6), (9, 8)])
def test_the_tree_has_logarithmic_depth(n, layers):
    assert depth.measure("tree of XOR units", n)[0] == layers


@pytest.mark.parametrize("n", [2, 3, 5])
def test_one_hidden_layer_of_pattern_units_has_a_unit_for_each_odd_pattern(n):
    assert depth.measure("one hidden layer, a unit for each odd pattern", n)[1] == 2 ** (n - 1) + 1


def test_parity_is_the_exclusive_or_of_the_bits():
    patterns = depth.all_inputs(5)
    assert len(np.unique(patterns, axis=0)) == 32
    expected = np.bitwise_xor.reduce(patterns.astype(int), axis=1)
    np.testing.assert_array_equal(depth.parity(patterns), expected)
