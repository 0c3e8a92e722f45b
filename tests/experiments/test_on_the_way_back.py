"""`--in-backward`: training that never holds the whole gradient, from the command line."""

import json

import numpy as np
import pytest
from commands import error_of

from experiments import train

OPTIONS = [
    "wine_mlp",
    *("--network", "dense(8)", "batch_norm()", "relu()", "dropout(0.2)", "dense(3)"),
    *("--clip-norm", "0.5", "--epochs", "3", "--crosscheck-every", "0"),
]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_run_has_the_numbers_of_plain_training_and_can_be_resumed(tmp_path):
    train.main([*OPTIONS, "--output", str(tmp_path / "plain")])
    own = tmp_path / "own"
    train.main([*OPTIONS, "--in-backward", "--epochs", "2", "--output", str(own)])
    train.main(["--resume", str(own), "--epochs", "3"])
    np.testing.assert_allclose(losses(own), losses(tmp_path / "plain"), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gradient", "autodiff"], "expected gradient to be manual where in_backward is set"),
        (["--micro-batches", "2"], "expected micro_batches to be 1 where in_backward is set"),
        (["--precision", "float16"], "expected deltas that are not scaled, but with_precision"),
        (["--optimizer", "lbfgs()"], "expected an optimiser that works leaf by leaf"),
        (["--folds", "3"], "expected in_backward to be False with --folds"),
    ],
)
def test_what_needs_the_whole_gradient_is_refused(options, message, tmp_path, monkeypatch, capsys):
    arguments = [*OPTIONS, "--in-backward", *options, "--output", str(tmp_path / "run")]
    assert message in error_of(train.main, arguments, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()
