"""What a pod's volumes are made of while it runs: which objects are to be followed for it, and whether what
was laid out is still what it should be.
"""

from __future__ import annotations

import hashlib

from kci.kcilet.plan import actions, histories
from kci.kube import environment, models
from kci.kube import volumes as volume_files


def state_of(number: int, pod: models.Pod) -> str:
    """Equal as long as the volumes need not be made anew. `number` stands for what came from the source."""
    fields = volume_files.live_fields(pod)
    if not fields:
        return str(number)
    return f"{number}-{hashlib.sha256(repr(fields).encode()).hexdigest()[:12]}"


def kept_objects(pod: models.Pod, history: histories.History) -> tuple[frozenset[str], frozenset[str]]:
    """ConfigMaps and Secrets, by name, whose changes matter to a pod that runs: those of its volumes always,
    those of an environment only while a container cannot start for the lack of them.
    """
    volumes = volume_files.needs(pod)
    config_maps, secrets = volumes.config_maps, volumes.secrets
    for container in pod.spec.all_containers:
        failure = history.failures.get(actions.container_subject(container.name))
        if failure is not None and failure.reason == actions.CONFIG_ERROR:
            needs = environment.needs(container)
            config_maps, secrets = config_maps | needs.config_maps, secrets | needs.secrets
    return config_maps, secrets
