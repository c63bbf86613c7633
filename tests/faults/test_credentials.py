"""Temporary keys that are renewed while the programs between them and their use are killed: each pod comes
up, with the newest keys, and those that run notice nothing.
"""

import subprocess
import time

import line as lines
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.guide("env TEMP_AKSK_CM")]
NAME = "fault-aksk"
PARTS = ("virtual-kubelet", "kci-service", "kube-apiserver")
STATIC = ("KCI_ACCESS_KEY", "KCI_SECRET_KEY")


@pytest.mark.requirement("R58")
def test_keys_that_are_renewed_while_programs_are_killed_bring_up_every_pod(line, recorder, standing, runs):
    chance = runs.random()
    try:
        with line.all_by_hand(*PARTS) as programs:
            # The node alone has no other keys: the service keeps its operator's.
            node = programs["virtual-kubelet"]
            node.kill()
            for name in STATIC:
                del node.environment[name]
            node.environment["TEMP_AKSK_CM"] = NAME
            node.start()
            lines.eventually(lambda: line.run_kubectl("get", "nodes").returncode == 0, what="it answers")
            put(line, issue(line))
            come_and_go(line, "keyed-first")
            for run in range(runs.scale(quick=1, faults=1, release=10)):
                for part in chance.sample(PARTS, len(PARTS)):
                    manifest = issue(line)
                    recorder.note("away", part)
                    # The moment is what is tested: before, while or after the new keys are seen.
                    if chance.random() < 0.5 and part != "kube-apiserver":
                        put(line, manifest)
                        time.sleep(chance.uniform(0, 0.2))
                    programs[part].kill()
                    time.sleep(chance.uniform(0, 0.5))
                    programs[part].start()
                    recorder.note("back", part)
                    put(line, manifest)
                    come_and_go(line, f"keyed-{run}-{part}")
                    lines.eventually(
                        lambda manifest=manifest: is_used(line, manifest), what="the newest keys are used"
                    )
    finally:
        line.run_kubectl("-n", "kube-system", "delete", "configmap", NAME)


def issue(line):
    """A manifest with new keys, from a service that may only just have started."""
    command = (str(lines.BIN / "kci"), "credentials", "issue", "--state-dir", str(line.state_dir))

    def ask():
        argv = line.inside(*command, "--name", NAME, "--duration-s", "300")
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return lines.eventually(ask, what="keys are issued")


def put(line, manifest):
    lines.eventually(
        lambda: line.run_kubectl("apply", "-f", "-", stdin=manifest).returncode == 0,
        what="the keys are in the cluster",
    )


def come_and_go(line, name):
    line.apply(lines.pod(name, lines.IDLE))
    line.wait_ready(f"pod/{name}")
    line.kubectl("delete", "pod", name, "--wait=false")


def is_used(line, manifest):
    """By the node's own log, which names the key that it signs with."""
    key = next(text.partition(":")[2].strip(' ",') for text in manifest.splitlines() if '"ak":' in text)
    return key in line.where.log("virtual-kubelet").read_text()
