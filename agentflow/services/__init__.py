"""Local services that stand in for paid ones, over real HTTP and in the real wire formats.

    teacher.py     OpenAI chat completions: answers what this project generated and what a file says is known
    search.py      Tavily search: BM25 over the invented encyclopedia or a corpus of your own
    faults.py      scripts of faults: which request fails, and how
    middleware.py  plays the script, counts and logs every request (/stats, /history, /faults)
    listen.py      binds to 127.0.0.1, announces itself, ends with its parent
    server.py      `LocalService`: starts and stops such a process
    __main__.py    python -m agentflow.services teacher | search

They are stand-ins only: pointing `base_url` at a real endpoint is all it takes to leave them. Nothing here imports
torch, transformers or datasets, so a service is up in a second.
"""
