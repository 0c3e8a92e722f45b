"""The Laplace approximation against dense linear algebra, and the truth where it is exact."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from jax.flatten_util import ravel_pytree

import jaxnn as nn
from jaxnn import statistics

PRECISION = 0.7
NETWORK = nn.serial(
    nn.conv(4, (2, 2), groups=2),
    nn.tanh(),
    nn.flatten(),
    nn.dropout(0.5),
    nn.layer_norm(),
    nn.dense(3),
)
LOSS = nn.softmax_cross_entropy()


def problem():
    x, target = normal(0, (6, 2, 2, 2)), jnp.array([0, 2, 1, 1, 0, 2])
    return *started(NETWORK, x), x, target


def jacobians(network, params, state, x):
    """(predictions, [batch, outputs, parameters]) by autodiff."""
    flat, unravel = ravel_pytree(params)

    def predict(flat):
        return network.predict(unravel(flat), state, x)

    return jax.jit(lambda flat: (predict(flat), jax.jacrev(predict)(flat)))(flat)


def test_a_linear_regression_has_the_exact_evidence_and_the_exact_variance(x64):
    """Of y = x W + b with noise all is normal: the evidence is the density of the targets."""
    noise = 0.3
    x, target, asked = normal(0, (8, 3)), normal(1, (8, 2)), normal(2, (4, 3))
    design, other = (np.concatenate([a, np.ones((len(a), 1))], 1) for a in (x, asked))
    precision = design.T @ design / noise + PRECISION * np.eye(4)
    solution = np.linalg.solve(precision, design.T @ np.asarray(target) / noise)
    params = {"weight": jnp.asarray(solution[:3]), "bias": jnp.asarray(solution[3])}
    covariance = design @ design.T / PRECISION + noise * np.eye(8)
    evidence = sum(
        -0.5 * (t @ np.linalg.solve(covariance, t) + np.linalg.slogdet(2 * np.pi * covariance)[1])
        for t in np.asarray(target).T
    )
    variance = np.einsum("bi,ij,bj->b", other, np.linalg.inv(precision), other)
    batches = [*statistics.blocks(x, target, 3)]
    for curvature in ("kronecker", "full"):
        fit = statistics.laplace(nn.dense(2), nn.half_squared_error(), curvature=curvature)
        posterior = fit(params, (), batches, prior_precision=PRECISION, noise=noise)
        assert_agree(posterior.log_marginal_likelihood(), np.asarray(evidence), 1e-9)
        mean, found = jax.jit(lambda posterior: posterior.predict(asked))(posterior)
        assert_agree(mean, other @ solution, 1e-9)
        assert_agree(found, np.einsum("b,kl->bkl", variance, np.eye(2)), 1e-9)
    truth = normal(3, (4, 2))
    total = variance[:, None] + noise
    logs = 0.5 * ((np.asarray(truth) - other @ solution) ** 2 / total + np.log(2 * np.pi * total))
    assert_agree(posterior.loss_of(asked, truth), np.asarray(logs.sum(1).mean()), 1e-9)


@pytest.mark.parametrize("last_layer", [False, True])
def test_evidence_and_variances_are_those_of_the_dense_matrix(last_layer, x64):
    params, state, x, target = problem()
    network = nn.in_inference_mode(NETWORK)
    weights = np.array([1.0, 0.5, 2.0, 0.0, 1.5, 1.0])
    batches = [*statistics.blocks(x, target, 4, weights)]
    prediction, jacobian = jacobians(network, params, state, x)
    values = LOSS.value(prediction, target)
    random = ravel_pytree(params[-1])[0] if last_layer else ravel_pytree(params)[0]
    jacobian = np.asarray(jacobian)[..., -random.size :]
    probabilities = jax.nn.softmax(prediction)
    hessians = jax.vmap(jnp.diag)(probabilities) - jnp.einsum(
        "bk,bl->bkl", probabilities, probabilities
    )
    ggn = np.einsum("b,bki,bkl,blj->ij", weights, jacobian, hessians, jacobian)
    if last_layer:
        head, arguments = NETWORK.parts[-1], (params[-1], ())
        entering = nn.serial(*network.parts[:-1]).predict(params[:-1], state[:-1], x)
    else:
        head, arguments, entering = network, (params, state), x
    operator = statistics.kronecker(head, LOSS)
    mean = jax.jit(lambda *given: operator(*given).dense())(
        *arguments, entering, target, None, weights
    )
    matrices = {"full": ggn, "diagonal": np.diag(np.diag(ggn)), "kronecker": weights.sum() * mean}
    for curvature, matrix in matrices.items():
        fit = statistics.laplace(NETWORK, LOSS, curvature=curvature, last_layer=last_layer)
        posterior = fit(params, state, batches, prior_precision=PRECISION)
        hessian = np.asarray(matrix) + PRECISION * np.eye(random.size)
        evidence = (
            -np.sum(weights * values)
            + 0.5 * random.size * math.log(PRECISION)
            - 0.5 * PRECISION * np.sum(random**2)
            - 0.5 * np.linalg.slogdet(hessian)[1]
        )
        found = jax.jit(lambda p: (p.log_marginal_likelihood(), p.predict(x)))(posterior)
        assert_agree(found[0], np.asarray(evidence), 1e-9)
        inverse = np.linalg.inv(hessian)
        covariance = np.einsum("bki,ij,blj->bkl", jacobian, inverse, jacobian)
        assert_agree(found[1], (prediction, jnp.asarray(covariance)), 1e-9)
    variances = np.einsum("bkk->bk", covariance)
    probit = jax.nn.softmax(prediction / np.sqrt(1 + np.pi / 8 * variances))
    assert_agree(posterior.probabilities(x), probit, 1e-9)


def test_draws_have_the_mean_and_the_covariance_of_the_posterior(x64):
    params, state, x, target = problem()
    fit = statistics.laplace(NETWORK, LOSS, last_layer=True)
    posterior = fit(params, state, [(x, target)], prior_precision=PRECISION)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.jit(lambda p: jax.lax.map(p.sample, keys))(posterior)
    assert jax.tree.structure(drawn) == jax.tree.structure(params)
    assert_agree(jax.tree.map(lambda a: a[0], drawn[:-1]), params[:-1], 0)
    outputs = jax.jit(jax.vmap(lambda p: nn.in_inference_mode(NETWORK).predict(p, state, x)))(drawn)
    mean, covariance = jax.jit(lambda p: p.predict(x))(posterior)
    found = np.einsum("sbk,sbl->bkl", outputs - mean, outputs - mean) / len(keys)
    assert_agree(found, np.asarray(covariance), 0.1)  # the last layer is linear
    sampled = posterior.probabilities(x, samples=4000, key=jax.random.key(1))
    assert np.abs(sampled - jnp.mean(jax.nn.softmax(outputs), 0)).max() < 0.02


def test_the_prior_is_the_best_of_all_or_of_a_grid(x64):
    params, state, x, target = problem()
    posterior = statistics.laplace(NETWORK, LOSS)(params, state, [(x, target)])
    best = posterior.maximized()
    slope = jax.grad(best.log_marginal_likelihood)(best.prior_precision)
    assert abs(slope * best.prior_precision) < 1e-5 * abs(best.log_marginal_likelihood())
    assert best.log_marginal_likelihood() > posterior.log_marginal_likelihood()
    grid = (0.01, 1.0, 100.0)
    chosen = posterior.validated(x, target, grid)
    losses = [float(posterior.with_prior(g).loss_of(x, target)) for g in grid]
    assert float(chosen.prior_precision) == grid[int(np.argmin(losses))]


def test_labels_by_themselves_have_the_likelihood_of_their_sum(x64):
    network, loss = nn.dense(3), nn.sigmoid_binary_cross_entropy()
    x, target = normal(0, (5, 2)), jnp.asarray(normal(1, (5, 3)) > 0, float)
    params, state = started(network, x)
    posterior = statistics.laplace(network, loss, curvature="full")(params, state, [(x, target)])
    prediction, jacobian = jacobians(network, params, state, x)
    p = jax.nn.sigmoid(prediction)
    hessian = np.einsum("bki,bk,bkj->ij", jacobian, p * (1 - p), jacobian) + np.eye(9)
    likelihood = jnp.sum(target * jnp.log(p) + (1 - target) * jnp.log(1 - p))
    squares = np.sum(ravel_pytree(params)[0] ** 2)
    evidence = likelihood - squares / 2 - np.linalg.slogdet(hessian)[1] / 2
    assert_agree(posterior.log_marginal_likelihood(), evidence, 1e-9)
    covariance = np.einsum("bki,ij,blj->bkl", jacobian, np.linalg.inv(hessian), jacobian)
    assert_agree(posterior.predict(x)[1], covariance, 1e-9)


def test_what_has_no_posterior_is_refused(untyped):
    x, target = normal(0, (4, 3)), jnp.array([0, 1, 1, 0])
    params, state = started(nn.dense(2), x)
    with pytest.raises(ValueError, match=r"a negative log-likelihood, .* got mean_squared_error"):
        statistics.laplace(nn.dense(2), nn.mean_squared_error())
    with pytest.raises(ValueError, match="unknown curvature 'fulll': did you mean 'full'"):
        statistics.laplace(nn.dense(2), LOSS, curvature="fulll")
    with pytest.raises(ValueError, match="a serial network with last_layer=True, got dense"):
        statistics.laplace(nn.dense(2), LOSS, last_layer=True)
    fit = statistics.laplace(nn.dense(2), LOSS)
    with pytest.raises(ValueError, match="prior_precision"):
        fit(params, state, [(x, target)], prior_precision=0.0)
    with pytest.raises(ValueError, match="noise=1 with softmax_cross_entropy"):
        fit(params, state, [(x, target)], noise=0.5)
    with pytest.raises(ValueError, match=r"a prediction of shape \[batch, outputs\]"):
        fit(params, state, [(x[:, None], target[:, None])])
    errors = statistics.laplace(nn.dense(2), nn.half_squared_error())
    posterior = errors(params, state, [(x, normal(1, (4, 2)))])
    with pytest.raises(ValueError, match="expected a loss of classes"):
        posterior.probabilities(x)
    with pytest.raises(ValueError, match="at least one precision"):
        posterior.validated(x, normal(1, (4, 2)), ())
    with pytest.raises(ValueError, match="high above low"):
        posterior.maximized(1.0, 0.5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("curvature", ["kronecker", "diagonal", "full"])
def test_of_half_precision_sums_are_those_of_single(curvature, dtype):
    network = nn.dense(3)
    x, target = normal(0, (300, 4), dtype), jnp.arange(300) % 3
    params = {"weight": normal(1, (4, 3), dtype), "bias": normal(2, (3,), dtype)}
    fit = statistics.laplace(network, LOSS, curvature=curvature)
    half, single = (
        fit(params, (), statistics.blocks(x, target, 150)).maximized()
        for params, x in ((params, x), (jax.tree.map(jnp.float32, params), jnp.float32(x)))
    )
    assert float(half.count) == 300
    tolerance = 8 * float(jnp.finfo(dtype).eps)
    for found, exact in (
        (half.prior_precision, single.prior_precision),
        (half.log_marginal_likelihood(), single.log_marginal_likelihood()),
        (half.predict(x[:2])[1], single.predict(jnp.float32(x[:2]))[1]),
    ):
        np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance * 0.1)


def test_what_is_not_the_shape_of_the_prediction_is_no_target(untyped):
    x = normal(0, (6, 3))
    params, state = started(nn.dense(1), x)
    fit = statistics.laplace(nn.dense(1), nn.half_squared_error())
    posterior = fit(params, state, [(x, normal(1, (6, 1)))])
    for target in (normal(1, (6,)), normal(1, (1, 1))):
        with pytest.raises(ValueError, match="half_squared_error: expected"):
            posterior.validated(x, target, (1.0, 2.0))
