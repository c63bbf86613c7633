"""A program that serves grpc.health.v1.Health, or what it is told to serve, on a port of loopback.

`python health_program.py METHOD DELAY_S NAME=STATUS...` prints its port, and then what it is asked:
the service's name and the client's user agent.
"""

import sys
import time
from concurrent import futures

import grpc
from google.protobuf import wrappers_pb2


def main():
    method, delay_s, *answers = sys.argv[1:]
    known = {name: int(status) for name, _, status in (one.partition("=") for one in answers)}

    def check(request, context):
        agent = dict(context.invocation_metadata())["user-agent"]
        print(f"{request.value!r} {agent}", flush=True)
        time.sleep(float(delay_s))
        if request.value not in known:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return wrappers_pb2.Int32Value(value=known[request.value])

    handler = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=wrappers_pb2.StringValue.FromString,
        response_serializer=wrappers_pb2.Int32Value.SerializeToString,
    )
    service, _, name = method.rpartition("/")
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
