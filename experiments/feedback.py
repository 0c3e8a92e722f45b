"""The command of `experiments.studies.feedback`."""

from experiments.studies.feedback import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
