"""Training through TRL: supervised fine-tuning (sft, cold start) and GRPO.

Heavy libraries load in `supervised` and `policy` only.
"""
