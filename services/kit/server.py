"""One gRPC server: what it is made of, how it starts, and how it ends without losing a call."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
import structlog
from grpc_reflection.v1alpha import reflection

from services.kit import health
from services.kit.calls import CallPolicy, Registration, names_of
from services.kit.identity import Identity
from services.kit.methods import RpcHandler, compose, unknown_method_handler
from services.kit.settings import ServiceSettings

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
# After the grace, calls that are still there are told SHUTTING_DOWN, and have this many seconds to clean up behind them
# before gRPC cuts them off.
STOP_MARGIN = 1.0
CUT_OFF_MARGIN = 0.3
# In milliseconds, as gRPC takes them.
KEEPALIVE_AFTER = 20_000
KEEPALIVE_TIMEOUT = 5_000
LEAST_PING_INTERVAL = 10_000
AGE_GRACE = 30_000


@dataclass(frozen=True)
class Service:
    """What a service's wiring gives: its servicers, how it knows its callers, and whether it can work besides that."""

    name: str
    registrations: Sequence[Registration]
    identity: Identity
    is_ready: Callable[[], bool]
    stream_window: int | None = None
    """How many bytes a client may send ahead on a stream; None leaves it to gRPC, which begins with 64 KiB."""


class PortTaken(Exception):
    """Another process listens on the port."""


class AddressUnusable(Exception):
    """The address to listen on is not one of this machine, or this process may not use it."""


class _Handlers(grpc.GenericRpcHandler):
    """Finds a call's handler by its full name: one look-up in a dictionary."""

    def __init__(self, handlers: dict[str, RpcHandler], fallback: RpcHandler | None) -> None:
        self._handlers = handlers
        self._fallback = fallback

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> RpcHandler | None:
        return self._handlers.get(handler_call_details.method, self._fallback)


def server_options(settings: ServiceSettings, stream_window: int | None = None) -> list[tuple[str, int]]:
    """GRPC's options. Limits keep one client from hurting the others; docs/decisions/connections.md says why each."""
    age_ms = int(settings.max_connection_age * 1000)
    window = [("grpc.http2.lookahead_bytes", stream_window), ("grpc.http2.bdp_probe", 0)] if stream_window else []
    return [
        *window,
        ("grpc.so_reuseport", int(settings.reuse_port)),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.keepalive_time_ms", KEEPALIVE_AFTER),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT),
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_INTERVAL),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", age_ms),
        ("grpc.max_connection_age_grace_ms", AGE_GRACE),
    ]


@asynccontextmanager
async def running(service: Service, settings: ServiceSettings, *, port: int) -> AsyncIterator[str]:
    """Serve for the time of the block and yield the address. At its end calls in flight are drained first.

    Raises PortTaken, AddressUnusable, calls.AccessNotStated and methods.MethodMissing.
    """
    policy = CallPolicy(
        identity=service.identity,
        trusted_proxies=settings.trusted_proxies,
        unary_timeout=settings.unary_timeout,
        max_unary=settings.max_unary_calls,
        max_streams=settings.max_streams,
    )
    inflight = policy.inflight

    def is_ready() -> bool:
        return service.is_ready() and service.identity.is_ready()

    health_servicer = health.HealthServicer(names_of(service.registrations), is_ready, inflight.draining)
    registrations = [
        *service.registrations,
        Registration(health.SERVICE, health_servicer),
    ]
    handlers: dict[str, RpcHandler] = {}
    for registration in registrations:
        handlers |= compose(registration, policy)
    server = grpc.aio.server(options=server_options(settings, service.stream_window))
    server.add_generic_rpc_handlers((_Handlers(handlers, None),))
    reflection.enable_server_reflection([*names_of(registrations), reflection.SERVICE_NAME], server)
    server.add_generic_rpc_handlers((_Handlers({}, unknown_method_handler()),))
    address = _bind(server, settings.listen_host, port, reuse_port=settings.reuse_port)
    unsubscribe = service.identity.revoked.subscribe(inflight.end_session)
    service.identity.verifier.on_forget(inflight.verify_again)
    await server.start()
    log.info("listening", service=service.name, address=address)
    try:
        yield address
    finally:
        inflight.drain()
        stopping = asyncio.ensure_future(server.stop(settings.drain_seconds + STOP_MARGIN))
        if not await inflight.wait_empty(settings.drain_seconds):
            inflight.end_all()
        await stopping
        if not await inflight.wait_empty(CUT_OFF_MARGIN):
            log.warning("calls still running at the end of the grace", service=service.name)
        unsubscribe()
        log.info("stopped", service=service.name)


async def serve_until_stopped(service: Service, settings: ServiceSettings, *, port: int, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    async with running(service, settings, port=port):
        await stop.wait()


def _bind(server: grpc.aio.Server, host: str, port: int, *, reuse_port: bool) -> str:
    """Take the port and say the address, with the port that was found where 0 was asked for."""
    _try_address(host, port, reuse_port=reuse_port)
    name = f"[{host}]" if ":" in host else host
    bound = 0
    with suppress(RuntimeError):
        bound = server.add_insecure_port(f"{name}:{port}")
    if not bound:
        raise PortTaken(f"{name}:{port}")
    return f"{name}:{bound}"


def _try_address(host: str, port: int, *, reuse_port: bool) -> None:
    """Find out with a plain socket whether gRPC could listen: it says only that it could not, and logs pages of it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                trial.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"{host}:{port}") from error
        raise AddressUnusable(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
