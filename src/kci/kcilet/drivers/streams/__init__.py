"""Commands in running containers and the logs that containers leave.

May import: kcilet.ports, link, kit.
May touch: the runtime's streaming server on loopback; log files, to read them.
Must not: know another driver, or speak gRPC (where a command's streams are to be had is passed in).
"""
