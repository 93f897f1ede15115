"""Where calls go in a piece of reasoning: equations, lookups, splicing."""
