"""What PyTorch 2.13 gives for the same predictions and targets, as numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, value_and_gradient

import jaxnn as nn

A = [[0.5, -1.25, 2.0], [0.0, 3.0, -0.75]]
B = [[0.25, 1.0, -0.5], [1.5, -2.0, 0.0]]
C = [[-1.0, 0.5, 0.75], [0.5, 2.5, -1.0]]
SOFT = np.exp(B) / np.exp(B).sum(-1, keepdims=True)
LABELS, BITS, WEIGHTS = [2, 0], [[1, 0, 1], [0, 0, 1]], (1.0, 2.0, 0.5)
COUNTS = [[0.0, 3.0, 1.0], [2.0, 0.0, 5.0]]

# The loss, its prediction, its target; PyTorch's values of the examples (the mean over the outputs,
# where it has none) and the gradients of their sum.
CASES = {
    "l1_loss": (
        nn.mean_absolute_error(),
        A,
        B,
        [1.6666666667, 2.4166666667],
        [[1 / 3, -1 / 3, 1 / 3], [-1 / 3, 1 / 3, -1 / 3]],
    ),
    "kl_div of certain targets": (
        nn.kl_divergence(),
        A,
        [[1.0, 0.0, 0.0], [0.0, 0.25, 0.75]],
        [-0.5, -0.7498351446],
        [[-1.0, 0.0, 0.0], [0.0, -0.25, -0.75]],
    ),
    "kl_div with log_target": (
        nn.kl_divergence(log_target=True),
        A,
        np.log(SOFT),
        [-0.5995852908, -0.5159341972],
        [
            [-0.2786006892, -0.5897976637, -0.1316016471],
            [-0.7978760262, -0.0240937683, -0.1780302055],
        ],
    ),
    "nll_loss with weight": (
        nn.negative_log_likelihood(class_weights=WEIGHTS),
        A,
        LABELS,
        [-1.0, 0.0],
        [[0.0, 0.0, -0.5], [-1.0, 0.0, 0.0]],
    ),
    "nll_loss with ignore_index": (
        nn.negative_log_likelihood(ignore_index=0),
        A,
        LABELS,
        [-2.0, 0.0],
        [[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]],
    ),
    "gaussian_nll_loss": (
        nn.gaussian_nll(full=True),
        (A, [[1.0, 0.5, 2.0], [0.25, 1.0, 0.0]]),
        B,
        [3.1376885332, 93754.0519710467],
        (
            [[0.0833333333, -1.5, 0.4166666667], [-2.0, 1.6666666667, -250000.0]],
            [
                [0.15625, -3.0416666667, -0.1770833333],
                [-5.3333333333, -4.0, -93749833333.33333],
            ],
        ),
    ),
    "poisson_nll_loss": (
        nn.poisson_nll(full=True),
        A,
        COUNTS,
        [4.27945457, 10.243519004],
        [
            [0.5495737569, -0.904498401, 2.1296853663],
            [-0.3333333333, 6.6951789744, -1.5092111491],
        ],
    ),
    "poisson_nll_loss of rates": (
        nn.poisson_nll(log_input=False),
        [[0.5, 1.25, 2.0], [0.1, 3.0, 0.75]],
        COUNTS,
        [0.7958073788, 3.2978600939],
        [
            [0.3333333333, -0.4666666603, 0.1666666675],
            [-6.3333326667, 0.3333333333, -1.8888888593],
        ],
    ),
    "cosine_embedding_loss": (
        nn.cosine_embedding(-0.9),
        (A, B),
        [1, -1],
        [1.7693567977, 0.1238859999],
        (
            [
                [-0.1566937944, -0.196597183, -0.0836997908],
                [0.1940285, -0.0152179216, -0.0608716863],
            ],
            [
                [-0.3275692808, -0.1336137856, -0.4310122116],
                [0.18626736, 0.13970052, -0.09701425],
            ],
        ),
    ),
    "triplet_margin_loss": (
        nn.triplet_margin(2.0),
        (A, B, C),
        None,
        [2.7506620372, 6.5237559655],
        (
            [
                [-0.4979526268, 0.0002992748, 0.2645179739],
                [0.3822379769, 0.2814233185, -0.4755479538],
            ],
            [
                [-0.0741252249, 0.6671240592, -0.7412495806],
                [0.2844270601, -0.9480910222, 0.1422134353],
            ],
            [
                [0.5720778517, -0.667423334, 0.4767316067],
                [-0.666665037, 0.6666677037, 0.3333345185],
            ],
        ),
    ),
    "triplet_margin_loss with p = 1 and swap": (
        nn.triplet_margin(4.0, 1.0, swap=True),
        (A, B, C),
        None,
        [6.0, 9.999998],
        (
            [[1.0, -1.0, 1.0], [0.0, 0.0, -2.0]],
            [[-2.0, 0.0, 0.0], [1.0, -1.0, 1.0]],
            [[1.0, 1.0, -1.0], [-1.0, 1.0, 1.0]],
        ),
    ),
    "triplet_margin_loss with p = 3": (
        nn.triplet_margin(4.0, 3.0),
        (A, B, C),
        None,
        [4.7984399166, 8.4073012213],
        (
            [
                [-0.4567913079, 0.0691212718, 0.3718744915],
                [0.5167824562, 0.3752395992, -0.1733085357],
            ],
            [
                [-0.0069391461, 0.5620658388, -0.6939096149],
                [0.0882222722, -0.9802491676, 0.0220555386],
            ],
            [
                [0.463730454, -0.6311871106, 0.3220351234],
                [-0.6050047284, 0.6050095684, 0.1512529971],
            ],
        ),
    ),
    "binary_cross_entropy_with_logits with pos_weight": (
        nn.sigmoid_binary_cross_entropy(pos_weight=WEIGHTS),
        A,
        BITS,
        [0.2631566903, 1.4367233451],
        [
            [-0.1258468896, 0.0742333796, -0.0198671537],
            [0.1666666667, 0.3175247089, -0.1131964499],
        ],
    ),
    "cross_entropy with weight and label_smoothing": (
        nn.softmax_cross_entropy(0.1, class_weights=WEIGHTS),
        A,
        LABELS,
        [0.3984857904, 2.9344215416],
        [
            [0.0668647699, -0.0492548471, -0.0176099227],
            [-0.8861735217, 0.8805634707, 0.005610051],
        ],
    ),
    "cross_entropy with weight of probabilities": (
        nn.softmax_cross_entropy(class_weights=WEIGHTS),
        A,
        SOFT,
        [4.6061010147, 2.7935845164],
        [
            [-0.0091272904, -1.1327678722, 1.1418951626],
            [-0.7545008127, 0.8230269154, -0.0685261027],
        ],
    ),
    "sigmoid_focal_loss of torchvision": (
        nn.focal(alpha=0.25),
        A,
        BITS,
        [0.008905049, 0.7785934816],
        [
            [-0.0114947498, 0.0076172139, -0.0004059117],
            [0.0745716988, 0.2816874702, -0.0541486938],
        ],
    ),
    "cross_entropy of cosines": (
        nn.contrastive(0.5),
        (A, B),
        None,
        [2.6876121961, 3.4885707487],
        (
            [
                [0.0853496021, -0.76879265, -0.5018328068],
                [-0.2393799244, -0.0026877032, -0.0107508127],
            ],
            [
                [-0.9623941473, -0.0144889986, -0.5101750708],
                [-0.4477447515, -0.3358085636, 0.8065942615],
            ],
        ),
    ),
    "cross_entropy of cosines, both ways": (
        nn.contrastive(0.5, symmetric=True),
        (A, B),
        None,
        [3.0815420232, 3.0943917772],
        (
            [
                [0.0797094085, -0.7762695353, -0.5050958117],
                [-0.2322978368, -0.003238703, -0.0129548121],
            ],
            [
                [-0.9744725753, -0.019494254, -0.5262247956],
                [-0.4409582449, -0.3307186836, 0.8033217246],
            ],
        ),
    ),
}


def arrays(tree, dtype=None):
    """Lists as arrays; floating-point ones in this dtype."""

    def convert(a):
        if isinstance(a, tuple):
            return arrays(a, dtype)
        a = jnp.asarray(a)
        return a.astype(dtype) if dtype and jnp.issubdtype(a.dtype, jnp.floating) else a

    return tuple(map(convert, tree)) if isinstance(tree, tuple) else convert(tree)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(name, x64):
    loss, prediction, target, values, gradient = CASES[name]
    target = None if target is None else arrays(target)
    found = value_and_gradient(loss, arrays(prediction), target)
    assert_agree(found, (jnp.asarray(values), arrays(gradient)), 1e-8)


def test_the_mean_that_torch_divides_by_the_weights_is_that_of_weighted_examples(x64):
    network, x = nn.identity(), jnp.asarray(A)
    labels = jnp.asarray(LABELS)
    weights = jnp.asarray(WEIGHTS)[labels]
    arguments = ((), (), x, labels, None, weights)
    (value, _), _ = nn.backprop(network, nn.softmax_cross_entropy())(*arguments)
    np.testing.assert_allclose(value, 2.1247023276582286, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_rounded_at_the_end_alone(name, dtype):
    loss, prediction, target, *_ = CASES[name]
    narrow = arrays((prediction,) if target is None else (prediction, target), dtype)
    given = (*narrow, None)[:2]
    wide = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == dtype else a, given)
    found = value_and_gradient(loss, *given)
    expected = jax.tree.map(lambda a: a.astype(dtype), value_and_gradient(loss, *wide))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == dtype
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=eps, atol=1e-6)
