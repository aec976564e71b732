"""vLLM's adapters without vLLM, for tests in this process; as a program, in the place of vLLM's interpreter.

The program takes vLLM's command, serves the same paths, and has a worker. It writes what it was started with to
`starts.jsonl` in the folder FAKE_VLLM. A file there makes it fail: `fails` at its start, `dies` at a request for an
answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # without PYTHONPATH, as vLLM is started
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.inference.http_server import Reply, answering


class FakeVllm:
    """A base model and adapters, which it loads if permitted; a subclass answers `/v1/completions`."""

    def __init__(self, *, base="the-base", context=200, loads=True, adapters=()):
        self.base, self.context, self.loads = base, context, loads
        self.adapters = list(adapters)

    def __call__(self, asked):
        if asked.path == "/v1/models":
            cards = [{"id": self.base, "parent": None, "max_model_len": self.context}]
            cards += [{"id": name, "parent": self.base} for name in self.adapters]
            return Reply({"data": [{**card, "owned_by": "vllm"} for card in cards]})
        if asked.path == "/v1/load_lora_adapter":
            if not self.loads:
                return Reply({"detail": "Not Found"}, 404)
            self.adapters.append(asked.body["lora_name"])
            return Reply(b"Success")
        if asked.path == "/v1/unload_lora_adapter":
            if asked.body["lora_name"] not in self.adapters:
                return Reply({"error": {"message": "cannot be found"}}, 404)
            self.adapters.remove(asked.body["lora_name"])
            return Reply(b"Success")
        assert asked.path == "/v1/completions"
        if asked.body["model"] not in (self.base, *self.adapters):
            return Reply({"error": {"message": "The model does not exist."}}, 404)
        return self.complete(asked.body)

    def complete(self, body):
        choice = {"index": 0, "finish_reason": "stop", "token_ids": [], "text": ""}
        return Reply({"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1}})


class Process(FakeVllm):
    def __init__(self, folder):
        super().__init__(base="base", context=2048)
        self.folder = folder

    def __call__(self, asked):
        if asked.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            return Reply({"error": {"message": "Unauthorized"}}, 401)
        return super().__call__(asked)

    def complete(self, body):
        if (self.folder / "dies").exists():
            os.kill(os.getpid(), 9)
        return super().complete(body)


def main(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        print("0.32.0")
        return
    folder = Path(os.environ["FAKE_VLLM"])
    options = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments[2:])
    worker = subprocess.Popen(["sleep", "600"])
    with (folder / "starts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"options": options, "pids": [os.getpid(), worker.pid, os.getppid()]}) + "\n")
    if (folder / "fails").exists():
        sys.exit("ValueError: no kernel for this base")
    with answering(Process(folder), int(options["port"])):
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1:])
