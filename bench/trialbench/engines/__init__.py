"""Engines: what turns a prompt into a reply. Today one, any server that speaks OpenAI's chat completions."""
