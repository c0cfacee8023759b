"""Engines: what turns a prompt into a reply. `contract.py` is what all have in common; see docs/engines.md."""
