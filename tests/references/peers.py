"""Numbers of other libraries, of small networks in float64, written to peers.json beside this.

    python -m venv peers
    peers/bin/pip install torch curvlinops-for-pytorch laplace-torch kronfluence
    peers/bin/pip install kymatio "scipy<1.15"
    peers/bin/python tests/references/peers.py

Made with torch 2.13.0, curvlinops-for-pytorch 3.0.1, laplace-torch 0.3, kronfluence 1.0.1 and
kymatio 0.3.0.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_default_dtype(torch.float64)
LABELS = [0, 1, 2, 2, 1, 0]


def draw(generator, *shape):
    return torch.tensor(generator.normal(size=shape) / 2)


def mlp(bias):
    """Layer by layer the weight is drawn, in the layout [out, in], and then the bias."""
    generator = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(3, 4, bias), nn.Tanh(), nn.Linear(4, 3, bias))
    fill(model, generator)
    return model, torch.tensor(generator.normal(size=(6, 3)))


def cnn():
    generator = np.random.default_rng(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3))
    fill(model, generator)
    return model, torch.tensor(generator.normal(size=(6, 2, 4, 4)))


def fill(model, generator):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(draw(generator, *parameter.shape))


def curvature():
    from curvlinops import EKFACLinearOperator, KFACLinearOperator

    found = {}
    loss, y = nn.CrossEntropyLoss(), torch.tensor(LABELS)
    for name, kind in (("K-FAC", KFACLinearOperator), ("EK-FAC", EKFACLinearOperator)):
        for fisher in ("type-2", "empirical"):
            for model, x in (mlp(True), cnn()):
                params = list(model.parameters())
                options = {"fisher_type": fisher, "separate_weight_and_bias": False}
                operator = kind(model, loss, params, [(x, y)], **options)
                product = operator @ [p.detach().clone() for p in params]
                size = "mlp" if isinstance(model[0], nn.Linear) else "cnn"
                found[f"{name}, {fisher}, {size}"] = [p.detach().tolist() for p in product]
    return found


def uncertainty():
    from laplace import Laplace
    from laplace.curvature import CurvlinopsGGN

    found, y = {}, torch.tensor(LABELS)
    for subset in ("all", "last_layer"):
        for structure in ("full", "kron", "diag"):
            # Its Kronecker factors have weights and biases apart.
            model, x = mlp(bias=structure != "kron")
            posterior = Laplace(
                model,
                "classification",
                subset_of_weights=subset,
                hessian_structure=structure,
                prior_precision=2.0,
                backend=CurvlinopsGGN,
            )
            posterior.fit(DataLoader(TensorDataset(x, y), batch_size=6))
            _, variance = posterior._glm_predictive_distribution(x[:2])
            found[f"{subset}, {structure}"] = {
                "evidence": posterior.log_marginal_likelihood().item(),
                "covariance": variance.detach().tolist(),
                "probit": posterior(x[:2], link_approx="probit").detach().tolist(),
            }
    return found


def influence():
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classes(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    wide = torch.float64
    factors = {
        "use_empirical_fisher": True,
        "amp_dtype": None,
        "eigendecomposition_dtype": wide,
        "activation_covariance_dtype": wide,
        "gradient_covariance_dtype": wide,
        "per_sample_gradient_dtype": wide,
        "lambda_dtype": wide,
    }
    found = {}
    for make, name in ((lambda: mlp(True), "mlp"), (cnn, "cnn")):
        for strategy in ("identity", "ekfac", "kfac"):
            model, x = make()
            data = TensorDataset(x, torch.tensor(LABELS))
            model = prepare_model(model.double(), Classes())
            with tempfile.TemporaryDirectory() as folder:
                analyzer = Analyzer(
                    name, model, Classes(), cpu=True, output_dir=folder, disable_tqdm=True
                )
                analyzer.fit_all_factors(
                    "f",
                    data,
                    per_device_batch_size=6,
                    factor_args=FactorArguments(strategy=strategy, **factors),
                )
                analyzer.compute_pairwise_scores(
                    "s",
                    "f",
                    query_dataset=TensorDataset(x[:2] + 0.5, torch.tensor(LABELS[:2])),
                    train_dataset=data,
                    per_device_query_batch_size=2,
                    per_device_train_batch_size=6,
                    score_args=ScoreArguments(
                        damping_factor=0.01,
                        score_dtype=wide,
                        per_sample_gradient_dtype=wide,
                        precondition_dtype=wide,
                    ),
                )
                scores = analyzer.load_pairwise_scores("s")["all_modules"]
            found[f"{strategy}, {name}"] = scores.tolist()
    return found


def scattering():
    from kymatio.scattering2d.frontend.numpy_frontend import ScatteringNumPy2D

    x = np.round(np.random.default_rng(2).normal(size=(20, 22)), 3)
    y = ScatteringNumPy2D(J=1, shape=x.shape, L=8, max_order=1)(x)
    return {"x": x.tolist(), "inner": y[:, 4:-4, 4:-4].tolist()}


if __name__ == "__main__":
    numbers = {
        "curvature": curvature(),
        "laplace": uncertainty(),
        "influence": influence(),
        "scattering": scattering(),
    }
    path = Path(__file__).parent / "peers.json"
    path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
