"""The same programs on other Python actor libraries, each through its own public API.

Each library lives in an environment of its own below `benchmarks/.venvs`; `python -m benchmarks.peers.setup` makes
them. These modules are loaded by those interpreters: nothing of understudy is imported here.
"""
