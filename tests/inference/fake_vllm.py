"""A program in the place of vLLM's interpreter: it takes the same command, serves the same paths, and has a worker.

It writes what it was started with to `starts.jsonl` in the folder FAKE_VLLM. A file there makes it fail: `fails` at its
start, `dies` at a request for an answer; with `open` it takes no notice of the key.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

FOLDER = Path(os.environ["FAKE_VLLM"])


class Handler(BaseHTTPRequestHandler):
    adapters: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer({})
        elif not (FOLDER / "open").exists() and self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.answer({"error": {"message": "Unauthorized"}}, 401)
        else:
            cards = [{"id": "base", "max_model_len": 2048}, *({"id": a, "parent": "base"} for a in self.adapters)]
            self.answer({"data": [{**card, "owned_by": "vllm"} for card in cards]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load_lora_adapter" and not Path(body["lora_path"]).is_dir():
            self.answer({"error": {"message": "No adapter found."}}, 404)
        elif self.path == "/v1/load_lora_adapter":
            self.adapters[body["lora_name"]] = body["lora_path"]
            self.answer({})
        elif self.path == "/v1/unload_lora_adapter":
            self.answer({}, 404 if self.adapters.pop(body["lora_name"], None) is None else 200)
        elif body["model"] not in ("base", *self.adapters):
            self.answer({"error": {"message": "The model does not exist."}}, 404)
        elif (FOLDER / "dies").exists():
            os.kill(os.getpid(), 9)
        else:
            choice = {"index": 0, "finish_reason": "stop", "token_ids": [], "text": ""}
            self.answer({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    def answer(self, content: object, status: int = 200) -> None:
        sent = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *arguments: object) -> None:
        del arguments


def main(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        print("0.32.0")
        return
    options = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments[2:])
    worker = subprocess.Popen(["sleep", "600"])
    with (FOLDER / "starts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"options": options, "pids": [os.getpid(), worker.pid, os.getppid()]}) + "\n")
    if (FOLDER / "fails").exists():
        sys.exit("ValueError: no kernel for this base")
    ThreadingHTTPServer((options["host"], int(options["port"])), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
