"""Every error of the core on one page, classified where it enters the house.

Three families, because three different people act on them:

* `UserError`: the configuration or an input file is wrong. The message names the thing, its value, what is
  allowed and what to do. The CLI prints it without a traceback and exits with 2.
* `ServiceFailure`: an external service did not give a usable answer. It is never a row, a reward or a score.
  `retryable` says whether the client may ask again, `stops_run` whether asking anything else is pointless.
* `StoreError`: an artifact or ledger entry is missing, damaged or refused. Fail closed: recompute or stop.
"""

from __future__ import annotations


class AgentflowError(Exception):
    """Base of all errors raised on purpose by agentflow."""


# ---------------------------------------------------------------- what a user can mend
class UserError(AgentflowError, ValueError):
    """Wrong configuration or input; the message says what is allowed and what to do."""


class ConfigError(UserError):
    """An unknown recipe or field, a wrong type, or values that contradict each other."""


class InputError(UserError):
    """An input file is missing or nothing usable stands in it."""


class MissingKeyError(UserError):
    """A real service is configured and its API key is not in the environment."""


class UnstableValueError(UserError):
    """A configuration value has no stable canonical form and so cannot enter a fingerprint."""


class LicenceRefused(UserError):
    """Rows stand under licences or terms that the configured policy forbids, alone or together."""


# ---------------------------------------------------------------- external services
class ServiceFailure(AgentflowError):
    """A paid or external call gave no usable answer.

    `kind` is the stable word used in counts and reports; `retry_after_s` is what the service asked for, if it did.
    """

    kind = "service_failure"
    retryable = False
    stops_run = False
    row_fault = False
    # The same request would meet the same end for ever: its row is quarantined. Otherwise the row failed and is to be
    # asked again.

    def __init__(self, message: str, *, retry_after_s: float | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status
        self.ledger_key = ""
        # Of the paid call that met it, where there is one.


class ConnectionFailed(ServiceFailure):
    """Refused, reset, unresolvable, or dropped in the middle of an answer."""

    kind = "connection"
    retryable = True


class CallTimeout(ServiceFailure):
    """No whole answer within the deadline of the call."""

    kind = "timeout"
    retryable = True


class RateLimited(ServiceFailure):
    """HTTP 429 that waiting can cure."""

    kind = "rate_limited"
    retryable = True


class ServerFailed(ServiceFailure):
    """HTTP 5xx."""

    kind = "server_error"
    retryable = True


class MalformedAnswer(ServiceFailure):
    """HTTP 200 whose body is not the promised shape: HTML, cut JSON, no choices, null content."""

    kind = "malformed"
    retryable = True


class EmptyAnswer(ServiceFailure):
    """HTTP 200 with nothing in it (DeepSeek does this under load)."""

    kind = "empty"
    retryable = True


class CutAnswer(ServiceFailure):
    """`finish_reason=length`: the answer stops in the middle.

    Asking again costs the same and ends the same, so it is kept as every paid answer is, and reading it fails.
    """

    kind = "cut"
    row_fault = True


class FilteredAnswer(ServiceFailure):
    """`finish_reason=content_filter`, or a refusal. Kept as a cut answer is."""

    kind = "filtered"
    row_fault = True


class RequestRejected(ServiceFailure):
    """HTTP 4xx other than those below: this request will never be accepted."""

    kind = "rejected"
    row_fault = True


class AuthFailed(ServiceFailure):
    """HTTP 401 or 403: the key is wrong for this host. Every other call would fail too."""

    kind = "auth"
    stops_run = True


class QuotaExhausted(ServiceFailure):
    """Credits or quota used up (429 `insufficient_quota`, Tavily 432 and 433)."""

    kind = "quota"
    stops_run = True


class ReplayMissing(ServiceFailure):
    """Ledger mode `replay`: the call is not stored and may not be made."""

    kind = "replay_missing"


class BudgetExceeded(AgentflowError):
    """The next call's worst case does not fit the budget. The run ends Failed and can be resumed with a larger one."""

    kind = "budget"


# ---------------------------------------------------------------- scoring
class UnscorableRow(AgentflowError, ValueError):
    """No loss of this row can mean anything; it is quarantined under `kind`."""

    def __init__(self, message: str, *, kind: str = "unscorable") -> None:
        super().__init__(message)
        self.kind = kind


# ---------------------------------------------------------------- tools
class ToolArgumentError(AgentflowError, ValueError):
    """The caller (a model) wrote arguments the tool refuses. It is shown to the model as the call's result."""


class ToolFailure(AgentflowError):
    """The tool's own infrastructure failed. Typed, counted, and never shown to a model or scored."""

    def __init__(self, message: str, *, kind: str = "tool_failure", row_fault: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.row_fault = row_fault
        # As of the ServiceFailure behind it: the same call would fail for ever.


# ---------------------------------------------------------------- artifacts and stages
class StoreError(AgentflowError):
    """The artifact store or the ledger cannot do what was asked."""


class CorruptArtifact(StoreError):
    """Bytes, counts or schema differ from the manifest. Never used; recompute after removing it."""


class HistoryDamaged(StoreError):
    """The history of promotions is torn, edited or incomplete: what is promoted cannot be said."""


class SchemaMismatch(StoreError):
    """Rows do not have the columns their stage boundary declares; the message names missing and available ones."""


class ConservationError(StoreError):
    """in = out + dropped + quarantined + failed does not hold (promise P2); a defect of ours, never of the data."""


class StageIncomplete(AgentflowError):
    """More rows failed than the failure budget allows. Committed batches stay; a retry asks only what is missing.

    `failed` counts keys by reason, `cause` is what one of them met, `missing` says of every failed key (key, reason,
    detail). All but the message may be left out, so that the error survives the way from a worker process to its
    driver (an exception is rebuilt from its message alone).
    """

    def __init__(
        self,
        message: str,
        *,
        stage: str = "",
        failed: dict[str, int] | None = None,
        cause: str = "",
        missing: list[tuple[str, str, str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.failed = failed or {}
        self.cause = cause
        self.missing = missing or []


class PolicyCollapsed(AgentflowError):
    """The collapse guard stopped a policy's training; the message names the alarm and its numbers."""


class GraderFailed(AgentflowError):
    """Rollouts cannot be graded: the grading process does not start, or too many completions get no verdict from it."""


class ToolsUnavailable(AgentflowError):
    """Tools failed for most of a training's rollouts, step after step; the message counts the failures by kind.

    Nothing is published. The training goes on from its last checkpoint once the tools answer again.
    """


class WorkersLost(AgentflowError):
    """Worker processes or nodes of a cluster died too often, or none with room came in time. What is finished stays."""


class JobFailed(AgentflowError):
    """A job on the cluster ended without its result; the message holds its id and last lines."""
