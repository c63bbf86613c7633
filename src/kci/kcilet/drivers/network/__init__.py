"""Gives each pod the address the service chose, a veth pair to the machine's bridge, and its way to Services.

May import: kcilet.ports, kube models, link, kit.
May touch: links on the machine's bridge and in pods' network namespaces; the CNI plugin's unix socket;
    the machine's nftables table `inet <bridge>-services`, and flows to Services.
Must not: know another driver; choose an address; change the bridge or the machine's routes.
"""
