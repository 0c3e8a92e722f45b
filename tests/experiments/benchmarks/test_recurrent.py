import pytest

from experiments.benchmarks import recurrent
from experiments.benchmarks.measuring import Settings


def test_contenders_agree_and_stand_in_the_table(monkeypatch, capsys):
    for name, value in {"BATCH": 4, "SIZE": 3, "FEATURES": 4, "CHUNK": 2}.items():
        monkeypatch.setattr(recurrent, name, value)
    workloads = {kind: lambda kind=kind: recurrent.passes(kind, 5) for kind in recurrent.CELLS}
    monkeypatch.setattr(recurrent, "WORKLOADS", workloads)
    results = recurrent.run(Settings(repeats=1))
    printed = capsys.readouterr().out
    assert set(results) == {"LSTM", "GRU"}
    for result in results.values():
        assert {"jaxnn manual", "jaxnn manual, chunks of 2", "jax.grad"} <= set(result["figures"])
        assert all(name in printed for name in result["figures"])


def test_a_contender_that_computes_something_else_is_refused():
    with pytest.raises(RuntimeError, match=r"lazy is off by 1\.0e\+00"):
        recurrent._require_same("lazy", recurrent.np.zeros(2), recurrent.np.ones(2))
