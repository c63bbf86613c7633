"""Checks of containers: commands, and connections, HTTP and gRPC from inside their pods' networks.

May import: the ports, kit.
May touch: sockets in pods' network namespaces.
Must not: decide when a check is done or what follows from it; know another driver.
"""
