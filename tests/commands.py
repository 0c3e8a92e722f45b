"""How a command fails, for tests of several commands."""

import re
import sys

import pytest

from experiments.support.command_line import run_script


def error_of(script, arguments, monkeypatch, capsys):
    """What a command that fails prints; it must be a message, not a traceback."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    with pytest.raises(SystemExit) as info:
        run_script(script)
    assert info.value.code == 1
    error = capsys.readouterr().err
    assert re.search("^error: ", error, re.MULTILINE)
    assert "Traceback" not in error
    return error
