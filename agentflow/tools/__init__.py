"""Tools a model may call while it reasons: one contract, a calculator, a web search."""
