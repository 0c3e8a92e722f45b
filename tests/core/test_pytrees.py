import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.core.pytrees import static


@nn.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pair:
    first: Any
    size: int = static()
    second: Any = None


@nn.register_dataclass
@dataclasses.dataclass(frozen=True)
class Likewise:
    first: Any
    size: int = static()
    second: Any = None


def test_fields_are_children_but_for_the_static_ones():
    tree = Pair(jnp.ones(2), 3, {"a": 4.0})
    leaves, structure = jax.tree.flatten(tree)
    assert [np.shape(leaf) for leaf in leaves] == [(2,), ()]
    again = jax.tree.unflatten(structure, leaves)
    assert (again.first is tree.first, again.size, again.second) == (True, 3, {"a": 4.0})
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    assert paths == [".first", ".second['a']"]


def test_structures_differ_by_static_fields_and_by_class():
    assert jax.tree.structure(Pair(1, 2)) == jax.tree.structure(Pair(3, 2))
    assert jax.tree.structure(Pair(1, 2)) != jax.tree.structure(Pair(1, 3))
    assert jax.tree.structure(Pair(1, 2)) != jax.tree.structure(Likewise(1, 2))


@pytest.mark.parametrize("x", [(2, 5, 5, 2), (1, 4, 2)])
def test_captures_of_a_convolution_and_of_its_transpose_have_structures_of_their_own(x):
    def structure(layer):
        params, state = layer.init(jax.random.key(0), jnp.ones(x))
        y, _, residuals = layer.forward(params, state, jnp.ones(x), None)
        return jax.tree.structure(layer.backward(params, residuals, y)[1])

    kernel = (3,) * (len(x) - 2)
    assert structure(nn.conv(2, kernel)) != structure(nn.conv_transpose(2, kernel))


def test_no_class_of_the_library_is_registered_by_jax():
    sources = Path(nn.__file__).parent.rglob("*.py")
    by_jax = [p.name for p in sources if "@jax.tree_util.register_dataclass" in p.read_text()]
    assert by_jax == []
