"""`deploy/kubernetes` by the schemas of Kubernetes, of the operator and of its chart."""

import importlib.resources
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dask_kubernetes.operator import KubeCluster
from dask_kubernetes.operator.controller import controller

from daskmlr import MixedLinearRegression, Model, simulate
from tests.benchmarks.bitwise import different
from tests.deploy.containers import containers
from tests.deploy.slurm import free_port
from tests.objects import servers

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
CHART = importlib.resources.files("dask_kubernetes").joinpath(
    "operator/deployment/helm/dask-kubernetes-operator"
)
MANIFESTS = ("base.yaml", "job.yaml", "cluster.yaml")
VERSION = "1.30.0"  # the oldest that is meant to work; the newest is tried too


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def only(name, kind):
    (found,) = (document for document in documents(name) if document["kind"] == kind)
    return found


JOB, CLUSTER = only("job.yaml", "DaskJob"), only("cluster.yaml", "DaskCluster")


def as_the_operator_makes_them():
    """What the operator creates of the custom resources, by its own functions."""
    made = {}
    for resource, cluster in ((JOB, JOB["spec"]["cluster"]), (CLUSTER, CLUSTER)):
        name, spec, labels = resource["metadata"]["name"], cluster["spec"], {}
        made[f"{name} scheduler"] = controller.build_scheduler_deployment_spec(
            name, spec["scheduler"]["spec"], {}, labels
        )
        made[f"{name} service"] = controller.build_scheduler_service_spec(
            name, spec["scheduler"]["service"], {}, labels
        )
        made[f"{name} worker"] = controller.build_worker_deployment_spec(
            f"{name}-default", "daskmlr", name, "0", spec["worker"]["spec"], {}, labels
        )
    made["job"] = controller.build_job_pod_spec(
        JOB["metadata"]["name"], JOB["metadata"]["name"], "daskmlr", JOB["spec"]["job"]["spec"],
        {}, {},
    )  # fmt: skip
    return made


MADE = as_the_operator_makes_them()
PODS = {
    name: made["spec"].get("template", made)["spec"]
    for name, made in MADE.items()
    if made["kind"] != "Service"
}


def strict(schema):
    """Refuse what the operator's schema does not name: Kubernetes would drop it in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        schema["type"] = ["integer", "string"]
    return schema


@pytest.mark.parametrize("document", [JOB, CLUSTER], ids=["DaskJob", "DaskCluster"])
def test_custom_resources_keep_to_the_operators_schema(document):
    file = CHART / "crds" / f"{document['kind'].lower()}.yaml"
    versions = {
        version["name"]: version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for version in yaml.safe_load(file.read_text())["spec"]["versions"]
    }
    version = document["apiVersion"].removeprefix("kubernetes.dask.org/")
    check = jsonschema.Draft7Validator(strict(versions[version]))
    assert [error.message for error in check.iter_errors(document["spec"])] == []


@pytest.mark.parametrize("version", [VERSION, kubernetes_validate.latest_version()])
def test_what_kubernetes_is_asked_for_is_valid(version):
    given = [
        document
        for name in MANIFESTS
        for document in documents(name)
        if not document["apiVersion"].startswith("kubernetes.dask.org/")
    ]
    assert len(given) == 3
    for document in [*given, *MADE.values()]:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_pods_run_as_nobody_on_a_root_they_cannot_write_to(name):
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    user = pod["securityContext"]["runAsUser"]
    assert f"USER {user}\n" in (FOLDER / "Dockerfile").read_text()
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert (
            f"USER {pod['securityContext']['runAsUser']}\n" in (FOLDER / "Dockerfile").read_text()
        )


def test_secrets_are_named_and_not_held():
    for name in MANIFESTS:
        assert "Secret" not in [document["kind"] for document in documents(name)]
    for pod in PODS.values():
        for variable in (each for c in pod["containers"] for each in c.get("env", [])):
            assert not {"KEY", "SECRET", "TOKEN"} & set(variable["name"].split("_")) or (
                variable["value"].startswith("/tls/")
            )


def test_the_disruption_budget_and_the_network_policy_select_the_pods():
    labels = JOB["metadata"]["labels"]
    policy = only("base.yaml", "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert CLUSTER["metadata"]["labels"] == labels
    budget = only("job.yaml", "PodDisruptionBudget")["spec"]
    (components,) = budget["selector"]["matchExpressions"]
    protected = [
        made["metadata"]["labels"]
        for made in MADE.values()
        if made["kind"] != "Service"
        and made["metadata"]["labels"]["dask.org/component"] in components["values"]
        and budget["selector"]["matchLabels"].items() <= made["metadata"]["labels"].items()
    ]
    assert len(protected) == budget["minAvailable"]


def test_values_are_of_the_chart():
    def unknown(given, known, place=""):
        for name, value in given.items():
            if name not in known:
                yield place + name
            elif isinstance(value, dict) and known[name]:
                yield from unknown(value, known[name], f"{place}{name}.")

    given = yaml.safe_load((FOLDER / "operator-values.yaml").read_text())
    assert list(unknown(given, yaml.safe_load((CHART / "values.yaml").read_text()))) == []


def test_options_are_of_the_class():
    options = yaml.safe_load((FOLDER / "options.yaml").read_text())
    assert set(options) <= set(inspect.signature(KubeCluster).parameters)
    assert (FOLDER.parents[1] / options["custom_cluster_spec"]).samefile(FOLDER / "cluster.yaml")


def test_the_dockerfile_is_linted():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(servers.missing() is not None, reason=str(servers.missing()))
def test_the_commands_of_the_job_fit_from_a_bucket(tmp_path, monkeypatch):
    make_certificate(tmp_path)
    cluster = {
        name: pod["containers"][0]
        for name, pod in PODS.items()
        if name == "job" or name.startswith(JOB["metadata"]["name"])
    }
    with servers.seaweed() as s3:
        for name in servers.VARIABLES:  # as the secret gives them
            monkeypatch.setenv(name, s3.environment()[name])
        bucket = s3.make_bucket("trips")
        tasks = simulate(
            f"{bucket}/trips.daskmlr", n_components=2, n_features=3, task_groups=[(3000, 6)],
            random_state=0, block_bytes=40 * 1500,
        )  # fmt: skip
        here = {
            "s3://bucket": bucket,
            "^/tls": tmp_path,
            "daskmlr-fit-scheduler": "127.0.0.1",
            **{port: free_port() for port in ("8786", "8787", "8788")},
            "address=:": "address=127.0.0.1:",
            "/tmp$": tmp_path,
            "GiB$": "00MiB",
            "components=8": "components=2",
        }
        with containers(here, tmp_path) as on_this_machine:
            for name in ("daskmlr-fit scheduler", "daskmlr-fit worker"):
                on_this_machine.start(name, *command_of(cluster[name]))
            done = on_this_machine.run(*command_of(cluster["job"]))
            assert done.returncode == 0, done.stderr
        assert "Scheduler at:     tls://" in (tmp_path / "daskmlr-fit scheduler.log").read_text()
        alone = MixedLinearRegression(2, random_state=0).fit(tasks, client="sync").model_
        assert not different(alone, Model.load(f"{bucket}/trips.model"))


def command_of(container):
    environment = {each["name"]: each["value"] for each in container["env"]}
    return container["args"], environment


def make_certificate(folder):
    """As the README says."""
    readme = (FOLDER / "README.md").read_text()
    command = next(line for line in readme.splitlines() if line.startswith("openssl"))
    subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "tls.crt", folder / "ca.crt")
