"""Where the objects of auth meet."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from parley.auth.v1 import auth_service_pb2
from services.auth.domain.accounts import Accounts
from services.auth.domain.chores import Chores
from services.auth.domain.email_codes import EmailCodes
from services.auth.domain.mailings import LinkTemplates, Mailings
from services.auth.domain.passwords import open_passwords
from services.auth.domain.revocations import TOPIC, RevocationSource, RevocationWatch, Revoker
from services.auth.domain.secret import Secret
from services.auth.domain.sessions import SignIns
from services.auth.domain.signing import SigningKeys, TokenIssuer
from services.auth.domain.throttle import Throttle
from services.auth.jobs import (
    DELETE_EXPIRED,
    SEND_EMAIL_VERIFICATION,
    SEND_PASSWORD_NOTICE,
    SEND_PASSWORD_RESET,
    SEND_WELCOME_EMAIL,
)
from services.auth.servicer.accounts import AccountRpcs
from services.auth.servicer.pending import Pending
from services.auth.servicer.sessions import SessionRpcs
from services.auth.servicer.tokens import TokenRpcs
from services.auth.settings import AuthJobSettings, AuthSettings
from services.kit.access import TokenVerifier
from services.kit.bus import open_bus
from services.kit.calls import Registration
from services.kit.database import Database
from services.kit.feed import open_feed
from services.kit.identity import Identity
from services.kit.ids import utc_now
from services.kit.jobs import Job, JobQueue
from services.kit.mail import Mailer
from services.kit.revocations import RevokedSessions
from services.kit.server import Service

AUTH_SERVICE = auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"]


@asynccontextmanager
async def open_auth(settings: AuthSettings) -> AsyncIterator[Service]:
    """The auth service, ready to be served."""
    secret = _secret(settings)
    with open_passwords(slots=settings.auth_hash_slots, queue=settings.auth_hash_queue) as passwords:
        async with (
            Database.open(settings, role="auth") as db,
            open_bus(settings, "auth", role="auth") as bus,
            open_feed(bus, RevocationSource(db), "revocations") as revocations,
        ):
            keys = SigningKeys(db, secret, utc_now)
            issuer = TokenIssuer(
                keys,
                issuer=settings.token_issuer,
                audience=settings.token_audience,
                life=settings.access_token_life,
                clock=utc_now,
            )
            revoker = Revoker(partial(revocations.publish, TOPIC), token_life=settings.access_token_life, clock=utc_now)
            accounts = Accounts(db, passwords, JobQueue(), utc_now)
            sign_ins = SignIns(db, passwords, issuer, secret, session_life=settings.session_life, clock=utc_now)
            auth_service = (
                AccountRpcs(accounts),
                SessionRpcs(sign_ins),
                TokenRpcs(keys, RevocationWatch(db, revocations)),
                Pending(),
            )
            revoked = RevokedSessions()
            identity = Identity(
                TokenVerifier(keys, issuer=settings.token_issuer, audience=settings.token_audience, revoked=revoked),
                revoked,
                is_ready=lambda: True,
                on_refusal=lambda _: None,
            )
            yield Service(
                name="auth",
                registrations=[
                    Registration(AUTH_SERVICE, auth_service, followers=frozenset({"WatchRevocations"})),
                ],
                identity=identity,
                is_ready=lambda: db.is_ready,
            )


@asynccontextmanager
async def open_auth_jobs(settings: AuthJobSettings) -> AsyncIterator[Sequence[Job]]:
    """What the worker does for auth."""
    async with Database.open(settings, role="auth") as db:
        links = LinkTemplates(settings.auth_password_reset_url, settings.auth_email_verification_url)
        mailings = Mailings(db, Mailer(settings), EmailCodes(utc_now), links)
        chores = Chores(db, Throttle(db, utc_now), utc_now, audit_kept=settings.audit_kept)
        yield [
            Job(SEND_WELCOME_EMAIL, mailings.send_welcome_email),
            Job(SEND_PASSWORD_RESET, mailings.send_password_reset),
            Job(SEND_EMAIL_VERIFICATION, mailings.send_email_verification),
            Job(SEND_PASSWORD_NOTICE, mailings.send_password_notice),
            Job(DELETE_EXPIRED, chores.delete_expired, cron="17 * * * *"),
        ]


def _secret(settings: AuthSettings) -> Secret:
    if settings.auth_secret_key is not None:
        return Secret.from_base64(settings.auth_secret_key.get_secret_value())
    return Secret.from_file(settings.data_dir / "auth-secret.key")
