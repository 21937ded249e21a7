"""Faults: one package, so that their stack ends with the last of them."""
