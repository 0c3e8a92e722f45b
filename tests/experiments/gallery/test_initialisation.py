import numpy as np

from experiments.gallery import initialisation


def test_equal_units_stay_equal_and_random_ones_do_not():
    widths = initialisation.spread(*initialisation.batch()[:2], steps=20)
    np.testing.assert_array_equal(widths["all 0"], 0)
    np.testing.assert_allclose(widths["all 0.1"], 0, atol=1e-6)
    assert widths["N(0, 0.01²)"][-1] > widths["N(0, 0.01²)"][0] > 0


def test_small_weights_fade_and_large_ones_saturate():
    x = initialisation.batch().x
    small, large, he = (
        np.std(initialisation.activations(f, w, x)[-1])
        for f, w in (("tanh", "normal(0.01)"), ("tanh", "normal(1.0)"), ("ReLU", "he"))
    )
    assert small < 1e-3
    assert large > 0.9
    assert 0.3 < he < 3
