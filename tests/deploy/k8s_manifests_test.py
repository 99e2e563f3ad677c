"""Every manifest of deploy/k8s against the schemas of a current Kubernetes, strictly, and against
what the programs understand and one another."""

import copy
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ["SHARDLINE_BIN"])
K8S = ROOT / "deploy" / "k8s"
VERSION = kubernetes_validate.latest_version()
# Optional: the published definition, config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml
# of kubernetes-sigs/lws. No package that a test could install has it.
LWS_CRD = os.environ.get("SHARDLINE_LWS_CRD")

# The parts of LeaderWorkerSet v1 that are not pods, with no field beside them.
INT_OR_PERCENT = {"type": ["integer", "string"]}
LEADER_WORKER_SET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["leaderWorkerTemplate"],
    "properties": {
        "replicas": {"type": "integer", "minimum": 0},
        "startupPolicy": {"enum": ["LeaderCreated", "LeaderReady"]},
        "rolloutStrategy": {
            "type": "object", "additionalProperties": False, "required": ["type"],
            "properties": {
                "type": {"const": "RollingUpdate"},
                "rollingUpdateConfiguration": {
                    "type": "object", "additionalProperties": False,
                    "properties": {"maxSurge": INT_OR_PERCENT, "maxUnavailable": INT_OR_PERCENT,
                                   "partition": {"type": "integer"}}}}},
        "networkConfig": {
            "type": "object", "additionalProperties": False,
            "properties": {"subdomainPolicy": {"enum": ["Shared", "UniquePerReplica"]}}},
        "leaderWorkerTemplate": {
            "type": "object", "additionalProperties": False, "required": ["workerTemplate"],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "restartPolicy": {"enum": ["Default", "RecreateGroupOnPodRestart",
                                           "RecreateGroupAfterStart", "None"]},
                "leaderTemplate": {"type": "object"},
                "workerTemplate": {"type": "object"}}}}}
SERVICE_MONITOR = {
    "type": "object", "additionalProperties": False, "required": ["selector", "endpoints"],
    "properties": {
        "jobLabel": {"type": "string"},
        "selector": {"type": "object", "additionalProperties": False,
                     "properties": {"matchLabels": {"type": "object"}}},
        "endpoints": {"type": "array", "items": {
            "type": "object", "additionalProperties": False,
            "properties": {key: {"type": "string"} for key in ("port", "path", "interval")}}}}}


def closed(schema):
    """The schema, and no field beside those that it names."""
    made = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = closed(made[key])
    if "properties" in made:
        made["properties"] = {name: closed(one) for name, one in made["properties"].items()}
        if not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    return made


