import numpy as np

from experiments.gallery import vanishing_gradient as theme


def test_a_sigmoid_network_keeps_at_most_a_quarter_of_the_delta_a_layer():
    deltas = theme.going_back(theme.norms_by_layer("sigmoid", depth=10)[0])
    bound = 0.25 ** np.arange(10)
    assert np.all(deltas <= bound * (1 + 1e-12))
    assert deltas[2] <= 0.0625


def test_he_initialisation_keeps_what_orthogonal_weights_lose_under_relu():
    lost = theme.going_back(theme.norms_by_layer("ReLU", depth=10)[0])[-1]
    kept = theme.going_back(theme.norms_by_layer("ReLU", weight_init="he", depth=10)[0])[-1]
    assert lost < 0.2 < kept


def test_a_skip_connection_lets_the_delta_through_a_sigmoid_network():
    assert theme.going_back(theme.norms_by_layer("sigmoid", "skip connection", depth=10)[0])[-1] > 1
