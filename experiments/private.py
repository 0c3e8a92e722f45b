"""The command of `experiments.studies.private`."""

from experiments.studies.private import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
