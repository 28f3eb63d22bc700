"""A protoc plugin that writes `*_pb2_grpc.py`, for buf.

The generator exists only inside grpcio-tools' own protoc. So: take the request that buf sends to a plugin,
run that protoc on the descriptors in it, and answer with the files that it wrote.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def main() -> int:
    """Answer one request from stdin on stdout."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(request).SerializeToString())
    return 0


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Write the modules of the asked files that declare services; others would only hold a version check."""
    response = CodeGeneratorResponse(
        supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL,
    )
    asked = set(request.file_to_generate)
    names = [file.name for file in request.proto_file if file.name in asked and file.service]
    if not names:
        return response
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder, "descriptors.binpb")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = Path(folder, "out")
        out.mkdir()
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={descriptors}"]
        run = subprocess.run([*protoc, f"--grpc_python_out={out}", *names], capture_output=True, text=True, check=False)
        if run.returncode != 0:
            response.error = run.stderr
            return response
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text(encoding="utf-8"))
    return response


if __name__ == "__main__":
    sys.exit(main())
