"""Oracles of supervised trees, and of the guards around their agents."""
