"""Data hygiene: question texts in, the ones that must not be trained on out, each with its twin and the reason.

Exact and near duplicates, and training questions that an evaluation set holds already. Nothing here reads files or
drops rows: it finds, the questions stage decides. Every finding depends on the texts alone, never on their order.
"""
