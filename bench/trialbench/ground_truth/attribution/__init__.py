"""Which step is guilty when a suite fails."""
