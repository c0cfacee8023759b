"""Negative controls: wrong files and runtimes that the suites must reject."""
