"""Measured comparisons: one module per name, one table each; `python -m benchmarks.run NAME` runs them."""
