"""The files of `docs/deployment` are valid and name what exists, and their commands run."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
import tomllib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import typer.main
import yaml

from benchmarks.servers import is_ready
from searchlora.cli.app import app
from searchlora.inference.scheduling.engine_core import Stats
from searchlora.pipelines.config import read_pipeline
from searchlora.server.api.app import PATHS
from searchlora.server.api.metrics import Metrics
from tests.child_scripts import COMMAND, Script, run_script
from tests.docs.blocks import ROOT
from tests.server import haproxy

FOLDER = ROOT / "docs" / "deployment"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
HAPROXY = (FOLDER / "haproxy.cfg").read_text(encoding="utf-8")
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"][0]
COMMANDS = typer.main.get_command(app).commands
SERVE = {option: each for each in COMMANDS["serve"].params for option in each.opts}
KEY = "a-key"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}


def dockerfile() -> dict[str, list[str]]:
    """Instruction -> its arguments, in their order."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest.strip())
    return found


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / "searchlora@.service")
    return parser


def parsed(words):
    """The parameters of a command line of `searchlora`; fails for an unknown command or option."""
    command, arguments = COMMANDS[words[0]], list(words[1:])
    if hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    return command.make_context(words[0], arguments).params


# The Dockerfile


def test_the_dockerfile_has_known_instructions_and_copies_what_exists():
    instructions = dockerfile()
    known = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert instructions.keys() <= known
    assert instructions["ARG"] == ["TORCH_INDEX="]
    for copied in instructions["COPY"]:
        *sources, _ = copied.split()
        assert [source for source in sources if not (ROOT / source).exists()] == []
    assert "root" not in instructions["USER"][-1]


def test_the_image_installs_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (installed,) = re.findall(r"'\.\[([\w,]+)\]'", " ".join(dockerfile()["RUN"]))
    assert set(installed.split(",")) <= extras.keys()


