"""One-way messages to another node: the nodes and the actor are those of C9."""

from benchmarks.ours.remote import BUGS, program

__all__ = ["BUGS", "program"]
