"""A server that is no node."""

import http.server
import json
import threading


class Recorder:
    """A server with OpenAI's dialect and nothing else: no list of models, nothing of a node."""

    def __init__(self) -> None:
        bodies = self._bodies = list[bytes]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/v1/chat/completions":
                    self.send_error(404)
                    return
                bodies.append(body)
                chunks: list[object] = [
                    {"choices": [{"index": 0, "delta": {"content": "Yes."}}]},
                    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                    {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
                ]
                events = [*map(json.dumps, chunks), "[DONE]"]
                self.send_response(200)
                self.end_headers()
                self.wfile.write("".join(f"data: {event}\n\n" for event in events).encode())

            def do_GET(self) -> None:
                self.send_error(404)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Recorder":
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def asked(self) -> list[dict[str, str]]:
        """The messages of the latest request."""
        messages: list[dict[str, str]] = json.loads(self._bodies[-1])["messages"]
        return messages
