"""`agentflow` as a person types it, in the test's own process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from flows.cli import main


def agentflow(*arguments: object) -> Result:
    """The command in this process. Its messages count only if no traceback stands beside them."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result
