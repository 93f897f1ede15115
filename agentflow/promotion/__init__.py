"""Which night counts: what a run made is compared with what is promoted, and the decision is kept.

No Prefect, no Ray: artifacts in, a verdict and a history on disk out. Which artifacts make a night is the caller's
to say.
"""
