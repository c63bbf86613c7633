"""What acts on the machine for the kcilet's workers, one package per subject, each behind a port.

May import: kcilet.ports, kube models and quantities, link, kit.
May touch: what each package says.
Must not: know each other, or decide what a pod needs (kcilet.plan does).
"""
