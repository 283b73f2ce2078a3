"""The side of AWS Lambda that a function sees: runtime_api.py EVENT.json...

Prints its address, hands out the events one after the other, and prints each answer as a line of JSON. Ends after the last.
"""

import http.server
import json
import os
import pathlib
import sys
import threading
import time

events = [pathlib.Path(name).read_bytes() for name in sys.argv[1:]]
handed_out = 0
answered = 0


class RuntimeApi(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        global handed_out
        assert self.path == "/2018-06-01/runtime/invocation/next", self.path
        if handed_out == len(events):
            threading.Event().wait()
        body = events[handed_out]
        handed_out += 1
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", f"request-{handed_out}")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 29_000))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:provision")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        global answered
        answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self.path.rsplit("/", 1)[-1]  # response or error
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.wfile.flush()
        answered += 1
        print(json.dumps({"kind": kind, "answer": answer}), flush=True)
        if answered == len(events):
            os._exit(0)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RuntimeApi)
print(f"listening 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
