"""Gives each pod the address the service chose: a veth pair, and a route of the machine's to it.

May import: kcilet.ports, kube models, link, kit.
May touch: links of its own group, their routes, pods' network namespaces, gateway addresses on the link that
holds them; the CNI plugin's unix socket; the machine's tables of nftables `inet <bridge>-guard` and
`inet <bridge>-services`, and flows to Services.
Must not: know another driver; choose an address; change anything of the machine that it did not make.
"""
