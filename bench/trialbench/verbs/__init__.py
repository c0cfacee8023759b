"""The verbs of the command line: one module for each group. Each imports what it needs when it runs."""
