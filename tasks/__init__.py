"""Thin Prefect and Ray wrappers around the stages of `agentflow`: names, cache keys, resources. No logic."""
