"""Somebody who calls a service: who it is, where the service is, and a token for each call."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from services.cli.client.calls import CALL_SECONDS, bearer, connected, failures, reason_of
from services.cli.client.credentials import Credentials, GivenToken, Session
from services.cli.client.profiles import Profile, config_folder
from services.kit import base64url
from services.kit.errors import SessionRevoked, TokenExpired, TokenInvalid

AGENT_TARGET = "127.0.0.1:50052"
FILE_TARGET = "127.0.0.1:50053"
REFUSED_TOKENS = (TokenExpired.reason, TokenInvalid.reason)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Caller:
    """Somebody who calls a service, and may have to take a new token for it."""

    target: str
    channel: grpc.aio.Channel
    credentials: Credentials

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """A unary call. Raises Failed."""
        token = await self.credentials.token()
        with failures(self.target):
            try:
                return await _answer(method, request, token)
            except grpc.aio.AioRpcError as error:
                return await _answer(method, request, await self.token_after(error, token))

    async def user_id(self) -> str:
        """Whose token it is, as it says itself; empty if it does not say. Raises Failed."""
        try:
            _, claims, _ = (await self.credentials.token()).split(".")
            return str(json.loads(base64url.decode(claims))["sub"])
        except (ValueError, KeyError, TypeError):
            return ""

    async def token_after(self, error: grpc.aio.AioRpcError, token: str) -> str:
        """Another token, after a call failed with this one. Raises Failed, or the error if the token is not why."""
        reason = reason_of(error)
        if reason == SessionRevoked.reason:
            raise self.credentials.ended() from error
        if reason not in REFUSED_TOKENS:
            raise error
        return await self.credentials.token(refused=token)


@asynccontextmanager
async def calling_agent(profile: str, target: str, token: str) -> AsyncIterator[Caller]:
    """Somebody who calls the agent service: with this token if there is one, else with the session of the profile.

    The service is at this target if there is one, else where the session has it. Raises Failed.
    """
    async with _calling(profile, target or (AGENT_TARGET if token else ""), token, "agent") as caller:
        yield caller


@asynccontextmanager
async def calling_file(profile: str, target: str, token: str) -> AsyncIterator[Caller]:
    """The same for the file service."""
    async with _calling(profile, target or (FILE_TARGET if token else ""), token, "file") as caller:
        yield caller


@asynccontextmanager
async def _calling(profile: str, target: str, token: str, service: str) -> AsyncIterator[Caller]:
    credentials: Credentials
    if token:
        credentials = GivenToken(token)
    else:
        credentials = session = Session(Profile(config_folder(os.environ), profile))
        target = target or session.signed_in().target_of(service)
    async with connected(target) as channel:
        yield Caller(target, channel, credentials)


async def _answer(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, token: str
) -> Response:
    answer: Any = await method(request, metadata=bearer(token), timeout=CALL_SECONDS)
    return answer  # type: ignore[no-any-return]  # the stub's type is lost in await
