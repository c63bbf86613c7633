"""Commands in running containers, their own streams, their pods' ports, and the logs that they leave.

May import: kcilet.ports, link, kit.
May touch: the runtime's streaming server on loopback; processes of commands, to end them, and a folder of
its own in which they are noted; pods' network namespaces, to connect within; log files, to read them.
Must not: know another driver, or speak gRPC (where a command's streams are to be had is passed in).
"""
