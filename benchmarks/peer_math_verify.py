"""math-verify on answers to judge: run by the python of its own environment, never imported by ours.

`python peer_math_verify.py FILE`: lines of {"gold", "texts": [...]}; prints {"verdicts": [[true, ...], ...]}, one for
each text. Only for texts one trusts: it hands what it finds to sympy, which evaluates it.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from math_verify import parse, verify


def main(path: str) -> None:
    """Judge every text against its gold, each as it stands."""
    logging.disable(logging.ERROR)  # it logs what it cannot parse; such an answer is wrong
    verdicts = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        given = json.loads(line)
        gold = parse(given["gold"])
        verdicts.append([bool(verify(gold, parse(text))) for text in given["texts"]])
    print(json.dumps({"verdicts": verdicts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
