"""The command of `experiments.studies.uncertainty`."""

from experiments.studies.uncertainty import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
