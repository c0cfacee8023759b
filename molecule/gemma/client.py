"""A client of the session dialect, written as existing ones are: one connection, one JSON object per line."""

import json
import socket
import sys


def main() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(sys.argv[1])
        stream = connection.makefile("rw", encoding="utf-8")

        def ask(message: dict) -> dict:
            stream.write(json.dumps(message) + "\n")
            stream.flush()
            return json.loads(stream.readline())

        assert ask({"type": "status"})["status"] == "running"
        session = ask({"type": "create_session", "params": {"max_tokens": 6}})["session_id"]
        first = ask({"type": "generate", "session_id": session, "prompt": "hello", "stream": True})
        kinds = [first["type"]]
        while kinds[-1] != "done":
            kinds.append(json.loads(stream.readline())["type"])
        # Several tokens may come in one piece.
        assert kinds[-2:] == ["stop", "done"], kinds
        assert set(kinds[:-2]) == {"token"}, kinds
        refused = ask({"action": "shell", "action_id": "a", "input": "id"})
        assert refused["source"] == "error", refused
        assert ask({"type": "close_session", "session_id": session})["ok"] is True
    print("session answered, done once, shell refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
