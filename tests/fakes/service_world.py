"""Services of a cluster, as a source shows them."""

from kci.kube import models

ADDRESS = "10.96.0.10"


class Services:
    """A port.Services whose content tests write."""

    outlook, node_name, zone = "c/u/vn1", "vn1", ""

    def __init__(self):
        self.is_known = False
        self.problem = ""
        self.services = {}
        self.parts = {}
        self.holders = {}
        self._changed = set()

    def slices(self, name):
        return self.parts.get(name, ())

    def take_changed(self):
        found, self._changed = self._changed, set()
        return found

    def hold(self, holder, on_change):
        self.holders[holder] = on_change

    def release(self, holder):
        self.holders.pop(holder)

    def put(self, *addresses, name="web", address=ADDRESS):
        key = ("default", name)
        self.services[key] = models.Service(
            metadata=models.ObjectMeta(namespace="default", name=name),
            spec=models.ServiceSpec(cluster_ip=address, ports=(models.ServicePort(port=80),)),
        )
        found = tuple(models.Endpoint(addresses=(one,)) for one in addresses)
        self.parts[key] = [
            models.EndpointSlice(endpoints=found, ports=(models.EndpointPort(name="", port=8080),))
        ]
        self._changed.add(key)
        self.tell()

    def tell(self, problem=""):
        self.problem = problem
        for on_change in self.holders.values():
            on_change()
