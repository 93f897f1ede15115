"""Tables for others: Parquet or JSONL with a card, every row with its teacher, terms and licence; refused where a
policy says so.
"""
