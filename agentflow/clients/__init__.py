"""Clients of paid services: limits, retries and typed failures around the real `openai` and `tavily-python` clients.

endpoint.py   which host, which provider name, which key belongs to it
classify.py   status codes, broken connections and headers as typed failures
pace.py       what every request passes: puts the next three around the ledger
retry.py      bounded retries, one shared wait, circuit breaker
slots.py      requests in flight, fewer after a 429
limit.py      requests and tokens a minute, over all processes
connections.py  open files for many connections
teacher.py    chat completions; completion.py reads their bodies
search.py     Tavily search
estimate.py   what calls will cost before any is made
"""
