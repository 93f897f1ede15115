"""distilabel on the same requests: run by the python of its own environment, never imported by ours.

`python peer_distilabel.py URL REQUESTS CONCURRENCY FOLDER SYSTEM tuned|own`; prints {"wall_s"} of `Pipeline.run`,
behind the imports, its cache off. A batch of its `TextGeneration` is asked at once; "tuned": a batch is as large as the
concurrency, "own": as large as it comes (50).
"""

from __future__ import annotations

import json
import os
import sys
import time

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def main(url: str, requests: str, concurrency: str, folder: str, system: str, settings: str) -> None:
    """Ask every question once and keep the answers as its data set."""
    os.chdir(folder)
    data = [{"instruction": f"What is {number} + 25?"} for number in range(int(requests))]
    batch = int(concurrency) if settings == "tuned" else 50
    with Pipeline(name="paced", cache_dir=folder) as pipeline:
        load = LoadDataFromDicts(data=data, batch_size=batch)
        model = OpenAILLM(
            base_url=f"{url}/v1",
            api_key="local",
            model="paced",
            generation_kwargs={"temperature": 0.6, "max_new_tokens": 2048},
        )
        ask = TextGeneration(llm=model, system_prompt=system, input_batch_size=batch)
        load >> ask
    started = time.monotonic()
    made = pipeline.run(use_cache=False)
    wall_s = time.monotonic() - started
    rows = made["default"]["train"]
    right = [row["generation"] == f"Answer: {int(row['instruction'].split()[2]) + 25}" for row in rows]
    assert len(right) == int(requests) and all(right), (len(right), sum(right))
    print(json.dumps({"wall_s": wall_s}))


if __name__ == "__main__":  # its steps run in processes of their own, which import this file
    main(*sys.argv[1:])
