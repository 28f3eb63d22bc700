"""`python -m benchmarks.file_client`: the client of files, in a process of its own.

It takes an Order as JSON from its input and writes a Receipt. What is to be sent is built before the clock starts, and
what came is looked at after it has stopped.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import uvloop

from benchmarks import file_grpc, file_http
from benchmarks.file_orders import Order, Receipt, order_of
from benchmarks.load import WrongAnswers

EXIT_WRONG = 3


def main() -> int:
    """Carry out the order of the input."""
    order = order_of(sys.stdin.read())
    try:
        receipt = uvloop.run(_measured(order, memoryview(Path(order.content).read_bytes())))
    except WrongAnswers as failure:
        sys.stderr.write(f"{failure}\n")
        return EXIT_WRONG
    print(json.dumps(asdict(receipt)))
    return 0


async def _measured(order: Order, content: memoryview) -> Receipt:
    opened = file_grpc.opened if order.way.is_grpc else file_http.opened
    async with opened(order, content) as transfer:
        began, used = time.perf_counter(), time.process_time()
        await transfer.run()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
    return Receipt(seconds, cpu_seconds, transfer.ids())


if __name__ == "__main__":
    raise SystemExit(main())
