"""Evidence about a model and a runtime: workspace, oracles, answers, and measures over them."""
