"""The Helm chart of `docs/deployment` renders valid manifests of Kubernetes, and settings that `serve` reads."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from searchlora.pipelines.config import read_pipeline
from searchlora.server.api.app import PATHS
from searchlora.server.api.config import read_config
from tests.docs.blocks import ROOT, blocks
from tests.docs.test_deployment import FOLDER, SERVE, dockerfile, metrics_written, parsed

CHART = FOLDER / "helm" / "searchlora"

#: Everything that is off by default.
ALL = """
autoscaling: {enabled: true}
serviceMonitor: {enabled: true}
data: documents
podAnnotations: {team: search}
nodeSelector: {disk: fast}
tolerations: [{key: gpu, operator: Exists}]
store: {storageClassName: shared}
pipelines:
  shop: {name: shop, stages: [{bm25: {k: 3}}]}
config: {events: "postgresql://searchlora@postgres/searchlora"}
"""


@pytest.fixture(scope="module")
def helm(tmp_path_factory):
    """Calls Helm in folders of the test; what it prints."""
    program, home = shutil.which("helm"), tmp_path_factory.mktemp("helm")
    if program is None:
        pytest.skip("helm is not installed")
    own = {f"HELM_{name}_HOME": str(home) for name in ("CONFIG", "CACHE", "DATA")}

    def call(*words):
        done = subprocess.run([program, *words], env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


#: The values of the guide.
(GUIDE,) = (block.body for block in blocks(ROOT / "docs" / "how-to" / "deploy.md") if block.title == "values.yaml")


@pytest.fixture(params=["", ALL, GUIDE, "store: {enabled: false}\nconfig: {store: 's3://bucket/store'}"])
def rendered(helm, tmp_path, request):
    """Kind -> manifest."""
    (tmp_path / "values.yaml").write_text(request.param, encoding="utf-8")
    text = helm("template", "shop", CHART, "--values", tmp_path / "values.yaml")
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


def test_helm_finds_nothing_to_complain_about(helm):
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


def test_the_manifests_fit_the_schemas_of_the_oldest_and_of_a_new_kubernetes(rendered):
    validator = pytest.importorskip("kubernetes_validate")
    oldest = re.search(r">=(\d+\.\d+)", (CHART / "Chart.yaml").read_text(encoding="utf-8"))[1]
    for kind, manifest in rendered.items():
        for version in (oldest, "1.35"):
            if kind != "ServiceMonitor":  # of the Prometheus operator
                validator.validate(manifest, version, strict=True)


def test_the_servers_read_their_settings_and_stop_in_time(rendered, tmp_path):
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    files = rendered["ConfigMap"]["data"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert str(parsed(container["args"])["config"]) == "/config/serve.yaml"
    config = read_config(tmp_path / "serve.yaml", {})
    assert (config.host, config.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert pod["terminationGracePeriodSeconds"] > config.drain_time + config.shutdown_timeout
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < config.drain_time
    assert {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")} <= {*PATHS}
    assert {f"/config/{name}" for name in files} == {"/config/serve.yaml", *config.pipelines}
    for name in config.pipelines:
        assert read_pipeline(tmp_path / name.removeprefix("/config/")).name == "shop"


def test_the_pods_mount_what_they_write_and_are_not_root(rendered):
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert f"SEARCHLORA_CACHE={mounts['cache']}" in dockerfile()["ENV"]
    assert ("store" in mounts) == ("PersistentVolumeClaim" in rendered)
    user = pod["securityContext"]["runAsUser"]
    assert f"useradd --uid {user} " in dockerfile()["RUN"][-1]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_number_of_pods_follows_a_metric_that_exists(rendered):
    deployment = rendered["Deployment"]["spec"]
    if "HorizontalPodAutoscaler" in rendered:
        assert "replicas" not in deployment
        (metric,) = rendered["HorizontalPodAutoscaler"]["spec"]["metrics"]
        name = metric["pods"]["metric"]["name"]
        assert name in metrics_written()
        assert f"'{name}{{" in (CHART / "values.yaml").read_text(encoding="utf-8")
        assert SERVE["--waiting"].default > int(metric["pods"]["target"]["averageValue"])
    else:
        assert deployment["replicas"] == 2
    labels = deployment["template"]["metadata"]["labels"]
    for selector in ("Service", "PodDisruptionBudget"):
        wanted = rendered[selector]["spec"]["selector"]
        assert wanted.get("matchLabels", wanted).items() <= labels.items()
