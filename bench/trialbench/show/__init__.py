"""Words, pictures and files out of typed results: drawing for every room, which knows no run."""
