import sys
import warnings

import pytest

from experiments.support.command_line import run_script, take_config


def fail_of(error, monkeypatch, capsys):
    def script(arguments):
        raise error

    monkeypatch.setattr(sys, "argv", ["script"])
    monkeypatch.setattr(warnings, "formatwarning", None)
    with pytest.raises(SystemExit):
        run_script(script)
    return capsys.readouterr().err


def test_no_message_steers_the_terminal(monkeypatch, capsys):
    error = ValueError("a column '\x1b]0;owned\x07'\nand a line")
    error.add_note("of the file \x1b[31m")
    text = fail_of(error, monkeypatch, capsys)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert text.startswith("error: a column '\\x1b]0;owned\\x07'\nand a line\n")
    assert warnings.formatwarning("of \x1b[2J", UserWarning, "", 1) == "warning: of \\x1b[2J\n"


def test_a_message_has_a_bounded_length(monkeypatch, capsys):
    text = fail_of(ValueError("x" * 10**6), monkeypatch, capsys)
    assert len(text) < 5000
    assert "(1000000 characters)" in text


@pytest.mark.parametrize(("rate", "decay"), [("0.003", 1.0), ("0.03", 0.1), ("fast", 1.0)])
def test_the_decay_that_follows_from_a_table_is_that_of_a_step(rate, decay):
    arguments = ["--data.name", "t.csv", "--learning-rate", rate]
    assert take_config(arguments, auto=True)[1].weight_decay == decay
