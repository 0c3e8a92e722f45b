import json

import pytest

from experiments.demos import dates, language_model


@pytest.mark.parametrize("network", ["transformer", "lstm"])
def test_dates_are_trained_translated_and_drawn(network, tmp_path, capsys):
    pytest.importorskip("babel")
    folder = tmp_path / "run"
    sizes = ["--examples", "40", "--held-out", "8", "--features", "8", "--batch-size", "20"]
    dates.main(["--network", network, *sizes, "--epochs", "1", "--output", str(folder)])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["epoch"] == 1
    assert 0 <= lines[1]["test"]["exact"] <= 1
    assert (folder / "attention.png").stat().st_size > 10_000
    assert "held-out days" in capsys.readouterr().out


@pytest.mark.parametrize("network", ["transformer", "lstm"])
def test_a_language_model_is_trained_and_writes(network, tmp_path, capsys, monkeypatch):
    whole = language_model.python_topics

    def short(length):
        return tuple(t._replace(x=t.x[:4], target=t.target[:4]) for t in whole(length))

    monkeypatch.setattr(language_model, "python_topics", short)
    sizes = ["--length", "16", "--features", "8", "--batch-size", "2", "--characters", "5"]
    arguments = ["--network", network, *sizes, "--epochs", "1", "--output", str(tmp_path / "run")]
    language_model.main([*arguments, "--prompt", "The "])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    texts = [json.loads(line) for line in lines if "text" in line]
    assert [len(t["text"]) for t in texts] == [9, 9]
    assert "bits a character" in capsys.readouterr().out
    with pytest.raises(ValueError, match="prompt to hold characters of the text"):
        language_model.main(["--prompt", ""])
