"""The command of `experiments.demos.speech`."""

from experiments.demos.speech import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
