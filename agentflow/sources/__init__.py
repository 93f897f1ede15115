"""Where questions come from: generated problems (arithmetic, two-hop) and readers of real data sets.

In: a seed or a file. Out: rows in `schemas.QUESTIONS` columns (`source.load_questions`). No model, no network
except a hub id that the configuration names. The solvers here also drive the local teacher service.
"""
