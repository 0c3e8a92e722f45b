import jax.numpy as jnp
import numpy as np
from helpers import assert_agree, normal

from jaxnn.core.moves import are_apart, layout, move, move_back, same_elements

TRANSPOSED = (("transpose", (1, 0)),)
HALF = (("slice", ((0, 2, 1), (0, 6, 1))),)
OTHER_HALF = (("slice", ((2, 4, 1), (0, 6, 1))),)
REVERSED = (("slice", ((None, None, -1), (0, 6, 1))),)
REPEATED = (("reshape", (1, 4, 6)), ("broadcast", (3, 4, 6)))


def test_moves_do_the_same_to_arrays_of_numpy_and_of_jax():
    a = np.arange(24.0).reshape(4, 6)
    for moves in (TRANSPOSED, HALF, REVERSED, REPEATED, (*HALF, *TRANSPOSED)):
        np.testing.assert_array_equal(move(jnp.asarray(a), moves), move(a, moves))


def test_moving_back_is_the_transpose(x64):
    w = normal(0, (4, 6))
    for moves in (TRANSPOSED, HALF, REVERSED, REPEATED):
        seen = move(w, moves)
        v = normal(1, (2, *seen.shape))
        back = move_back(v, moves, (4, 6), leading=1)
        products = jnp.tensordot(back, w, 2), v.reshape(2, -1) @ seen.ravel()
        assert_agree(*products, 1e-12)


def test_a_layout_says_which_elements_are_seen():
    shape = (4, 6)
    assert are_apart(shape, HALF, OTHER_HALF)
    assert not are_apart(shape, HALF, REVERSED)
    assert same_elements(shape, (*TRANSPOSED, *TRANSPOSED), ())
    assert not same_elements(shape, HALF, OTHER_HALF)
    assert not same_elements(shape, REPEATED, REPEATED)


def test_elements_that_lie_in_no_regular_order_have_no_layout():
    assert layout((4, 6), (*TRANSPOSED, ("reshape", (24,)))) is None
