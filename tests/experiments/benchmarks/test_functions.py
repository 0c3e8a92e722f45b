import jax
import pytest

from experiments.benchmarks import functions


@pytest.mark.parametrize("name", functions.MODELS)
def test_the_model_and_its_twin_have_as_many_parameters(name):
    module, make_own, make_data = functions.MODELS[name]
    x = jax.eval_shape(make_data)[0]
    key = jax.random.key(0)
    theirs = jax.eval_shape(module.init, key, x)["params"]
    ours = jax.eval_shape(make_own().init, key, x)[0]
    counts = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (theirs, ours)]
    assert counts[0] == counts[1]
