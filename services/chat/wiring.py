"""Where the chat service's objects meet."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from parley.chat.v1 import chat_service_pb2
from services.chat.domain.conversation import Conversations
from services.chat.domain.following import Following
from services.chat.domain.memberships import Memberships
from services.chat.domain.messages import Messages, RoomEvents
from services.chat.domain.presence import Presence
from services.chat.domain.purge import Purge
from services.chat.domain.rooms import Rooms
from services.chat.domain.shared_files import SharedFiles
from services.chat.jobs import PURGE_USER
from services.chat.posted_files import open_posted_files
from services.chat.servicer import ChatServicer
from services.chat.settings import ChatSettings
from services.kit.background import in_background
from services.kit.bus import Bus, open_bus
from services.kit.calls import Registration
from services.kit.database import Database
from services.kit.feed import FeedLimits, open_feed
from services.kit.identity import open_identity
from services.kit.ids import utc_now
from services.kit.jobs import Job
from services.kit.purge import step_after
from services.kit.server import Service
from services.kit.settings import DatabaseSettings

CHAT_SERVICE = chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"]


@asynccontextmanager
async def open_chat(settings: ChatSettings) -> AsyncIterator[Service]:
    """The chat service over its database and bus, closed in reverse order at the end."""
    async with (
        Database.open(settings, role="chat") as db,
        open_bus(settings, "chat", role="chat") as bus,
        open_feed(bus, RoomEvents(db), "room", FeedLimits(look_seconds=settings.chat_look_seconds)) as events,
        _presence(db, bus, settings) as presence,
        _memberships(db, bus, settings) as memberships,
        open_posted_files(settings.file_address) as files,
        open_identity(settings, "chat") as identity,
    ):
        messages = Messages(db, events, files, clock=utc_now)
        following = Following(db, events, memberships)
        servicer = ChatServicer(
            Rooms(db, memberships, clock=utc_now),
            messages,
            following,
            Conversations(messages, following, presence, settings.chat_max_subscriptions),
            SharedFiles(db),
            go_away_seconds=settings.chat_go_away_seconds,
        )
        yield Service(
            name="chat",
            registrations=[Registration(CHAT_SERVICE, servicer, followers=frozenset({"WatchRoom"}))],
            identity=identity,
            is_ready=lambda: db.is_ready,
        )


@asynccontextmanager
async def open_chat_jobs(settings: DatabaseSettings) -> AsyncIterator[Sequence[Job]]:
    """What the worker does for chat."""
    async with Database.open(settings, role="chat") as db, open_bus(settings, "chat", role="chat") as bus:
        yield [Job(PURGE_USER, Purge(db, bus).purge_user, then=step_after(PURGE_USER))]


@asynccontextmanager
async def _presence(db: Database, bus: Bus, settings: ChatSettings) -> AsyncIterator[Presence]:
    presence = Presence(
        db,
        bus,
        heartbeat=timedelta(seconds=settings.chat_heartbeat_seconds),
        lease=timedelta(seconds=settings.chat_lease_seconds),
    )
    try:
        async with in_background(presence.run_for_ever(), "presence"):
            yield presence
    finally:
        await presence.retire()


@asynccontextmanager
async def _memberships(db: Database, bus: Bus, settings: ChatSettings) -> AsyncIterator[Memberships]:
    memberships = Memberships(db, bus, interval=timedelta(seconds=settings.chat_membership_seconds))
    async with in_background(memberships.check_for_ever(), "memberships"):
        yield memberships
