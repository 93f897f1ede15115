"""Options that several commands of the command line share. Light at import, as flows/cli.py is."""

from __future__ import annotations

from pathlib import Path

import click

root_option = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("runs"), envvar="AGENTFLOW_ROOT", show_default=True,
    help="Folder of artifacts, ledger and reports.",
)  # fmt: skip
set_option = click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE",
    help="Change a field, e.g. --set sft.settings.optimiser.learning_rate=5e-4. Repeatable.",
)  # fmt: skip
budget_option = click.option(
    "--budget-usd",
    type=click.FloatRange(min=0),
    help="Stop before the paid calls of this recipe's runs with a budget could cost more than this in all. With "
    "--set budget_per=edition only runs in the same editions count.",
)
resources_option = click.option(
    "--resources", "resources_file", type=click.Path(path_type=Path), metavar="FILE",
    help="YAML file that says what each stage may use, e.g. `grpo: {workers: 8, num_gpus: 1}`.",
)  # fmt: skip
ledger_option = click.option(
    "--ledger", "ledger_url", envvar="AGENTFLOW_LEDGER", help="Ledger database URL.  [default: <root>/ledger.db]"
)
