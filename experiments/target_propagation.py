"""The command of `experiments.studies.target_propagation`."""

from experiments.studies.target_propagation import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
