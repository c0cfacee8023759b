"""Reports: what a result folder says, for people and for other programs."""
