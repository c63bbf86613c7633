"""The whole on one machine: namespaces, link, certificates, control plane, containerd and our three programs.

May import: kit, contract, client, kube (and its own images).
May touch: processes, files, links, routes and namespaces below one state folder; a cluster through kube.
Must not: hold pod or group logic, print to the terminal.
"""
