"""The CRI's messages and stubs, generated, not written: do not edit, ruff and mypy pass over them.

Source: `pkg/apis/runtime/v1/api.proto` of the Go module k8s.io/cri-api v0.36.3 (Apache-2.0), by grpcio-tools
1.85.1 (protobuf code 7.35.1: pyproject.toml asks for no older runtime). To make them again, from the repository's root:

    cri=$(cd src/kci/stack/go && go list -m -f '{{.Dir}}' k8s.io/cri-api)
    python -m grpc_tools.protoc -I kci/kcilet/drivers/runtime/api=$cri/pkg/apis/runtime/v1 \\
        --python_out=src --pyi_out=src --grpc_python_out=src kci/kcilet/drivers/runtime/api/api.proto
"""
