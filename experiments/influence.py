"""The command of `experiments.studies.influence`."""

from experiments.studies.influence import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
