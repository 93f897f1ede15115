"""agentflow: question sets and conversations in, tool-using reasoning models out.

This package is the core: it knows neither Prefect nor Ray and can be used from a notebook.
`tasks/` wraps it for Prefect and Ray, `flows/` chains it, `deployments/` says where it runs.
"""

__version__ = "0.1.0"
