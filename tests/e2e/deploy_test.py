#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What deploy/ says against what there is: every metric, label, option, library and alert that is named in it exists, its files
parse, its rules are those that promtool tests, its figures agree with each other.

usage: deploy_test.py [PROGRAM]       run from anywhere; with `weir` the names are compared with a live server as well
A part for which a tool is missing says SKIP and is not counted.
"""
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
import served  # noqa: E402

try:
    import yaml
except ImportError:
    yaml = None

DEPLOY = os.path.join(ROOT, "deploy")
failures, skipped = [], []


def read(*path):
    with open(os.path.join(DEPLOY, *path), encoding="utf-8") as f:
        return f.read()


def check(is_so, what):
    if not is_so:
        failures.append(what)
        print("FAILED", what, flush=True)
    return is_so


def skip(what):
    skipped.append(what)
    print("SKIP  ", what, flush=True)


def run(*command, cwd=None, **kw):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, **kw)


# ---- files ----

def strict_loader():
    """A key given twice is an error, as YAML has it, and not the later one in silence."""
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(k, deep=True) for k, _ in node.value]
            for k in keys:
                if keys.count(k) > 1:
                    raise yaml.YAMLError(f"{k!r} twice in line {node.start_mark.line + 1}")
            return super().construct_mapping(node, deep)
    return Strict


def documents(path):
    with open(os.path.join(DEPLOY, path), encoding="utf-8") as f:
        return [d for d in yaml.load_all(f, strict_loader()) if d is not None]


def files_parse():
    for path in sorted(glob.glob("**/*.json", root_dir=DEPLOY, recursive=True)):
        try:
            json.loads(read(path))
        except ValueError as e:
            check(False, f"{path}: {e}")
    if not yaml:
        skip("YAML: package python3-yaml is not installed")
        return
    for path in sorted(glob.glob("**/*.y*ml", root_dir=DEPLOY, recursive=True)):
        try:
            check(documents(path), f"{path}: nothing in it")
        except yaml.YAMLError as e:
            check(False, f"{path}: {e}")


# ---- metrics ----

def expressions():
    """[(where, PromQL)] of rules and board."""
    out = [(f"board, panel {p['title']!r}", t["expr"]) for p in board()["panels"] for t in p.get("targets", [])]
    if yaml:
        for group in documents("prometheus/alerts.yml")[0]["groups"]:
            out += [(f"alerts.yml, {r.get('alert') or r.get('record')}", r["expr"]) for r in group["rules"]]
    return out


def board():
    return json.loads(read("grafana", "dashboards", "weir.json"))


NAME = re.compile(r"(?<![a-z_:])weir:[a-z][a-z0-9_]*")
SELECTOR = re.compile(r"(?<![a-z_:])(weir:[a-z][a-z0-9_]*)(?:\{([^}]*)\})?")


def named_metrics():
    names = {}
    for where, text in [*expressions(), *((f, read(f)) for f in ("RUNBOOK.md", "prometheus/alerts.yml", "k8s/hpa.example.yaml", "grafana/dashboards/weir.json"))]:
        for n in NAME.findall(text):
            names.setdefault(n, where)
    return names


def in_source():
    """Families that the sources name, in string literals."""
    out = set()
    for path in glob.glob(os.path.join(ROOT, "engine", "**", "*.c"), recursive=True):
        with open(path, encoding="utf-8") as f:
            out |= set(re.findall(r'"(weir:[a-z][a-z0-9_]*)"', f.read()))
    return out


def family(name, known):
    for end in ("", "_bucket", "_sum", "_count"):
        if name.endswith(end) and name[: len(name) - len(end)] in known:
            return name[: len(name) - len(end)]
    return None


def metrics_exist():
    known = in_source()
    check(len(known) > 30, f"only {len(known)} metrics found in the sources")
    names = named_metrics()
    check(len(names) > 20, f"only {len(names)} metrics found in deploy/")
    for name, where in sorted(names.items()):
        check(family(name, known), f"{where}: there is no metric {name}")


def exposition(text):
    """{sample name: [{label: value}]} and {family: type}."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            types[name] = kind
        elif line and not line.startswith("#"):
            m = re.match(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ', line)
            if check(m, f"/metrics: {line!r}"):
                samples.setdefault(m[1], []).append(dict(re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', m[2] or "")))
    return samples, types


def metrics_live(url, opener):
    with opener(url + "metrics") as r:
        text = r.read().decode()
    samples, types = exposition(text)
    if shutil.which("promtool"):
        r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
        errors = [line for line in r.stderr.splitlines() if "metric names should not contain ':'" not in line and "counter metrics should have" not in line
                  and not line.startswith("weir:iteration_tokens_total ")  # vLLM's name for a histogram
                  and "non-histogram and non-summary metrics should not" not in line and "metric name should not include" not in line]
        check(not errors, "promtool check metrics: " + "; ".join(errors[:5]))
    for name, where in sorted(named_metrics().items()):
        end = name if name in samples else family(name, types)
        check(end, f"{where}: a live /metrics has no {name}")
    for where, text in expressions():
        for name, matchers in SELECTOR.findall(text):
            rows = samples.get(name, [])
            for label, op, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
                if label in ("job", "instance"):
                    continue
                check(any(label in row for row in rows), f"{where}: {name} has no label {label}")
                if op == "=":
                    check(any(row.get(label) == value for row in rows), f"{where}: {name} has no {label}={value!r}")
        for labels in re.findall(r"\bby \(([^)]*)\)", text):
            for label in re.split(r",\s*", labels.strip()):
                check(label in ("instance", "le", "engine") or any(label in row for name, _ in SELECTOR.findall(text) for row in samples.get(name, []))
                      or "model:weir" in text, f"{where}: grouped by {label}, which none of its metrics has")
    return len(samples)


# ---- rules, board ----

def rules_hold():
    if not shutil.which("promtool"):
        skip("rules: promtool (package prometheus) is not installed")
        return
    at = os.path.join(DEPLOY, "prometheus")
    for what in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml"), ("check", "config", "--syntax-only", "prometheus.yml")):
        r = run("promtool", *what, cwd=at)
        check(r.returncode == 0, f"promtool {' '.join(what)}: {r.stdout}{r.stderr}")
    with tempfile.TemporaryDirectory() as d:  # Grafana's expressions as rules, to have them parsed
        lines = ["groups:", "  - name: board", "    rules:"]
        for i, (_, text) in enumerate(e for e in expressions() if e[0].startswith("board")):
            text = text.replace("$__rate_interval", "1m").replace("$model", ".*")
            lines += [f"      - record: r{i}", "        expr: " + json.dumps(text)]
        with open(os.path.join(d, "board.yml"), "w") as f:
            f.write("\n".join(lines) + "\n")
        r = run("promtool", "check", "rules", "board.yml", cwd=d)
        check(r.returncode == 0, f"expressions of the board: {r.stdout}{r.stderr}")


def alerts_are_told():
    alerts = set(re.findall(r"^ *- alert: (\w+)", read("prometheus", "alerts.yml"), re.M))
    check(len(alerts) > 10, f"only {len(alerts)} alerts")
    sections = set(re.findall(r"^### (Weir\w+)", read("RUNBOOK.md"), re.M))
    check(alerts == sections, f"alerts without a section of the runbook: {sorted(alerts - sections)}; sections without an alert: {sorted(sections - alerts)}")
    tested = read("prometheus", "alerts_test.yml")
    for a in sorted(alerts):
        check(f'alertname="{a}"' in tested or re.search(rf"alertname: {a}\n +eval_time: \w+\n +exp_alerts", tested), f"{a} never fires in alerts_test.yml")
        check(f"runbook: deploy/RUNBOOK.md#{a.lower()}" in read("prometheus", "alerts.yml"), f"{a} does not name its section")


def board_is_sound():
    b = board()
    ids = [p["id"] for p in b["panels"]]
    check(len(ids) == len(set(ids)), "two panels have one id")
    taken = {}
    for p in b["panels"]:
        g = p["gridPos"]
        check(g["x"] + g["w"] <= 24, f"panel {p['title']!r} is off the board")
        for x in range(g["x"], g["x"] + g["w"]):
            for y in range(g["y"], g["y"] + g["h"]):
                check((x, y) not in taken, f"panels {p['title']!r} and {taken.get((x, y))!r} overlap")
                taken[x, y] = p["title"]
    source = next(v for v in b["templating"]["list"] if v["type"] == "datasource")
    check(f"uid: {source['current']['value']}" in read("grafana", "provisioning", "datasources", "prometheus.yml"), "the board's data source is not the provisioned one")
    check("path: /etc/grafana/dashboards" in read("grafana", "provisioning", "dashboards", "weir.yml")
          and "/etc/grafana/dashboards:ro" in read("compose.yml"), "the provisioned folder of boards is not the one that compose.yml mounts")


# ---- options ----

def options_of(text):
    out = set()
    for no, name in re.findall(r"--(\[no-\])?([a-z][a-z0-9-]*)", text):
        out.add(name)
        if no:
            out.add("no-" + name)
    return out


def options_exist(program):
    """Options named in command lines, and whole configurations, by the program's own word."""
    serve = options_of(served.help_of(program))
    gateway = os.path.join(os.path.dirname(program), "weir-gateway")
    gateway = options_of(run(gateway, "--help").stdout) if os.path.exists(gateway) else set()
    lines = []
    for path in ("Dockerfile", "Dockerfile.cuda"):
        lines += [(path, m) for m in re.findall(r'^CMD \[(.*)\]', read(path), re.M)]
    lines += [("compose.yml", m) for m in re.findall(r"^ *command: \[serve,(.*)\]", read("compose.yml"), re.M)]
    lines += [("k8s/deployment.yaml", m) for m in re.findall(r"^ *args: \[serve,(.*)\]", read("k8s/deployment.yaml"), re.M)]
    lines += [("systemd/weir.service", m) for m in re.findall(r"^ExecStart=\S*/weir serve (.*)", read("systemd/weir.service"), re.M)]
    lines += [("RUNBOOK.md", m) for m in re.findall(r"^    weir serve (.*?)(?:#|$)", read("RUNBOOK.md"), re.M)]
    lines += [(f, m) for f in ("slurm/weir.sbatch", "mpi/run.sh") for m in re.findall(r'" serve (.*)"\$@"', read(f))]
    lines += [(f, " ".join(m.replace("#", " ").split("weir.sbatch" if "slurm" in f else "run.sh", 1)[-1].split("\n"))) for f in ("slurm/weir.sbatch", "mpi/run.sh")
              for m in re.findall(r"^# {3}\S.*(?:\\\n#.*)+", read(f), re.M)]
    check(len(lines) >= 11, f"only {len(lines)} command lines of `weir serve` found")
    for where, line in lines:
        for name in options_of(line):
            check(name in serve, f"{where}: `weir serve` has no --{name}")
    lines = [(f, m) for f in ("systemd/weir-gateway.service", "RUNBOOK.md") if os.path.exists(os.path.join(DEPLOY, f))
             for m in re.findall(r"^(?:ExecStart=\S*/|    (?:WEIR_TOKEN=\S+ \S+ )?)weir-gateway (.*?)(?:#|$)", read(f), re.M)]
    for where, line in lines:
        for name in options_of(line) if gateway else ():
            check(name in gateway, f"{where}: weir-gateway has no --{name}")
    everywhere = set(serve | gateway)
    for command in ("eval", "inspect", "run"):
        everywhere |= options_of(served.help_of(program, command) or "")
    others = {"cpunodebind", "membind", "nodes"}  # numactl's, sbatch's
    for name in options_of(re.sub(r"^    .*$", "", read("RUNBOOK.md"), flags=re.M)) - others:
        check(name in everywhere, f"RUNBOOK.md: no program has --{name}")

    configs = {"systemd/weir.yaml": read("systemd", "weir.yaml")}
    if yaml:
        for path in ("k8s/configmap.yaml", "k8s/leaderworkerset.yaml"):
            configs[path] = documents(path)[0]["data"]["weir.yaml"]
    for where, text in configs.items():
        # What is commented out must be right too, once a user takes the sign away.
        text = re.sub(r"^# ([a-z-]+: \S+)$", r"\1", text, flags=re.M)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            f.write(text)
            f.flush()
            r = run(program, "serve", "--config", f.name, "--print-config")
            check(r.returncode == 0, f"{where}: {r.stderr.strip()}")
            for key, value in re.findall(r"^([a-z-]+): *([^#\n]*?) *(?:#.*)?$", text, re.M):
                check(re.search(rf"^{key}: *[\"']?{re.escape(value)}[\"']?\s*(#|$)", r.stdout, re.M), f"{where}: {key}: {value} is not in force")


# ---- images ----

def runtime_packages(path):
    m = re.search(r"--no-install-recommends \\\n +((?:lib[a-z0-9.+-]+ ?)+)", read(path))
    return set(m[1].split()) if m else set()


def images_agree(program):
    cpu = runtime_packages("Dockerfile")
    check(cpu and cpu == runtime_packages("Dockerfile.cuda"), "the two images have different libraries")
    for path in ("Dockerfile", "Dockerfile.cuda"):
        text = read(path)
        check("RUN tools/install_deps.sh build" in text, f"{path} does not build with the packages of tools/install_deps.sh")
        for f in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
            for source in f.split():
                check(os.path.exists(os.path.join(ROOT, source)), f"{path}: COPY {source}: not in the repository")
        check("USER 10001:10001" in text and "STOPSIGNAL SIGTERM" in text and "HEALTHCHECK" in text, f"{path}: user, signal or health check is missing")
    if not program:
        return
    if not shutil.which("dpkg-query"):
        skip("libraries of the images: not a Debian system")
        return
    wanted = set()
    for name in ("weir", "weir-gateway"):
        file = os.path.join(os.path.dirname(program), name)
        if not os.path.exists(file):
            skip(f"libraries of the images: {name} was not built")
            return
        # What the program itself names; what those need, apt knows.
        needed = set(re.findall(r"NEEDED.*\[(\S+)\]", run("readelf", "-d", file).stdout))
        check(needed, f"{name}: readelf shows no libraries")
        libs = [path for soname, path in re.findall(r"(\S+) => (/\S+)", run("ldd", file).stdout) if soname in needed]
        for lib in libs:
            for path in (lib, os.path.realpath(lib), os.path.realpath("/usr" + lib)):
                r = run("dpkg-query", "-S", path)
                if r.returncode == 0:
                    wanted.add(r.stdout.split(":")[0])
                    break
            else:
                check(False, f"no package owns {lib}")
    wanted -= {"libc6", "libgcc-s1", "libasan8", "libubsan1", "libstdc++6"}
    check(wanted == cpu, f"libraries of the image that nothing asks for: {sorted(cpu - wanted)}; that are missing: {sorted(wanted - cpu)}")


def health_check(url):
    for path in ("Dockerfile", "Dockerfile.cuda"):
        command = json.loads(re.search(r"HEALTHCHECK[^\n]*\\\n +CMD (\[.*\])", read(path))[1])
        port = url.rstrip("/").rsplit(":", 1)[1]
        r = run(*[a.replace("/8000", "/" + port) for a in command])
        check(r.returncode == 0, f"{path}: the health check of a live server: {r.stderr}")
        r = run(*[a.replace("/8000", "/1") for a in command])
        check(r.returncode != 0, f"{path}: the health check of nobody")
        r = run(*[a.replace("/8000", "/" + port).replace("GET /health", "GET /nothing-there") for a in command])
        check(r.returncode != 0, f"{path}: the health check of an answer that is not 200")


def run_lines_are_shell():
    if not shutil.which("shellcheck"):
        skip("RUN lines: shellcheck is not installed")
        return
    for path in ("Dockerfile", "Dockerfile.cuda"):
        text = re.sub(r"\\\n", " ", read(path))
        for line in re.findall(r"^RUN (.*)$", text, re.M):
            r = subprocess.run(["shellcheck", "-s", "sh", "-e", "SC2086,SC2154", "-"], input=line + "\n", capture_output=True, text=True, timeout=60)
            check(r.returncode == 0, f"{path}: RUN {line}: {r.stdout}")


# ---- units, manifests ----

def seconds(text):
    m = re.fullmatch(r"(\d+)(s|min|m)?", str(text))
    return int(m[1]) * (60 if m[2] in ("min", "m") else 1)


def units_verify():
    unit = read("systemd", "weir.service")
    drain = int(re.search(r"^drain-timeout: (\d+)", read("systemd", "weir.yaml"), re.M)[1])
    check(seconds(re.search(r"^TimeoutStopSec=(\S+)", unit, re.M)[1]) > drain + 10, "TimeoutStopSec is not above drain-timeout")
    if not shutil.which("systemd-analyze"):
        skip("units: systemd-analyze is not installed")
        return
    for path in sorted(glob.glob(os.path.join(DEPLOY, "systemd", "*.service"))):
        r = run("systemd-analyze", "verify", "--man=no", path)
        said = [line for line in r.stderr.splitlines() if os.path.basename(path) in line and "is not executable: No such file" not in line]
        check(not said, f"systemd-analyze verify: {said}")
        r = run("systemd-analyze", "security", "--offline=yes", path)
        m = re.search(r"Overall exposure level for \S+: ([0-9.]+)", r.stdout)
        if m:
            check(float(m[1]) <= 2.0, f"{os.path.basename(path)}: exposure {m[1]}")


def manifests_agree():
    if not yaml:
        return
    kinds = {}
    for path in sorted(glob.glob("k8s/*.yaml", root_dir=DEPLOY)):
        for d in documents(path):
            if path != "k8s/kustomization.yaml":
                check(d.get("apiVersion") and d.get("kind") and d.get("metadata", {}).get("name"), f"{path}: no apiVersion, kind or name")
                if path != "k8s/leaderworkerset.yaml": # on its own: leader_and_workers
                    kinds[d["kind"]] = d
    listed = documents("k8s/kustomization.yaml")[0]["resources"]
    for f in listed:
        check(os.path.exists(os.path.join(DEPLOY, "k8s", f)), f"kustomization.yaml: no {f}")
    deployment = kinds["Deployment"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for what, selector in (("Deployment", deployment["spec"]["selector"]["matchLabels"]), ("Service", kinds["Service"]["spec"]["selector"]),
                           ("PodDisruptionBudget", kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])):
        check(selector.items() <= labels.items(), f"{what} selects {selector}, the pod has {labels}")
    check(kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"], "the autoscaler's target")
    box = pod["spec"]["containers"][0]
    ports = {p["name"]: p["containerPort"] for p in box["ports"]}
    check(kinds["Service"]["spec"]["ports"][0]["targetPort"] in ports, "the Service's port")
    paths = {p: box[p]["httpGet"]["path"] for p in ("startupProbe", "livenessProbe", "readinessProbe")}
    check(paths == {"startupProbe": "/ready", "livenessProbe": "/health", "readinessProbe": "/ready"}, f"probes: {paths}")
    config = yaml.safe_load(kinds["ConfigMap"]["data"]["weir.yaml"])
    check(config["listen"].endswith(":%d" % ports["http"]), "the port of the configuration is not the container's")
    wait = int(box["lifecycle"]["preStop"]["exec"]["command"][1]) + config["drain-timeout"]
    check(pod["spec"]["terminationGracePeriodSeconds"] > wait, f"terminationGracePeriodSeconds is not above {wait}")
    mounts = {m["mountPath"] for m in box["volumeMounts"]}
    for key in ("api-key-file", "runtime-dir"):
        check(any(config[key].startswith(m) for m in mounts), f"{key} is not in a mounted volume")
    check({m["name"] for m in box["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}, "volumes and mounts differ")
    check(config["threads"] == int(box["resources"]["limits"]["cpu"]), "threads are not the CPU limit")

    compose = documents("compose.yml")[0]
    weir = compose["services"]["weir"]
    drain = int(weir["command"][weir["command"].index("--drain-timeout") + 1])
    check(seconds(weir["stop_grace_period"]) > drain + 10, "stop_grace_period is not above --drain-timeout")
    for name, s in compose["services"].items():
        for port in s["ports"]:
            check(port.startswith("127.0.0.1:"), f"compose.yml: {name} is open to the network: {port}")
        for secret in s.get("secrets", []):
            check(secret in compose["secrets"], f"compose.yml: no secret {secret}")
        for v in s.get("volumes", []):
            if v.startswith("./"):
                check(os.path.exists(os.path.join(DEPLOY, v.split(":")[0])), f"compose.yml: {v}")
        if "build" not in s:
            check(re.search(r":v?\d+\.\d+\.\d+$", s["image"]), f"compose.yml: {s['image']} is not pinned")
    target = documents("prometheus/prometheus.yml")[0]["scrape_configs"][0]
    check(target["static_configs"][0]["targets"] == ["weir:8000"] and target["job_name"] == "weir", "prometheus.yml scrapes something else")
    check(os.path.basename(target["authorization"]["credentials_file"]) in compose["services"]["prometheus"]["secrets"], "Prometheus has no key")


def leader_and_workers():
    """The LeaderWorkerSet: one command for all, numbers that go together, what restarts what."""
    if not yaml:
        return
    config, group, service = documents("k8s/leaderworkerset.yaml")
    check([d["kind"] for d in (config, group, service)] == ["ConfigMap", "LeaderWorkerSet", "Service"], "leaderworkerset.yaml has other kinds")
    options = yaml.safe_load(config["data"]["weir.yaml"])
    spec = group["spec"]
    template = spec["leaderWorkerTemplate"]
    check(group["apiVersion"] == "leaderworkerset.x-k8s.io/v1", "the API's version")
    check(template["restartPolicy"] == "None" and spec["startupPolicy"] == "LeaderCreated", "weir gathers its workers itself; the leader is ready when it has")
    leader, worker = template["leaderTemplate"], template["workerTemplate"]
    boxes = [t["spec"]["containers"][0] for t in (leader, worker)]
    for key in ("image", "args", "resources", "volumeMounts", "securityContext"):
        check(boxes[0][key] == boxes[1][key], f"leader and worker differ in {key}")
    check(leader["spec"]["volumes"] == worker["spec"]["volumes"], "leader and worker have other volumes")
    check({m["name"] for m in boxes[0]["volumeMounts"]} == {v["name"] for v in leader["spec"]["volumes"]}, "volumes and mounts differ")
    check(options["launcher"] == "lws" and not {"nnodes", "node-rank", "dist-init-addr"} & set(options), "who is who is LeaderWorkerSet's to say")
    gpus = int(boxes[0]["resources"]["limits"]["nvidia.com/gpu"])
    check(options["large-tp"] == template["size"] * gpus, f"large-tp is not {template['size']} pods of {gpus} GPUs")
    ports = {p["name"]: p["containerPort"] for p in boxes[0]["ports"]}
    check(options["listen"].endswith(":%d" % ports["http"]), "the port of the configuration is not the container's")
    default = re.search(r"WEIR_LAUNCH_PORT = (\d+)", open(os.path.join(ROOT, "engine/programs/launch.h"), encoding="utf-8").read())
    check(ports["dist"] == int(default[1]), "the port of the leader is not the program's default")
    check("livenessProbe" not in boxes[1] and "startupProbe" not in boxes[1], "a worker answers nobody")
    probe = boxes[0]["startupProbe"]
    check(probe["periodSeconds"] * probe["failureThreshold"] > options["dist-timeout"], "the startup probe gives up before dist-timeout")
    wait = int(boxes[0]["lifecycle"]["preStop"]["exec"]["command"][1]) + options["drain-timeout"]
    check(leader["spec"]["terminationGracePeriodSeconds"] > wait, f"terminationGracePeriodSeconds is not above {wait}")
    mounts = {m["mountPath"] for m in boxes[0]["volumeMounts"]}
    for key in ("api-key-file", "runtime-dir", "dist-token-file", "small", "large"):
        check(any(options[key].startswith(m) for m in mounts), f"{key} is not in a mounted volume")
    check(service["spec"]["selector"].items() <= leader["metadata"]["labels"].items(), "the Service does not select the leader")
    check(not service["spec"]["selector"].items() <= worker["metadata"]["labels"].items(), "the Service selects workers")
    check(all(not t["spec"]["enableServiceLinks"] for t in (leader, worker)), "variables of Services would be options")


def scripts_are_shell():
    if not shutil.which("shellcheck"):
        skip("scripts: shellcheck is not installed")
        return
    r = run("shellcheck", *(os.path.join(DEPLOY, f) for f in ("slurm/weir.sbatch", "mpi/run.sh")))
    check(r.returncode == 0, f"shellcheck: {r.stdout}")


# ---- all of it ----

KEY = "key-of-the-deploy-test"


def open_with_key(url):
    return urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": "Bearer " + KEY}), timeout=20)


def live(program):
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write("another\n" + KEY + "\n")
        keys.flush()
        server = served.Server(program, ["--api-key-file", keys.name])
        try:
            check(metrics_live(server.url, open_with_key) > 50, "hardly any samples in /metrics")
            try:
                urllib.request.urlopen(server.url + "metrics", timeout=20)
                check(False, "/metrics without a key")
            except urllib.error.HTTPError as e:
                check(e.code == 401, f"/metrics without a key: {e.code}")
            for path in ("health", "ready", ""):
                with urllib.request.urlopen(server.url + path, timeout=20) as r:
                    check(r.status == 200, f"/{path} without a key: {r.status}")
            health_check(server.url)
        finally:
            status = server.stop()
        check(status == 0, f"weir serve ended with {status} on SIGTERM")


def main():
    program = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else None
    parts = [files_parse, metrics_exist, rules_hold, alerts_are_told, board_is_sound, lambda: images_agree(program), run_lines_are_shell, units_verify,
             manifests_agree, leader_and_workers, scripts_are_shell]
    for part in parts:
        part()
        if part is files_parse and failures:
            break  # the others read those files
    why = served.missing(program)
    if program and served.help_of(program) and not failures:
        options_exist(program)
    if failures:
        pass
    elif why:
        skip(f"metrics, keys, health check and end of a live server: {why}")
    else:
        live(program)
    print(f"deploy_test: {len(failures)} failures, {len(skipped)} parts skipped")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
