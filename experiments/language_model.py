"""The command of `experiments.demos.language_model`."""

from experiments.demos.language_model import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
