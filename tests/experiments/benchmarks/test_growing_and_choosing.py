import math

from experiments.benchmarks import choose, embedding, growth
from experiments.benchmarks.convolution import Case
from experiments.benchmarks.measuring import Settings
from jaxnn.kernels.convolution.choosing import PASSES
from jaxnn.kernels.convolution.limits import LIMITS

CASE = Case(1, 6, 32, 32, 3)
QUICK = Settings(repeats=1, seconds=0.0)


def measured(seconds):
    _, geometry, _ = choose.arrays_of(CASE)
    return choose.Measured(CASE, geometry, dict.fromkeys(PASSES, seconds))


def test_limits_move_to_where_the_faster_algorithms_are():
    own = measured({"winograd": 5.0, "direct": 1.0, "patches": 2.0})
    limits = choose.fit([own])
    assert [own.chosen(name, limits) for name in PASSES] == ["direct"] * 3
    assert math.isclose(own.cost(limits), 3)


def test_limits_stay_where_nothing_is_gained():
    own = measured({"winograd": 1.0, "direct": 1.0, "patches": 2.0})
    assert choose.fit([own]) == LIMITS


def test_the_suite_says_what_would_change(monkeypatch, capsys):
    monkeypatch.setattr(choose, "CASES", [CASE])
    monkeypatch.setattr(choose, "moves_of", lambda limits: [limits._replace(winograd_forward=64)])
    found = choose.run(QUICK)
    assert set(found["limits"]) == set(LIMITS._fields)
    assert set(found["seconds"][str(CASE)]["forward"]) == {"winograd", "direct"}
    assert "would change: " in capsys.readouterr().out


def test_growth_fits_the_exponent_of_the_upper_half():
    assert math.isclose(growth.exponent((1, 2, 4, 8), [9, 9, 16, 64]), 2)


def test_growth_counts_time_memory_and_compilation(monkeypatch, capsys):
    own = growth.Growth(lambda n: growth._mlp(batch=n, width=8), (2, 4, 8))
    monkeypatch.setattr(growth, "GROWTHS", {"MLP": own})
    found = growth.run(QUICK)["MLP"]
    assert all(value > 0 for value in found["figures"][4].values())
    assert math.isclose(found["figures"][4]["operations"] / found["figures"][2]["operations"], 2)
    assert "exponent" in capsys.readouterr().out


def test_every_way_to_train_an_embedding_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(embedding, "VOCABULARY", 20)
    monkeypatch.setattr(embedding, "IDS", 8)
    figures = next(iter(embedding.run(QUICK).values()))["figures"]
    assert {"jaxnn, lazy rows", "jaxnn", "jax.grad"} <= set(figures)
