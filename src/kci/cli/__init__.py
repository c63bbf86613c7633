"""The user's command.

May import: doctor, contract, client, stack, provider.plan, kube models, kit; `kci serve` calls the
    service's main.
May touch: the terminal; a cluster, in explanation.gather alone.
Must not: know a server's inside.
"""
