"""From a pod to the container group that runs it. Pure; one module for each part of the request.

May import: vnode.provider's values, kube models and quantities, contract, kit.
May touch: nothing.
Must not: be `async`, or look at anything but its arguments.
"""
