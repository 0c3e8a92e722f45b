"""Defaults on a real table, beside scikit-learn on the same split."""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from experiments import train
from experiments.support.runs import Run


def test_defaults_reach_what_boosting_does_on_the_same_split():
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.frame.assign(target=bunch.target_names[bunch.target])
    frame.to_csv("breast cancer.csv", index=False)
    train.main(["--data.name", "breast cancer.csv", "--data.target", "target"])
    run = Path("runs/breast cancer")
    reached = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["test"]["accuracy"]
    splits = Run(run).read_config().load()
    parts = splits.train, splits.validation
    x, target = (np.concatenate([part[field] for part in parts]) for field in (0, 1))
    with threadpool_limits(1):  # it waits for threads that others keep busy
        boosting = HistGradientBoostingClassifier(random_state=0).fit(x, target)
    assert reached >= boosting.score(splits.test.x, splits.test.target) - 0.03
