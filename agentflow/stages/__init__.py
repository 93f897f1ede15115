"""One file per stage: a frozen configuration and one plain function.

No Prefect, no Ray, no store: rows in, `Outcomes` out.
"""
