"""What to do for a pod on this machine, and what to say of it: plain functions of values.

May import: kube models and its pure parts, link, contract, kit, the ports' values.
May touch: nothing.
Must not: do I/O, be `async`, or know a driver.
"""
