"""The command of `experiments.studies.reschedule`."""

from experiments.studies.reschedule import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
