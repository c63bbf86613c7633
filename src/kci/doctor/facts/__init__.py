"""Gathers what kci.doctor.findings decides about: one module for each area, with the same name.

May import: kci.doctor.findings, stack, provider, client, contract, kube, kit.
May touch: processes' accounts, files, links, the cluster, the KCI service; it only looks.
Must not: decide what is well.
"""
