"""The command of `experiments.demos.translation`."""

from experiments.demos.translation import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
