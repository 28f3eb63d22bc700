"""The first and the last chapter: who the two people are."""

import asyncio
import uuid

from grpc import StatusCode

from parley.auth.v1 import auth_service_pb2 as pb2
from services.cli.demo.mailbox import Mailbox, catch
from services.cli.demo.steps import Steps, WrongAnswer, expect, refused
from services.cli.demo.suite import Person, Suite, call


async def arrive(suite: Suite, steps: Steps, mailbox: Mailbox, run: str) -> tuple[Person, Person]:
    """Two people register, get their mail, sign in and refresh."""
    ann, bob = Person.new("Ann", run), Person.new("Bob", run)

    async with steps.step("Ann and Bob register"):
        for person in (ann, bob):
            request = pb2.RegisterRequest(email=person.email, password=person.password, full_name=person.name)
            user = (await call(suite.auth.Register, request)).user
            expect(user.email, person.email, "the new user's address")
            person.id = user.id

    async with steps.step("Ann's address is taken, in capitals, too"):
        request = pb2.RegisterRequest(email=ann.email.upper(), password=ann.password, full_name="Another Ann")
        with refused(StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN", "a second registration"):
            await call(suite.auth.Register, request)

    async with steps.step("Each gets a welcome mail"):
        for mail, person in zip(
            await asyncio.gather(catch(mailbox, ann.email), catch(mailbox, bob.email)), (ann, bob), strict=True
        ):
            expect(person.name in mail.as_string(), True, f"that {person.name} is named in the mail")

    async with steps.step("They sign in; a wrong password is refused"):
        for person in (ann, bob):
            await sign_in(suite, person)
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", "a wrong password"):
            await call(suite.auth.Login, pb2.LoginRequest(email=ann.email, password="not her password"))

    async with steps.step("A call without a token is refused"):
        with refused(StatusCode.UNAUTHENTICATED, "TOKEN_MISSING", "a call without a token"):
            await call(suite.auth.GetCurrentUser, pb2.GetCurrentUserRequest())

    async with steps.step("Ann refreshes; a repeat of it gets the same token, so that a lost reply costs nothing"):
        request_id = str(uuid.uuid4())
        old = ann.refresh_token
        first, repeat = [
            (
                await call(suite.auth.RefreshToken, pb2.RefreshTokenRequest(refresh_token=old, request_id=request_id))
            ).tokens
            for _ in range(2)
        ]
        expect(first.refresh_token == old, False, "that the refresh token stayed the same")
        expect(repeat.refresh_token == first.refresh_token, True, "that the repeat gave the same refresh token")
        _carry(ann, first)
        expect(await current_user(suite, ann), ann.id, "the user of the new token")

    return ann, bob


async def leave(suite: Suite, steps: Steps, ann: Person, bob: Person) -> None:
    """Both sign out, and what they held is worth nothing."""
    async with steps.step("Ann and Bob sign out; their tokens are worth nothing"):
        for person in (ann, bob):
            await call(suite.auth.Logout, pb2.LogoutRequest(), person)
            with refused(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED", "an access token after Logout"):
                await current_user(suite, person)
            with refused(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED", "a refresh token after Logout"):
                await call(suite.auth.RefreshToken, pb2.RefreshTokenRequest(refresh_token=person.refresh_token))


async def sign_in(suite: Suite, person: Person, device: str = "parley demo") -> None:
    """Start a session for a person, who carries its tokens from then on."""
    request = pb2.LoginRequest(email=person.email, password=person.password, device_label=device)
    response = await call(suite.auth.Login, request)
    _carry(person, response.tokens)
    expect(response.tokens.token_type, "Bearer", "the type of the token")
    expect(response.user.id, person.id, "the user who signed in")
    expect(await current_user(suite, person), person.id, "the user of the token")


async def current_user(suite: Suite, person: Person) -> str:
    """The id of the user whom a person's token stands for."""
    return (await call(suite.auth.GetCurrentUser, pb2.GetCurrentUserRequest(), person)).user.id


def _carry(person: Person, tokens: pb2.TokenPair) -> None:
    if not tokens.access_token or not tokens.refresh_token:
        raise WrongAnswer("the tokens are not both there")
    person.metadata = (("authorization", f"Bearer {tokens.access_token}"),)
    person.refresh_token = tokens.refresh_token
