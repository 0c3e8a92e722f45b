"""Curvature, uncertainty and influence against PyTorch libraries, of small networks in float64.

The numbers are those of `tests/references/peers.json`, which `tests/references/peers.py` wrote.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree

import jaxnn as nn
from jaxnn import statistics

FOLDER = Path(__file__).parent.parent / "references"
NUMBERS = json.loads((FOLDER / "peers.json").read_text(encoding="utf-8"))
LOSS = nn.softmax_cross_entropy()
LABELS = jnp.array([0, 1, 2, 2, 1, 0])


def draw(generator, *shape):
    return generator.normal(size=shape) / 2


def example(kind):
    """(network, params, state, x) of the network that the peers have, whose names it shares."""
    if kind == "cnn":
        generator, shapes = np.random.default_rng(1), [(3, 2, 2, 2), (3,), (3, 27), (3,)]
        network = nn.serial(
            nn.conv(3, (2, 2), padding="VALID"), nn.tanh(), nn.flatten(), nn.dense(3)
        )
        size = (6, 2, 4, 4)
    else:
        bias = kind == "mlp"
        generator, shapes = np.random.default_rng(0), [(4, 3), (4,), (3, 4), (3,)]
        shapes = shapes if bias else shapes[::2]
        network = nn.serial(nn.dense(4, use_bias=bias), nn.tanh(), nn.dense(3, use_bias=bias))
        size = (6, 3)
    params = from_torch(kind, [draw(generator, *shape) for shape in shapes])
    x = jnp.asarray(generator.normal(size=size))
    x = jnp.moveaxis(x, 1, -1) if kind == "cnn" else x
    state = jax.eval_shape(network.init, jax.random.key(0), x)[1]
    return network, params, state, x


def from_torch(kind, arrays):
    """Kernels [out, in, …] as [..., in, out], and rows of the CNN's last weight in the order of
    NHWC."""
    arrays = [jnp.asarray(a) for a in arrays]
    if kind == "cnn":
        weight = arrays[2].reshape(3, 3, 3, 3).transpose(2, 3, 1, 0).reshape(27, 3)
        first = {"weight": arrays[0].transpose(2, 3, 1, 0), "bias": arrays[1]}
        return first, (), (), {"weight": weight, "bias": arrays[3]}
    if kind == "mlp":
        first, last = ({"weight": w.T, "bias": b} for w, b in (arrays[:2], arrays[2:]))
    else:
        first, last = ({"weight": w.T} for w in arrays)
    return first, (), last


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("fisher", ["type-2", "empirical"])
def test_curvature_times_the_parameters_is_that_of_curvlinops(fisher, kind, x64):
    network, params, state, x = example(kind)
    given, empirical = (params, state, x, LABELS), fisher == "empirical"

    @jax.jit
    def products():
        kfac = statistics.kronecker(network, LOSS, empirical=empirical)(*given)
        correct = statistics.ekfac(network, LOSS, empirical=empirical)
        ekfac = correct(*given, operator=kfac.eigh())
        return kfac.matvec(params), ekfac.matvec(params)

    for name, found in zip(("K-FAC", "EK-FAC"), products(), strict=True):
        expected = from_torch(kind, NUMBERS["curvature"][f"{name}, {fisher}, {kind}"])
        assert_agree(found, expected, 1e-9)


STRUCTURES = {"full": "full", "kron": "kronecker", "diag": "diagonal"}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("subset", ["all", "last_layer"])
def test_posteriors_are_those_of_laplace_torch(subset, structure, x64):
    network, params, state, x = example("no bias" if structure == "kron" else "mlp")
    expected = NUMBERS["laplace"][f"{subset}, {structure}"]
    options = {"curvature": STRUCTURES[structure], "last_layer": subset == "last_layer"}
    fit = statistics.laplace(network, LOSS, **options)
    posterior = fit(params, state, [(x, LABELS)], prior_precision=2.0)
    _, covariance = posterior.predict(x[:2])
    np.testing.assert_allclose(covariance, expected["covariance"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(posterior.probabilities(x[:2]), expected["probit"], rtol=1e-9)
    found = posterior.log_marginal_likelihood()
    np.testing.assert_allclose(found, expected["evidence"], rtol=1e-9)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("strategy", ["identity", "ekfac"])
def test_influence_scores_are_those_of_kronfluence(strategy, kind, x64):
    """Its scores are positive where an example helps."""
    network, params, state, x = example(kind)
    given, operator = (params, state, x, LABELS), None
    if strategy == "ekfac":
        kfac = jax.jit(statistics.kronecker(network, LOSS, empirical=True))(*given)
        correct = statistics.ekfac(network, LOSS, empirical=True)
        operator = correct(*given, operator=kfac.eigh()).inverse(damping=0.01)
    queries = x[:2] + 0.5, LABELS[:2]
    scores = statistics.influence_scores(network, LOSS)
    found = scores(params, state, queries, (x, LABELS), operator=operator)
    expected = NUMBERS["influence"][f"{strategy}, {kind}"]
    np.testing.assert_allclose(-found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.skipif(
    not all(map(find_spec, ("torch", "curvlinops", "laplace", "kronfluence", "kymatio"))),
    reason="torch, curvlinops, laplace, kronfluence and kymatio are not all installed",
)
def test_the_peers_give_these_numbers(tmp_path):
    script = tmp_path / "peers.py"
    script.write_text((FOLDER / "peers.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, str(script)], check=True)
    found = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert found.keys() == NUMBERS.keys()
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(NUMBERS), strict=True)
    np.testing.assert_allclose(*map(list, zip(*leaves, strict=True)), rtol=1e-7, atol=1e-9)
