"""Features of successive layers: their fields, and the patches that excite a channel most."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gallery import features


def test_the_field_of_a_layer_is_what_an_output_depends_on():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    whole = features.network()
    params, state = whole.init(jax.random.key(1), x)
    for number, field in enumerate(features.fields(), 1):
        layers = whole.parts[: 2 * number]

        def first(x, layers=layers):
            for layer, of, beside in zip(layers, params, state, strict=False):
                x = layer.predict(of, beside, x)
            return jnp.sum(x[0, 0, 0])

        seen = np.abs(np.asarray(jax.grad(first)(x)))[0, :, :, 0] > 0
        assert not seen[field:].any()
        assert not seen[:, field:].any()
        assert seen[:field, :field].any()


def test_the_strongest_patches_are_those_under_the_largest_responses(monkeypatch):
    monkeypatch.setattr(features, "STRONGEST", 2)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    responses = np.zeros((4, 6, 6, 1))
    responses[1, 2, 3], responses[3, 0, 5], responses[0, 1, 1] = 9, 5, 1
    (found,) = features.strongest(images, responses, 3)
    np.testing.assert_allclose(found, (images[1, 2:5, 3:6, 0] + images[3, :3, 5:, 0]) / 2)
