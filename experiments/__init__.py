"""Runnable scripts: `python -m experiments.NAME`. Nothing in jaxnn imports them."""

import sys

if sys.argv[0] == "-m":  # while Python looks for the module that it is to run, which is in here
    from experiments.support.starting import begin

    place = sys.orig_argv.index("-m") + 1
    name = sys.orig_argv[place].removeprefix("experiments.")
    if not name.startswith("support."):  # which a command starts for itself
        begin(name, sys.orig_argv[place + 1 :])
