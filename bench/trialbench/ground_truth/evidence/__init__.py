"""What is known of a model and a runtime: workspace, oracles, answers, and the measures over them."""
