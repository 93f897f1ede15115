"""Scores of answers: exact match, token F1, numeric match, confidence intervals."""
