"""Debian's Chromium, driven through its debugging pipe: pages, keys, sizes, colours, screenshots, and axe-core."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60

#: Names of keys that tests press -> (code, virtual key code, text).
KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "Escape": ("Escape", 27, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Space": ("Space", 32, " "),
    "/": ("Slash", 191, "/"),
}


def axe_script() -> str:
    """axe-core, from the package that ships it."""
    spec = importlib.util.find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe-core-python is not installed")
    return Path(spec.origin).with_name("axe.min.js").read_text("utf-8")


class Browser:
    """One page of a browser."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._number, self._buffer = 0, b""
        self.errors: list[str] = []
        (page, *_) = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            self._buffer += os.read(self._receive, 1 << 20)
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if message.get("method") == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])
        return message

    def open(self, url: str) -> None:
        """Load an address, from nothing."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = SECONDS) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.js(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                problem = self.js("document.getElementById('problem')?.textContent")
                raise AssertionError(f"never: {condition}; problem: {problem}; errors: {self.errors}")
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            code, number, text = KEYS[key]
            common = {
                "key": " " if key == "Space" else key,
                "code": code,
                "windowsVirtualKeyCode": number,
                "nativeVirtualKeyCode": number,
            }
            down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
            self.call("Input.dispatchKeyEvent", **common, **down)
            self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type a text into the focused control."""
        self.call("Input.insertText", text=text)

    def tab_to(self, condition: str, most: int = 80) -> None:
        """Press Tab until the focused element, `it`, fulfils a condition."""
        for _ in range(most):
            if self.js(f"(() => {{ const it = document.activeElement; return Boolean({condition}); }})()"):
                return
            self.press("Tab")
        focused = self.js("document.activeElement.outerHTML.slice(0, 200)")
        raise AssertionError(f"not in reach of Tab: {condition}; focus is on {focused}")

    def size(self, width: int, height: int = 900) -> None:
        """The size of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def colours(self, scheme: str) -> None:
        """`light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        self.js("window.scrollTo(0, 0)")
        size = self.js("({ width: window.innerWidth, height: document.documentElement.scrollHeight })")
        clip = {"x": 0, "y": 0, "scale": 1, **size}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def faults(self) -> list[str]:
        """What axe-core finds serious or critical: rule, and the elements."""
        if not self.js("typeof axe !== 'undefined'"):
            self.js(f"{axe_script()}; undefined")
        found = self.js("axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations)")
        return [
            f"{each['id']} ({each['impact']}): {[node['html'][:160] for node in each['nodes'][:4]]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    def fits(self) -> bool:
        """Whether the page is no wider than the window."""
        return bool(self.js("document.documentElement.scrollWidth <= window.innerWidth"))


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with a page, or a skipped test where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on the path")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet = ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()

    def pipes() -> None:  # in the child: Chromium reads descriptor 3 and writes 4
        spare = os.dup(from_browser)
        os.dup2(to_browser, 3)
        os.dup2(spare, 4)

    process = subprocess.Popen(
        [program, *switches, *quiet, "--remote-debugging-pipe", "about:blank"],
        preexec_fn=pipes,
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(send, receive)
    finally:
        with contextlib.suppress(OSError):
            os.write(send, b'{"id": 1000000, "method": "Browser.close"}\0')
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(send)
        os.close(receive)
