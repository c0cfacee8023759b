"""One wire, one parser and one slot reader for llama-server and every server that speaks OpenAI's chat completions."""
