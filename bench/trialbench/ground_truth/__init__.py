"""Ground truth: is the converted or quantized model still the same model?

Nothing in here needs torch or transformers but `oracle`, and numpy and gguf only where tensors are read
(`edgelab-trialbench[ground-truth]`). Data (roster, prompts, tolerances, claims) is in `data/`.
"""