def test_the_image_serves_on_the_port_that_it_exposes_and_its_health_path_exists():
    instructions = dockerfile()
    assert yaml.safe_load(instructions["ENTRYPOINT"][0]) == ["searchlora"]
    values = parsed(yaml.safe_load(instructions["CMD"][0]))
    assert instructions["EXPOSE"] == [str(values["port"])]
    (health,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", instructions["HEALTHCHECK"][0])
    assert health == (str(values["port"]), "/readyz")
    assert "/readyz" in PATHS
    assert str(values["store"]) in instructions["RUN"][-1]  # it is made, and belongs to the user


# Compose and Prometheus


def test_the_commands_of_compose_are_commands_of_searchlora():
    assert set(SERVICES) == {"server-a", "server-b", "load", "proxy", "postgres", "prometheus", "grafana"}
    assert SERVICES["server-a"] == SERVICES["server-b"]
    parsed(SERVICES["load"]["command"])
    values = parsed(SERVICES["server-a"]["command"])
    servers = re.findall(r"server \w \"\$\{SERVER_\w-([\w-]+):(\d+)\}\"", HAPROXY)
    assert servers == [(name, str(values["port"])) for name in ("server-a", "server-b")]
    (bound,) = re.findall(r'bind "\$\{BIND-:(\d+)\}"', HAPROXY)
    assert SERVICES["proxy"]["ports"][0].rpartition(":")[2] == bound
    assert all(port.startswith("127.0.0.1:") for each in SERVICES.values() for port in each.get("ports") or ())


def test_servers_of_compose_stop_later_than_the_proxy_notices_and_sooner_than_they_are_killed():
    values = parsed(SERVICES["server-a"]["command"])
    (failures,) = re.findall(r"check inter 1s fall (\d+)", HAPROXY)
    assert int(failures) < values["drain_time"]
    grace = int(SERVICES["server-a"]["stop_grace_period"].removesuffix("s"))
    assert values["drain_time"] + values["shutdown_timeout"] < grace
    assert int(re.findall(r"timeout server (\d+)s", HAPROXY)[0]) > values["timeout"]


def test_docker_compose_accepts_the_file_and_demands_the_secrets():
    """Only its client is needed: it validates the file against the schema of the Compose specification."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed; Debian has a package of that name")
    command = [program, "--file", FOLDER / "compose.yaml", "config", "--quiet"]
    secrets = {"SEARCHLORA_API_KEY": KEY, "POSTGRES_PASSWORD": KEY, "GRAFANA_PASSWORD": KEY}
    checked = subprocess.run(command, env=os.environ | secrets, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    for missing in secrets:
        given = {name: value for name, value in (os.environ | secrets).items() if name != missing}
        refused = subprocess.run(command, env=given, capture_output=True, text=True)
        assert refused.returncode and missing in refused.stderr


def test_compose_names_files_volumes_and_secrets_that_exist():
    build = SERVICES["server-a"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]) == FOLDER / "Dockerfile"
    assert f"{next(iter(build['args']))}=" in dockerfile()["ARG"]
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or source == "${DATA" or (FOLDER / source).exists(), volume
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
        assert {config["source"] for config in service.get("configs", ())} <= COMPOSE["configs"].keys()
        assert set(service.get("depends_on", ())) <= SERVICES.keys()


def test_prometheus_reads_the_metrics_of_the_server_with_its_key():
    assert PROMETHEUS["metrics_path"] in PATHS
    port = parsed(SERVICES["server-a"]["command"])["port"]
    assert PROMETHEUS["static_configs"][0]["targets"] == [f"server-a:{port}", f"server-b:{port}"]
    (secret,) = SERVICES["prometheus"]["secrets"]
    assert PROMETHEUS["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret]["environment"] in SERVICES["server-a"]["environment"]


def test_grafana_starts_with_the_dashboard_and_with_prometheus_as_its_source():
    datasource, dashboards = (
        yaml.safe_load(COMPOSE["configs"][name]["content"]) for name in ("datasource", "dashboards")
    )
    assert datasource["datasources"][0]["url"] == "http://prometheus:9090"
    folder = dashboards["providers"][0]["options"]["path"]
    assert SERVICES["grafana"]["volumes"][0].startswith(f"./grafana.json:{folder}/")


def metrics_written() -> set[str]:
    """The metrics of a server with its engine."""
    metrics = Metrics()
    metrics.watch(Stats)
    written = set()
    for metric in metrics.registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket"], "summary": ["_sum", "_count"], "gauge": [""]}
        written |= {metric.name + ending for ending in endings[metric.type]}
    return written


def test_the_alerts_and_the_dashboard_read_metrics_that_exist():
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    dashboard = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    asked = [rule["expr"] for group in rules for rule in group["rules"]]
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    read = {name for expression in asked for name in re.findall(r"searchlora_\w+", expression)}
    assert read <= metrics_written()
    assert len(read) > 15
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)


def test_promtool_accepts_the_settings_the_alerts_and_the_expressions_of_the_dashboard(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    checked = subprocess.run([promtool, "check", "rules", FOLDER / "alerts.yml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "6 rules found" in checked.stdout
    (tmp_path / "api_key").write_text(KEY, encoding="utf-8")
    text = (FOLDER / "prometheus.yml").read_text(encoding="utf-8").replace("/run/secrets", str(tmp_path))
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    checked = subprocess.run([promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    dashboard = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [{"record": f"expression_{number}", "expr": expression} for number, expression in enumerate(asked)]
    group = {"name": "dashboard", "rules": rules}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [group]}), encoding="utf-8")
    checked = subprocess.run([promtool, "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_pipeline_searches_in_the_postgres_of_compose():
    config = read_pipeline(FOLDER / "shop.yaml")
    variables = SERVICES["postgres"]["environment"]
    expected = f"postgresql://{variables['POSTGRES_USER']}@postgres/{variables['POSTGRES_DB']}"
    assert config.parameters["url"] == expected
    assert parsed(SERVICES["server-a"]["command"])["events"] == expected


@pytest.mark.slow
def test_the_commands_of_compose_run_with_a_postgres(postgres_url, tiny_base, tmp_path):
    """The same words, with a folder and a port of the test, and a base that loads quickly."""
    (tmp_path / "products.jsonl").write_text('{"id": "p1", "title": "Green tent", "text": "For two."}\n')
    pipeline = (FOLDER / "shop.yaml").read_text(encoding="utf-8")
    address = read_pipeline(FOLDER / "shop.yaml").parameters["url"]
    (tmp_path / "shop.yaml").write_text(pipeline.replace(address, postgres_url), encoding="utf-8")

    def here(words):
        words = [re.sub(r"(^|=)/(data|store)\b", rf"\1{tmp_path}", word) for word in words]
        return [word.replace(address, postgres_url) for word in words]

    loaded = run_script(COMMAND, *here(SERVICES["load"]["command"]))
    assert loaded.returncode == 0, loaded.stderr
    words = here(SERVICES["server-a"]["command"])
    with serving(*words[1:], "--base", tiny_base.path) as url:
        assert httpx.get(f"{url}{PROMETHEUS['metrics_path']}").status_code == 401
        with httpx.Client(base_url=url, headers=AUTHORIZED, timeout=60) as client:
            assert client.get(PROMETHEUS["metrics_path"]).is_success
            found = client.post("/v1/search", json={"pipeline": "shop", "query": "green tent"}).json()
    assert "p1" in str(found["hits"][0])


# The proxy


class Upstream(ThreadingHTTPServer):
    """A server of a test, which is ready, and answers a request as its `answer` says."""

    def __init__(self, answer):
        self.answered = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/readyz":
                    self.send_response(200)
                    self.end_headers()
                else:
                    self.do_POST()

            def do_POST(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.server.answered.append(self.command)
                answer(self)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def succeeds(handler):
    handler.send_response(200)
    handler.send_header("content-length", "0")
    handler.end_headers()


def hangs_up(handler):
    """As a server that is killed when it has got a request."""
    handler.connection.close()


def test_the_proxy_sends_again_what_no_server_has_got_and_otherwise_get_only():
    with Upstream(succeeds) as sound, Upstream(hangs_up) as killed:
        with haproxy.running([sound.server_port, killed.server_port]) as url:
            posts = [httpx.post(f"{url}/v1/search", json={}).status_code for _ in range(6)]
            gets = [httpx.get(f"{url}/v1/models").status_code for _ in range(6)]
        assert sorted(set(posts)) == [200, 502]
        assert killed.answered.count("POST") == posts.count(502)
        assert set(gets) == {200} and "GET" in killed.answered
        (closed,) = haproxy.free_ports(1)
        with haproxy.running([sound.server_port, closed]) as url:
            assert {httpx.post(f"{url}/v1/search", json={}).status_code for _ in range(4)} == {200}


def test_the_proxy_passes_events_of_a_stream_on_at_once():
    read = threading.Event()

    def streams(handler):
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(b"data: 1\n\n")
        handler.wfile.write(b"data: 2\n\n" if read.wait(20) else b"data: late\n\n")

    with (
        Upstream(streams) as one,
        haproxy.running([one.server_port] * 2) as url,
        httpx.stream("POST", f"{url}/v1/search", json={}, timeout=30) as response,
    ):
        lines = (line for line in response.iter_lines() if line)
        assert next(lines) == "data: 1"
        read.set()
        assert next(lines) == "data: 2"


# systemd


def test_the_unit_waits_until_the_server_is_ready_and_longer_than_it_takes_to_stop():
    service = unit()["Service"]
    program, *words = shlex.split(service["ExecStart"].replace("%i", "8001"))
    assert program.endswith("/searchlora")
    values = parsed(words)
    assert values["port"] == 8001
    assert int(service["TimeoutStopSec"]) > values["drain_time"] + values["shutdown_timeout"]
    assert "http://127.0.0.1:%i/readyz" in service["ExecStartPost"]
    assert str(values["store"]).startswith(f"/var/lib/{service['StateDirectory']}")


def test_the_limits_of_the_guide_are_those_of_the_command():
    guide = (ROOT / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
    limits = re.findall(r"^\| `(--[\w-]+)` \| (\S[^|]*?) \|", guide, re.M)
    assert len(limits) > 12
    for option, default in limits:
        assert option in SERVE, option
        if default.isdigit():
            assert SERVE[option].default == int(default), option


@contextmanager
def serving(*options):
    """The address of `searchlora serve`; SIGTERM ends it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", *options, "--host", "127.0.0.1", "--port", port]
    script = Script(COMMAND, *words, environment={"SEARCHLORA_API_KEY": KEY})
    try:
        assert is_ready(script, f"http://127.0.0.1:{port}/readyz"), script.stderr
        yield f"http://127.0.0.1:{port}"
    finally:
        script.terminate()
        script.wait(60)
