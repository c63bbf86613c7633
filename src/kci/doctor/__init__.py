"""What `kci doctor` looks at: machine, stack, cluster, node and KCI service, each question by itself.

May import: stack, provider, vnode's node, client, contract, kube, kit.
May touch: whatever it asks, and changes nothing of it.
Must not: know the terminal; let one question hold up or end another.
"""
