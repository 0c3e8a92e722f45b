"""Derivations of the backward passes, of which every line is checked.

A derivation is data: what is given, the forward pass, and chains of equal expressions that end in
what the code computes. `notation` has the signs that they are written with, `derivation` what is
checked of them; each of the other modules holds those of one family, in `DERIVATIONS`.
"""
