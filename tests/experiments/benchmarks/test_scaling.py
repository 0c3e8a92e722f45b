import jax
import pytest

from experiments.benchmarks import scaling
from experiments.benchmarks.measuring import Settings

DENSE = "dense network 784-512-256-10"


@pytest.mark.parametrize("layout", ["replicated", "fully_sharded", "tensor_parallel"])
def test_a_step_of_the_dense_network_sends_what_the_formula_says(layout):
    sent = scaling.communication(DENSE, layout, 4)
    assert sent["compiled"] == pytest.approx(sent["formula"], rel=1e-3)


def test_a_mesh_of_one_device_takes_the_same_step():
    params = []
    for mesh in (None, scaling.make_mesh(1, devices=jax.devices()[:1])):
        step, arguments = scaling.step_on(DENSE, mesh)
        state, _ = scaling.on_mesh(mesh, step)(*arguments)
        params.append(jax.device_get(state.params))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), *params))


def test_weak_scaling_is_relative_to_one_device(monkeypatch, capsys):
    sent = {layout: {"compiled": 2e6, "formula": 1e6} for layout in scaling.LAYOUTS}

    def figures(devices, repeats):
        one = {"seconds": 0.01 * devices, "communication": sent if devices > 1 else {}}
        return dict.fromkeys(scaling.NETWORKS, one)

    monkeypatch.setattr(scaling, "_in_own_process", figures)
    results = scaling.run(Settings(repeats=1, only="weak"))
    assert list(results["weak scaling"]) == ["1", "2", "4", "8"]
    printed = capsys.readouterr().out
    assert "80 ms (8.00)" in printed
    assert "2.000 (1.000)" in printed
