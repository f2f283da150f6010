"""charts/whimbrel with the real helm: lint, JSON Schemas of several Kubernetes versions, values that are refused, and a life
of a release against an API server that keeps objects in memory (fakekube.py). No pod runs: what this proves is that a
server would take the objects, not that they work."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "charts" / "whimbrel"
TOOLS = pathlib.Path(os.environ["WHIMBREL_DEPLOY_TOOLS"])
VERSIONS = ["1.25", "1.28", "1.31", "1.34", "1.37"]
MONITORING = ["--api-versions", "monitoring.coreos.com/v1"]
NEEDED = {
    "database.existingSecret": "cluster-app",
    "amqp.existingSecret": "broker-default-user",
    "api.httpBasic.existingSecret": "users",
}
# Sets of values that turn on what is off by default.
VARIANTS = {
    "default": {},
    "everything": {
        "api.autoscaling.enabled": "true",
        "api.ingress.enabled": "true",
        "api.ingress.host": "whimbrel.example",
        "api.ingress.tlsSecret": "tls",
        "api.ingress.annotations.a": "b",
        "api.config.max_limit": "50",
        "api.priorityClassName": "high",
        "commonLabels.team": "cloud",
        "commonAnnotations.note": "x",
        "compute.imageUrl.existingSecret": "image-url",
        "compute.libvirt.virt_type": "kvm",
        "imagePullSecrets[0].name": "registry",
        "networkPolicy.apiFrom[0].namespaceSelector.matchLabels.a": "b",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.a": "b",
    },
    "keystone": {
        "api.auth": "keystone",
        "api.keystone.url": "https://keystone.example/v3",
        "api.keystone.username": "whimbrel",
        "api.keystone.existingSecret": "keystone",
    },
    "simulated": {"compute.driver": "fake", "fullnameOverride": "w", "networkPolicy.enabled": "false"},
    "small": {
        "compute.enabled": "false",
        "migrate.enabled": "false",
        "api.pdb.enabled": "false",
        "serviceAccount.create": "false",
        "api.images.existingClaim": "images",
    },
}


def settings(values, needed=NEEDED):
    return [word for key, value in {**needed, **values}.items() for word in ("--set", f"{key}={value}")]


def run(*words, **options):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)


def helm(*words, **options):
    return run(TOOLS / "helm", *words, **options)


def render(values, *more):
    done = helm("template", "rel", CHART, "--namespace", "cloud", *settings(values), *more)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def pods(objects):
    for one in objects:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one["spec"]
        elif "template" in one.get("spec", {}):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def named(objects, kind):
    return [one["metadata"]["name"] for one in objects if one["kind"] == kind]


class Rendered(unittest.TestCase):
    def test_lint_is_strict(self):
        for name, values in VARIANTS.items():
            done = helm("lint", "--strict", CHART, *settings(values))
            self.assertEqual(done.returncode, 0, f"{name}: {done.stdout}{done.stderr}")

    def test_every_version_of_kubernetes_takes_every_object(self):
        count = 0
        for version in VERSIONS:
            for values in VARIANTS.values():
                for one in render(values, "--kube-version", version):
                    kubernetes_validate.validate(one, version, strict=True)
                    count += 1
        self.assertGreater(count, 300)

    def test_older_versions_are_refused(self):
        done = helm("template", "rel", CHART, "--kube-version", "1.24.0", *settings({}))
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("incompatible with Kubernetes v1.24.0", done.stderr)

    def test_objects_of_the_prometheus_operator_come_only_where_it_is(self):
        self.assertEqual(named(render({}), "ServiceMonitor"), [])
        with_it = render({}, *MONITORING)
        self.assertEqual(named(with_it, "ServiceMonitor"), ["rel-whimbrel"])
        rules = [one for one in with_it if one["kind"] == "PrometheusRule"][0]["spec"]["groups"][0]["rules"]
        operations = (ROOT / "docs" / "operations.md").read_text().lower()
        for rule in rules:
            self.assertIn(f"### {rule['alert'].lower()}", operations, "an alert without a runbook")

    def test_no_secret_is_in_a_config_map_or_a_variable(self):
        for values in VARIANTS.values():
            objects = render(values, *MONITORING)
            self.assertEqual(named(objects, "Secret"), [])
            for one in objects:
                if one["kind"] == "ConfigMap":
                    self.assertNotIn("://rel", one["data"]["api.toml"])
                    self.assertNotIn("password =", json.dumps(one))
            for _, pod in pods(objects):
                for variable in pod["containers"][0].get("env", []):
                    self.assertNotIn("secretKeyRef", json.dumps(variable))

    def test_pods_are_restricted(self):
        for name, values in VARIANTS.items():
            for pod_name, pod in pods(render(values)):
                where = f"{name} {pod_name}"
                self.assertFalse(pod["automountServiceAccountToken"], where)
                for container in pod["containers"]:
                    security = container["securityContext"]
                    self.assertTrue(security["readOnlyRootFilesystem"], where)
                    self.assertFalse(security["allowPrivilegeEscalation"], where)
                    self.assertEqual(security["capabilities"]["drop"], ["ALL"], where)
                    self.assertIn("limits", container["resources"], where)
                    self.assertNotIn("privileged", security, where)
                    agent = pod_name.endswith("compute") and values.get("compute.driver") != "fake"
                    if not agent:
                        self.assertTrue(security["runAsNonRoot"], where)
                        self.assertNotIn("add", security["capabilities"], where)
                        self.assertNotIn("hostNetwork", pod, where)

    def test_the_agent_sees_only_what_it_needs_of_the_node(self):
        (agent,) = [pod for name, pod in pods(render({})) if name.endswith("compute")]
        paths = sorted(volume["hostPath"]["path"] for volume in agent["volumes"] if "hostPath" in volume)
        self.assertEqual(paths, ["/run/libvirt", "/var/lib/whimbrel/instances", "/var/lib/whimbrel/state"])
        self.assertNotIn("hostPID", agent)
        self.assertNotIn("WHIMBREL__DATABASE", json.dumps(agent), "a host never sees the database")

    def test_liveness_never_asks_for_broker_or_database(self):
        for name, pod in pods(render({})):
            for container in pod["containers"]:
                if "livenessProbe" in container:
                    self.assertEqual(container["livenessProbe"]["httpGet"]["path"], "/livez", name)

    def test_the_number_of_replicas_is_left_to_the_autoscaler(self):
        (api,) = [one for one in render(VARIANTS["everything"]) if one["kind"] == "Deployment" and one["metadata"]["name"].endswith("api")]
        self.assertNotIn("replicas", api["spec"])

    def test_services_take_the_configuration(self):
        """Each file of the ConfigMap, by the service itself."""
        programs = os.environ.get("WHIMBREL_PROGRAMS")
        if not programs:
            self.skipTest("WHIMBREL_PROGRAMS is not set")
        environment = {
            "WHIMBREL__DATABASE__URL": "postgres://u:p@h/d",
            "WHIMBREL__AMQP__URL": "amqp://u:p@h/v",
            "PATH": os.environ["PATH"],
        }
        for name, values in VARIANTS.items():
            (config,) = [one for one in render(values) if one["kind"] == "ConfigMap"]
            for file, text in config["data"].items():
                service = file.removesuffix(".toml")
                tomllib.loads(text)
                own = dict(environment)
                if service == "compute":
                    del own["WHIMBREL__DATABASE__URL"]
                    own["WHIMBREL__COMPUTE__HOST"] = "node-1"
                with tempfile.TemporaryDirectory() as folder:
                    secret = pathlib.Path(folder, "password")
                    secret.write_text("p")
                    text = text.replace("/run/secrets/whimbrel/keystone/password", str(secret))
                    path = pathlib.Path(folder, file)
                    path.write_text(text)
                    done = run(pathlib.Path(programs, f"whimbrel-{service}"), "config", "check", "--config", path, env=own)
                self.assertEqual(done.returncode, 0, f"{name} {service}: {done.stderr}")


class Refused(unittest.TestCase):
    def refused(self, values, *said, needed=NEEDED):
        done = helm("template", "rel", CHART, *settings(values, needed))
        self.assertNotEqual(done.returncode, 0, f"{values} was taken")
        for words in said:
            self.assertIn(words, done.stderr)

    def test_credentials_that_are_missing(self):
        for key in NEEDED:
            self.refused({key: ""}, f"{key} is missing")

    def test_credentials_in_values(self):
        self.refused({"api.config.keystone_password": "x"}, "credentials do not belong into values")
        self.refused({"compute.config.image_url": "http://u:p@h"}, "credentials do not belong into values")

    def test_keys_that_are_not_known(self):
        self.refused({"api.replcas": "3"}, "/api", "'replcas' not allowed")
        self.refused({"databse.existingSecret": "x"}, "'databse' not allowed")

    def test_values_of_the_wrong_kind(self):
        self.refused({"management.port": "abc"}, "/management/port", "want integer")
        self.refused({"management.port": "70000"}, "/management/port", "maximum")
        self.refused({"api.replicas": "-1"}, "/api/replicas", "minimum")
        self.refused({"compute.driver": "xen"}, "/compute/driver", "'libvirt', 'fake'")
        self.refused({"compute.instancesPath": "instances"}, "/compute/instancesPath")
        self.refused({"api.resources.limits.memory": "lots"}, "/api/resources/limits/memory")

    def test_combinations_that_can_not_work(self):
        self.refused({"api.auth": "keystone"}, "api.keystone needs url, username and existingSecret")
        self.refused({"api.ingress.enabled": "true"}, "api.ingress.host is missing")
        self.refused({"api.autoscaling.enabled": "true", "api.autoscaling.minReplicas": "9"}, "minReplicas is larger")


class Life(unittest.TestCase):
    """Install, upgrade, roll back, test and uninstall, with and without the Prometheus operator."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def cluster(self, *without):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = open(pathlib.Path(self.folder.name, f"{port}.log"), "w+")
        self.addCleanup(self.log.close)
        server = subprocess.Popen([sys.executable, HERE / "fakekube.py", str(port), *without], stdout=self.log, stderr=self.log)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        config = pathlib.Path(self.folder.name, f"{port}.yaml")
        config.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        }))
        self.environment = {**os.environ, "KUBECONFIG": str(config), "HOME": self.folder.name}
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        self.fail("the API server did not start")

    def good(self, *words):
        done = helm(*words, "--namespace", "cloud", env=self.environment)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stdout}{done.stderr}")
        return done.stdout

    def get(self, kind, name=None):
        words = [TOOLS / "kubectl", "get", kind, *([name] if name else []), "-n", "cloud", "-o", "json"]
        done = run(*words, env=self.environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def replicas(self):
        return self.get("deployment", "rel-whimbrel-conductor")["spec"]["replicas"]

    def test_with_the_prometheus_operator(self):
        self.cluster()
        said = self.good("install", "rel", CHART, "--disable-openapi-validation", *settings({}))
        self.assertIn("helm test rel", said)
        names = sorted(one["metadata"]["name"] for one in self.get("deployments")["items"])
        self.assertEqual(names, ["rel-whimbrel-api", "rel-whimbrel-conductor", "rel-whimbrel-scheduler"])
        self.assertEqual(len(self.get("daemonsets")["items"]), 1)
        self.assertEqual(len(self.get("servicemonitors")["items"]), 1)
        self.assertEqual(len(self.get("poddisruptionbudgets")["items"]), 3)
        self.assertEqual(self.get("jobs")["items"], [], "the migration is removed once it has succeeded")
        first = self.log_of("jobs")
        self.assertGreater(first, 0, "the migration has run")
        self.good("upgrade", "rel", CHART, "--disable-openapi-validation", *settings({"conductor.replicas": "3"}))
        self.assertEqual(self.replicas(), 3)
        self.assertGreater(self.log_of("jobs"), first, "an upgrade migrates, too")
        self.good("rollback", "rel", "1")
        self.assertEqual(self.replicas(), 2)
        self.good("test", "rel")
        self.good("uninstall", "rel")
        for kind in ("deployments", "daemonsets", "configmaps", "services", "networkpolicies", "servicemonitors", "prometheusrules"):
            self.assertEqual(self.get(kind)["items"], [], kind)
        self.assertEqual(len(self.get("persistentvolumeclaims")["items"]), 1, "images outlive the release")

    def test_without_it(self):
        self.cluster("monitoring.coreos.com")
        said = self.good("install", "rel", CHART, "--disable-openapi-validation", *settings({}))
        self.assertIn("no Prometheus operator", said)
        self.good("uninstall", "rel")

    def test_a_refused_upgrade_leaves_the_release_as_it_was(self):
        self.cluster()
        self.good("install", "rel", CHART, "--disable-openapi-validation", *settings({}))
        values = settings({"conductor.replicas": "many"})
        done = helm("upgrade", "rel", CHART, *values, "--namespace", "cloud", env=self.environment)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("/conductor/replicas", done.stderr)
        self.assertEqual(self.replicas(), 2)

    def log_of(self, kind):
        self.log.flush()
        text = pathlib.Path(self.log.name).read_text()
        # Made by POST, or applied by PATCH.
        made = re.compile(rf"^(POST|PATCH) \S+/{kind}(/\S+)? 20[01]")
        return sum(made.match(line) is not None for line in text.splitlines())


if __name__ == "__main__":
    unittest.main(verbosity=2)
