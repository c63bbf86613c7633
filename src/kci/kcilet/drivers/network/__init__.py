"""Gives each pod the address the service chose, and lets pass what is to pass: a veth pair, a route to it,
and one table of rules for all of them.

May import: kcilet.ports, kube models, link, kit.
May touch: links of its own group, their routes and tracked flows, pods' network namespaces, its own tables
of nftables (`<bridge>-guard`, `<bridge>-services`), gateway addresses on the link that holds them; the CNI
plugin's unix socket.
Must not: know another driver; choose an address; decide what may pass; change anything that it did not make.
"""
