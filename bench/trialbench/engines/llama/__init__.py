"""One wire, one parser and one slot reader for llama-server and every server with OpenAI's chat completions."""
