"""The verbs of the command line, one module per group. A verb imports what it needs when it runs."""