def documents():
    for path in sorted(K8S.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.relative_to(ROOT), document


def kustomizations():
    return [(path, doc) for path, doc in documents() if doc["kind"] == "Kustomization"]


def manifests():
    return [(path, doc) for path, doc in documents() if doc["kind"] != "Kustomization"]


def pod_template(document):
    spec = document["spec"]
    return (spec["leaderWorkerTemplate"]["workerTemplate"] if document["kind"] == "LeaderWorkerSet"
            else spec.get("template"))


def pods():
    return [(path, doc, pod_template(doc)) for path, doc in manifests()
            if isinstance(doc.get("spec"), dict) and pod_template(doc)]


def named(kind):
    return {doc["metadata"]["name"]: doc for _, doc in manifests() if doc["kind"] == kind}


def variables_of_programs():
    found = {"SHARDLINE_POD"}  # of the image's shardline-replica
    for command in (["shardline-coordinator"], ["shardline-worker"], ["shardline", "health"]):
        text = subprocess.run([BIN / command[0], *command[1:], "--help"], capture_output=True,
                              text=True, check=True).stdout
        found |= set(re.findall(r"\(Env:(\w+)\)", text))
    return found


class Manifests(unittest.TestCase):
    def test_published_schemas(self):
        checked = 0
        for path, document in manifests():
            with self.subTest(path=str(path), kind=document["kind"]):
                if document["kind"] == "LeaderWorkerSet":
                    self.assertEqual(document["apiVersion"], "leaderworkerset.x-k8s.io/v1")
                    jsonschema.validate(document["spec"], LEADER_WORKER_SET)
                    document = {"apiVersion": "v1", "kind": "Pod", **pod_template(document)}
                elif document["kind"] == "ServiceMonitor":
                    jsonschema.validate(document["spec"], SERVICE_MONITOR)
                    continue
                kubernetes_validate.validate(document, VERSION, strict=True)
                checked += 1
        self.assertGreater(checked, 10)

    @unittest.skipUnless(LWS_CRD, "SHARDLINE_LWS_CRD names no CustomResourceDefinition")
    def test_leader_worker_set_as_published(self):
        definition = yaml.load(pathlib.Path(LWS_CRD).read_text(),
                               getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        schema, = (version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"]
                   if version["name"] == "v1")
        document = named("LeaderWorkerSet")["shardline-replica"]
        jsonschema.validate(document, closed(schema))
        for path in (("spec",), ("spec", "leaderWorkerTemplate", "workerTemplate", "spec")):
            wrong = copy.deepcopy(document)
            inner = wrong
            for key in path:
                inner = inner[key]
            inner["replicaz"] = 1
            with self.assertRaises(jsonschema.ValidationError):
                jsonschema.validate(wrong, closed(schema))

    def test_schemas_are_strict(self):
        _, document, _ = pods()[0]
        document["spec"]["replicaz"] = 1
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, VERSION, strict=True)

    def test_every_file_is_used(self):
        listed = set()
        for path, document in kustomizations():
            for resource in document["resources"]:
                target = (ROOT / path).parent / resource
                self.assertTrue(target.exists(), (path, resource))
                listed.add(target.resolve())
        for path, _ in manifests():
            self.assertIn((ROOT / path).resolve(), listed)

    def test_names_meet(self):
        settings, volumes = named("ConfigMap"), named("PersistentVolumeClaim")
        accounts, services = named("ServiceAccount"), named("Service")
        secret_keys = set(re.findall(r"--from-file=(\S+)", (K8S / "base/settings.yaml").read_text()))
        understood = variables_of_programs()
        for path, _, pod in pods():
            spec, (container,) = pod["spec"], pod["spec"]["containers"]
            self.assertIn(spec["serviceAccountName"], accounts)
            given = {}
            for source in container["envFrom"]:
                given |= settings[source["configMapRef"]["name"]]["data"]
            given |= {entry["name"]: entry.get("value") for entry in container["env"]}
            self.assertEqual(set(given) - understood, set(), path)
            own = {volume["name"]: volume for volume in spec["volumes"]}
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            self.assertEqual(set(own), set(mounts), path)
            self.assertIn(own["model"]["persistentVolumeClaim"]["claimName"], volumes)
            self.assertTrue(given["SHARDLINE_MODEL"].startswith(mounts["model"] + "/"))
            for name, value in given.items():
                if value and value.startswith("/security/"):
                    self.assertIn(value.removeprefix("/security/"), secret_keys, name)
            if "SHARDLINE_COORDINATOR" in given:
                host, port = given["SHARDLINE_COORDINATOR"].split(":")
                self.assertTrue(services[host]["spec"]["publishNotReadyAddresses"])
                self.assertEqual(services[host]["spec"]["ports"][0]["port"], int(port))

    def test_selectors_meet(self):
        labels = [pod["metadata"]["labels"] for _, _, pod in pods()]
        def matches(selector):
            return any(selector.items() <= own.items() for own in labels)
        for name, service in named("Service").items():
            self.assertTrue(matches(service["spec"]["selector"]), name)
        for name, policy in named("NetworkPolicy").items():
            self.assertTrue(matches(policy["spec"]["podSelector"]["matchLabels"]), name)
        for name, budget in named("PodDisruptionBudget").items():
            self.assertTrue(matches(budget["spec"]["selector"]["matchLabels"]), name)
        monitor = named("ServiceMonitor")["shardline"]["spec"]
        watched = [s for s in named("Service").values()
                   if monitor["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
        self.assertEqual(len(watched), 1)
        self.assertIn(monitor["endpoints"][0]["port"],
                      [port["name"] for port in watched[0]["spec"]["ports"]])

    def test_pods_are_restricted(self):
        for path, _, pod in pods():
            spec, (container,) = pod["spec"], pod["spec"]["containers"]
            self.assertTrue(spec["securityContext"]["runAsNonRoot"], path)
            self.assertFalse(spec["automountServiceAccountToken"], path)
            own = container["securityContext"]
            self.assertTrue(own["readOnlyRootFilesystem"], path)
            self.assertFalse(own["allowPrivilegeEscalation"], path)
            self.assertEqual(own["capabilities"], {"drop": ["ALL"]}, path)

    def test_a_drain_ends_before_the_grace_period(self):
        drain = int(named("ConfigMap")["shardline-settings"]["data"]["SHARDLINE_DRAIN_TIMEOUT"])
        grace = named("Deployment")["shardline-coordinator"]["spec"]["template"]["spec"]
        self.assertGreaterEqual(grace["terminationGracePeriodSeconds"], drain + 10)

    def test_the_ranks_of_a_pod_have_its_gpus(self):
        template = pod_template(named("LeaderWorkerSet")["shardline-replica"])
        container = template["spec"]["containers"][0]
        ranks = next(e["value"] for e in container["env"] if e["name"] == "SHARDLINE_RANKS_ON_HOST")
        self.assertEqual(container["resources"]["limits"]["nvidia.com/gpu"], ranks)

    def test_each_rank_of_a_pod_has_its_own_gpu(self):
        """The second of two pods of three ranks, with a worker that only notes how it is called."""
        with tempfile.TemporaryDirectory() as folder:
            worker, calls = pathlib.Path(folder) / "shardline-worker", pathlib.Path(folder) / "calls"
            worker.write_text(f'#!/bin/sh\necho "$@" >>{calls}\nexec tail -f /dev/null\n')
            worker.chmod(0o755)
            process = subprocess.Popen(
                [ROOT / "deploy/container/shardline-replica"],
                env={"PATH": f"{folder}:{os.environ['PATH']}", "SHARDLINE_BOOTSTRAP": "coordinator",
                     "SHARDLINE_RANKS_ON_HOST": "3", "SHARDLINE_POD": "1",
                     "SHARDLINE_TENSOR_PARALLEL_SIZE": "3", "SHARDLINE_PIPELINE_PARALLEL_SIZE": "2"})
            deadline = time.time() + 20
            while (not calls.exists() or calls.read_text().count("\n") < 3) and time.time() < deadline:
                time.sleep(0.02)
            process.terminate()
            process.wait(timeout=20)
            self.assertEqual(sorted(calls.read_text().splitlines()),
                             [f"--rank {3 + i} --world-size 6 --first-rank-on-host {i}"
                              for i in range(3)])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
