"""Deployed runs share one `agentflow up`."""

from up_fixtures import machine, stand_ins

__all__ = ["machine", "stand_ins"]
