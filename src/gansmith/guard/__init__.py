"""Whether training collapses: a pure function of a table of signals, live in a run and replayed from its log.

Knows rows of numbers, neither networks nor runs, and needs no torch.
"""
