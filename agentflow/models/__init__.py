"""Language models: loading, generation with tools in the loop, loss scoring.

The only place beside training that loads torch.
"""
