import json

import pytest

from experiments.demos import dates, language_model
from jaxnn.data.text import read_text, split_text


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


SIZES = ["--length", "16", "--features", "8", "--batch-size", "2", "--characters", "5"]


@pytest.mark.parametrize("network", ["transformer", "lstm"])
def test_a_language_model_is_trained_and_writes_on_by_its_folder_alone(network, tmp_path, capsys):
    text = tmp_path / "poems.txt"
    text.write_bytes("Ä wave, a wäve …\r\n".encode() * 40)
    folder = tmp_path / "run"
    arguments = ["--text", str(text), "--network", network, *SIZES, "--epochs", "1"]
    language_model.main([*arguments, "--output", str(folder), "--prompt", "Ä w"])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    texts = [json.loads(line) for line in lines if "text" in line]
    assert [len(t["text"]) for t in texts] == [8, 8]
    said = capsys.readouterr().out.partition("held-out text: ")[2]
    text.rename(tmp_path / "other.txt")
    again = ["--run", str(folder), *SIZES]
    language_model.main(again)
    greedy = capsys.readouterr().out.partition("greedy:\n")[2]
    assert greedy.startswith("Ä w")
    assert greedy == said.partition("greedy:\n")[2].rpartition(f"\n{folder}")[0]
    language_model.main([*again, "--text", str(tmp_path / "other.txt"), "--prompt", "wa"])
    assert "bits a character" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"prompt: expected characters .*got 'z' \(U\+007A\)"):
        language_model.main([*again, "--prompt", "waz"])
    (tmp_path / "third.txt").write_text("A wave")
    with pytest.raises(ValueError, match=r"third.txt: expected characters .*got 'A'"):
        language_model.main([*again, "--text", str(tmp_path / "third.txt")])


def test_a_text_that_cannot_be_used_is_refused_before_any_work(tmp_path):
    path = tmp_path / "text.txt"
    with pytest.raises(FileNotFoundError, match="expected a text, got no such file"):
        language_model.main(["--text", str(path)])
    path.write_bytes("Käse".encode("latin-1"))
    with pytest.raises(ValueError, match="expected utf-8, got other bytes at byte 1: say another"):
        language_model.main(["--text", str(path)])
    with pytest.raises(ValueError, match=r"below the 0 characters held out of 4, got 128: .*--len"):
        language_model.main(["--text", str(path), "--encoding", "latin-1"])
    with pytest.raises(ValueError, match="unknown encoding 'latin-one'"):
        language_model.main(["--text", str(path), "--encoding", "latin-one"])
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="got an empty file"):
        language_model.main(["--text", str(path)])
    with pytest.raises(ValueError, match="prompt to hold characters of the text"):
        language_model.main(["--prompt", ""])
    with pytest.raises(FileNotFoundError, match="the folder of a trained model"):
        language_model.main(["--run", str(tmp_path)])


def test_a_text_is_split_by_position_and_kept_as_it_is(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffab\r\n\u6f22\U0001f600".encode() + b"ab" * 40)
    text = read_text(path)
    assert text.startswith("ab\r\n漢😀ab")
    training, held_out = split_text(text, 4, 0.25)
    assert training.decode(training.x[0]) + training.decode(training.x[1]) == "ab\r\n漢😀ab"
    cut = round(len(text) * 0.75)
    assert held_out.decode(held_out.x[0]) == text[cut : cut + 4]
    assert training.alphabet == "".join(sorted(set(text)))
