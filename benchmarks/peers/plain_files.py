"""`python -m benchmarks.peers.plain_files <port> <folder>`: what Python can do at best with a socket and a file.

It speaks as much HTTP as the benchmark's client does: `PUT /files` answers with the new file's id once it is on the
disk, and `GET /files/{id}` lets the kernel send it. It asks nobody who they are, checks nothing, hashes nothing and
remembers nothing. Each connection has a thread.
"""

import os
import re
import socket
import sys
from pathlib import Path
from threading import Thread
from uuid import uuid4

BUFFER_BYTES = 1024 * 1024
_LENGTH = re.compile(rb"content-length: (\d+)")


def main(port: int, folder: Path) -> None:
    """Serve until the process is ended."""
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            Thread(target=_serve, args=(connection, folder), daemon=True).start()


def _serve(connection: socket.socket, folder: Path) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    view = memoryview(bytearray(BUFFER_BYTES))
    with connection:
        while True:
            filled = 0
            while (end := bytes(view[:filled]).find(b"\r\n\r\n")) < 0:
                received = connection.recv_into(view[filled:])
                if not received:
                    return
                filled += received
            head, rest = bytes(view[:end]), view[end + 4 : filled]
            if head.startswith(b"PUT"):
                found = _LENGTH.search(head)
                assert found is not None
                name = str(uuid4())
                _receive(connection, folder / name, int(found[1]), rest, view)
                connection.sendall(b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%s" % (len(name), name.encode()))
            else:
                _send(connection, folder / head.split(b" ", 2)[1].decode().rpartition("/")[2])


def _receive(connection: socket.socket, path: Path, size: int, rest: memoryview, view: memoryview) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(rest)
            size -= len(rest)
            if not size:
                break
            rest = view[: connection.recv_into(view[: min(size, BUFFER_BYTES)])]
            if not rest:
                raise ConnectionError("the client is gone")
        os.fsync(file.fileno())


def _send(connection: socket.socket, path: Path) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        connection.sendfile(file)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
