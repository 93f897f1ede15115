"""Rewards: pure functions of a completion, with named parts."""
