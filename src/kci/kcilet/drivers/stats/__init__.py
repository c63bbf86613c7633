"""What pods use: the kernel's accounts of cgroups (v1 and v2) and of links, as text files.

May import: kcilet.ports, kube models, link, kit.
May touch: the accounts below the pods' cgroups, and /proc/net/dev; reading only.
Must not: ask the runtime, which takes seconds for many pods; know another driver.
"""
