"""Clients of paid services: limits, retries and typed failures around the real `openai` and `tavily-python` clients.

endpoint.py   which host, which provider name, which key belongs to it
classify.py   status codes, broken connections and headers as typed failures
retry.py      bounded retries, one shared wait, circuit breaker, concurrency
teacher.py    chat completions; completion.py reads their bodies
search.py     Tavily search
"""
