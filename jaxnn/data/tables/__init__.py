"""Tables in files: how they are read, what their columns hold, their features and targets.

`reading` says how, `sniffing` finds out what is not said, `delimited` and `binaries` read what
pandas takes, `numeric` and `spans` read much of it fast, `table` holds the cells, `features`
and `targets` make numbers of them by what `columns` and `numerals` tell of texts, and `examples`
and `piecewise` join these, of a table at once and of one that is read in `pieces`.
"""
