"""The command of `experiments.studies.second_order`."""

from experiments.studies.second_order import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
