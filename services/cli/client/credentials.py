"""Access tokens for calls: one that was given, or those of a session that is refreshed when it has to be."""

import time
import uuid
from dataclasses import replace
from typing import Protocol

import grpc

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.cli.client.calls import CALL_SECONDS, connected, failures
from services.cli.client.ending import Failed, NotSignedIn
from services.cli.client.profiles import Profile, SignedIn

# A call should reach its service with a token that is good there, too, by a clock that may differ.
SPARE_SECONDS = 30.0
_EXCHANGES = uuid.UUID("0f7c4b52-6f0f-5b0e-9a59-6d1f6c0a7a11")


class Credentials(Protocol):
    """Who calls."""

    async def token(self, refused: str = "") -> str:
        """An access token, another one than that which was refused. Raises Failed."""

    def ended(self) -> Failed:
        """What is to be said when the session of its tokens has ended."""


class GivenToken:
    """The token that PARLEY_TOKEN holds."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self, refused: str = "") -> str:
        """As Credentials has it."""
        if refused:
            raise Failed("PARLEY_TOKEN is not taken: it is invalid or has expired")
        return self._token

    def ended(self) -> Failed:
        """As Credentials has it."""
        return Failed("PARLEY_TOKEN is not taken: its session has ended")


class Session:
    """The session of a profile."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    async def token(self, refused: str = "") -> str:
        """As Credentials has it. Of commands that run at once, one refreshes, and the others take what it got."""
        session = self.signed_in()
        if _is_good(session, refused):
            return session.access_token
        async with self._profile.locked():
            session = self.signed_in()
            if not _is_good(session, refused):
                session = await self._refreshed(session)
                self._profile.write(session)
        return session.access_token

    def ended(self) -> Failed:
        """As Credentials has it."""
        return NotSignedIn("the session has ended", self._profile.name)

    def signed_in(self) -> SignedIn:
        """What is kept of the session. Raises NotSignedIn."""
        session = self._profile.read()
        if session is None:
            raise NotSignedIn("nobody is signed in", self._profile.name)
        return session

    async def _refreshed(self, session: SignedIn) -> SignedIn:
        # The same name for every exchange of one token: after a crash, or without the lock, it is the same exchange.
        request = pb2.RefreshTokenRequest(
            refresh_token=session.refresh_token, request_id=str(uuid.uuid5(_EXCHANGES, session.refresh_token))
        )
        async with connected(session.auth_target) as channel:
            with failures(session.auth_target):
                try:
                    answer = await AuthServiceStub(channel).RefreshToken(request, timeout=CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                        raise
                    now = self.signed_in()
                    if now.refresh_token != session.refresh_token:  # Somebody on another machine was faster.
                        return now
                    raise self.ended() from error
        return with_tokens(session, answer.tokens)


def with_tokens(session: SignedIn, tokens: pb2.TokenPair) -> SignedIn:
    """A session with its next tokens."""
    return replace(
        session,
        access_token=tokens.access_token,
        access_expires=tokens.expire_time.seconds,
        refresh_token=tokens.refresh_token,
    )


def _is_good(session: SignedIn, refused: str) -> bool:
    return session.access_token != refused and session.access_expires - SPARE_SECONDS > time.time()
