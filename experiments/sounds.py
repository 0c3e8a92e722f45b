"""The command of `experiments.demos.sounds`."""

from experiments.demos.sounds import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
