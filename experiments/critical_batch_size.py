"""The command of `experiments.studies.critical_batch_size`."""

from experiments.studies.critical_batch_size import main
from experiments.support.command_line import run_script

if __name__ == "__main__":
    run_script(main)
