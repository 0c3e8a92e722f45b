import jax
import pytest
from helpers import assert_agree

from experiments.benchmarks import attention
from experiments.benchmarks.measuring import Settings


@pytest.mark.parametrize(
    "programs",
    [
        lambda: attention.heads(12, 2, 4),
        lambda: attention.heads(12, 2, 4, causal=True),
        lambda: attention.transformer(2, 5, 8, 2),
        lambda: attention.vocabulary(16, 4, 11),
    ],
    ids=["full", "causal", "transformer", "vocabulary"],
)
def test_contenders_compute_the_same(programs, x64):
    results = {name: jax.jit(f)(*arguments) for name, (f, arguments) in programs().items()}
    reference = jax.tree.leaves(results.pop(next(iter(results))))
    for name, result in results.items():
        # jax.nn takes the softmax of float64 in float32.
        assert_agree(jax.tree.leaves(result), reference, 1e-6 if name == "jax.nn" else 1e-10)


def test_the_suite_measures_time_and_memory(monkeypatch, capsys):
    tiny = {"tiny": lambda: attention.compiled(attention.vocabulary(16, 4, 11))}
    monkeypatch.setattr(attention, "WORKLOADS", tiny)
    figures = attention.run(Settings(repeats=1))["tiny"]["figures"]
    assert list(figures) == ["jaxnn fused", "jaxnn", "jax.grad"]
    assert all(f.temporary_bytes > 0 for f in figures.values())
    assert "jaxnn fused" in capsys.readouterr().out
