"""Real models from packages, rows for them, what each is for, and other tools' int8 of them.

Nothing of this is kept in the repository: pip brings the packages, espeak-ng speaks, and pages of
text are drawn. ``benchmarks/kinds.py`` is the program.
"""
