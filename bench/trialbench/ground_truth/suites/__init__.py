"""The suites: which rows are declared, and how each is judged."""
