"""NVIDIA Data Designer on the same requests: run by the python of its own environment, never imported by ours.

`python peer_data_designer.py URL REQUESTS CONCURRENCY FOLDER SYSTEM tuned|own`; prints {"wall_s"} of its `create`,
behind the imports. "own": its own settings but for the parallel requests; "tuned": also one row group, and no health
check (one more request).
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["NEMO_TELEMETRY_ENABLED"] = "false"  # a benchmark talks to this machine only

import data_designer.config as dd
import pandas as pd
from data_designer.interface import DataDesigner


def main(url: str, requests: str, concurrency: str, folder: str, system: str, settings: str) -> None:
    """Ask every question once and keep the answers as its data set."""
    asked = pd.DataFrame({"question": [f"What is {number} + 25?" for number in range(int(requests))]})
    provider = dd.ModelProvider(name="paced", endpoint=f"{url}/v1", provider_type="openai", api_key="local")
    parameters = dd.ChatCompletionInferenceParams(
        max_parallel_requests=int(concurrency), temperature=0.6, max_tokens=2048
    )
    tuned = settings == "tuned"
    model = dd.ModelConfig(
        alias="teacher", model="paced", provider="paced", inference_parameters=parameters, skip_health_check=tuned
    )
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=asked))
    builder.add_column(
        dd.LLMTextColumnConfig(name="answer", model_alias="teacher", prompt="{{ question }}", system_prompt=system)
    )
    designer = DataDesigner(artifact_path=folder, model_providers=[provider])
    if tuned:
        designer.set_run_config(dd.RunConfig(buffer_size=int(requests)))
    started = time.monotonic()
    results = designer.create(builder, num_records=int(requests))
    wall_s = time.monotonic() - started
    made = results.load_dataset()
    right = [
        answer == f"Answer: {int(q.split()[2]) + 25}" for q, answer in zip(made.question, made.answer, strict=True)
    ]
    assert len(right) == int(requests) and all(right), (len(right), sum(right))
    print(json.dumps({"wall_s": wall_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
