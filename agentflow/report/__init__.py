"""What a person reads after a run: `build.build_report` writes report.json and report.html beside each other.

model (what comes in) -> summary, evaluation (numbers) -> pictures, samples, page (the HTML) -> build (files).
`markdown` makes the small artifacts shown in Prefect's UI. `visible` makes any text safe to look at.
Nothing here is imported at package level: matplotlib loads only when a report is built.
"""
