"""The durable store of paid calls: record, replay, meters and budgets."""

from agentflow.ledger.calls import Answer, Cost, Mode, PaidCall, Recorded, Refusal
from agentflow.ledger.ledger import Ledger

__all__ = ["Answer", "Cost", "Ledger", "Mode", "PaidCall", "Recorded", "Refusal"]
