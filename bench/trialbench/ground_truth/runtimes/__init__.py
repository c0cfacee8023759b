"""Adapters to the programs that run models; `base` is the contract."""
