"""Prefect and Ray around the core's stages: names, resources, batches, actor pools, TorchTrainer.

No logic of a stage stands here.
"""
