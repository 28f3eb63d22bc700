"""Where the objects of auth meet."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from parley.auth.v1 import auth_service_pb2, user_service_pb2
from services.auth.domain.accounts import Accounts
from services.auth.domain.administration import Administration
from services.auth.domain.admins import Admins
from services.auth.domain.audit import Audit
from services.auth.domain.audit_log import AuditLog
from services.auth.domain.chores import Chores
from services.auth.domain.email_codes import EmailCodes
from services.auth.domain.email_verification import EmailVerifications
from services.auth.domain.key_ring import KeyRing
from services.auth.domain.mailings import LinkTemplates, Mailings
from services.auth.domain.own_sessions import OwnSessions
from services.auth.domain.password_change import PasswordChanges
from services.auth.domain.password_notices import PasswordNotices
from services.auth.domain.password_reset import PasswordResets
from services.auth.domain.password_rules import PasswordRules
from services.auth.domain.passwords import open_passwords
from services.auth.domain.purge import Purge
from services.auth.domain.refusals import Refusals
from services.auth.domain.revocations import TOPIC, RevocationSource, RevocationWatch, Revoker
from services.auth.domain.secret import Secret
from services.auth.domain.service_accounts import BuiltInAccounts, ServiceAccounts
from services.auth.domain.sessions import SessionLife, SignIns
from services.auth.domain.signing import TokenIssuer
from services.auth.domain.signing_keys import KeyTimes, SigningKeys
from services.auth.domain.throttle import Throttle
from services.auth.jobs import (
    DELETE_EXPIRED,
    PURGE_DUE_USERS,
    PURGE_USER,
    SEND_EMAIL_VERIFICATION,
    SEND_PASSWORD_NOTICE,
    SEND_PASSWORD_RESET,
    SEND_WELCOME_EMAIL,
)
from services.auth.servicer.accounts import AccountRpcs
from services.auth.servicer.audit import AuditRpcs
from services.auth.servicer.codes import CodeRpcs
from services.auth.servicer.service_accounts import ServiceAccountRpcs
from services.auth.servicer.sessions import SessionRpcs
from services.auth.servicer.signing_keys import SigningKeyRpcs
from services.auth.servicer.tokens import TokenRpcs
from services.auth.servicer.users import UserRpcs
from services.auth.settings import BUILT_IN_SERVICES, LONGEST_TOKEN_LIFE, AuthJobSettings, AuthSettings
from services.kit.access import TokenVerifier
from services.kit.background import in_background
from services.kit.bus import Bus, open_bus
from services.kit.calls import Registration
from services.kit.database import Database
from services.kit.feed import open_feed
from services.kit.identity import Identity, kept_service_secret
from services.kit.ids import utc_now
from services.kit.jobs import Job, JobQueue
from services.kit.mail import Mailer
from services.kit.revocations import FIRST_SECONDS, RevokedSessions
from services.kit.server import Service

AUTH_SERVICE = auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"]
USER_SERVICE = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]


@asynccontextmanager
async def open_auth(settings: AuthSettings) -> AsyncIterator[Service]:
    """The auth service, ready to be served."""
    secret = _secret(settings)
    with open_passwords(slots=settings.auth_hash_slots, queue=settings.auth_hash_queue) as passwords:
        async with (
            Database.open(settings, role="auth") as db,
            open_bus(settings, "auth", role="auth") as bus,
            open_feed(bus, RevocationSource(db), "revocations") as revocations,
            AsyncExitStack() as background,
        ):
            audit = Audit(utc_now)
            keys = _signing_keys(settings, db, bus, secret, audit)
            ring = await background.enter_async_context(_key_ring(settings, keys, bus, secret))
            issuer = TokenIssuer(
                ring,
                issuer=settings.token_issuer,
                audience=settings.token_audience,
                life=settings.access_token_life,
                clock=utc_now,
            )
            rules = PasswordRules(passwords, min_length=settings.auth_password_min_length)
            throttle = Throttle(db, utc_now)
            revoker = Revoker(partial(revocations.publish, TOPIC), token_life=LONGEST_TOKEN_LIFE, clock=utc_now)
            accounts = Accounts(db, rules, passwords, throttle, audit, JobQueue(), utc_now)
            codes = EmailCodes(utc_now)
            notices = PasswordNotices(throttle, JobQueue())
            changes = PasswordChanges(db, codes, rules, passwords, throttle, revoker, audit, notices, utc_now)
            life = SessionLife(settings.session_idle, settings.session_longest)
            sign_ins = SignIns(db, passwords, throttle, issuer, secret, revoker, audit, life=life, clock=utc_now)
            own_sessions = OwnSessions(db, revoker, audit, utc_now)
            service_accounts = ServiceAccounts(
                db, issuer, revoker, throttle, audit, utc_now, built_in=BUILT_IN_SERVICES
            )
            built_in = BuiltInAccounts(db, service_accounts, _built_in_secrets(settings))
            watch = RevocationWatch(db, revocations)
            refusals = Refusals(db)
            identity = await background.enter_async_context(_identity(settings, ring, watch, refusals))
            await background.enter_async_context(in_background(built_in.ensure(), "built-in-accounts"))
            resets = PasswordResets(db, codes, rules, passwords, throttle, revoker, audit, notices, JobQueue(), utc_now)
            verifications = EmailVerifications(db, codes, throttle, audit, JobQueue(), utc_now)
            auth_service = (
                AccountRpcs(accounts, changes),
                SessionRpcs(sign_ins, own_sessions),
                CodeRpcs(resets, verifications),
                TokenRpcs(ring, watch, service_accounts, refusals),
            )
            administration = Administration(
                db, revoker, audit, JobQueue(), deleted_kept=settings.deleted_user_kept, clock=utc_now
            )
            user_service = (
                UserRpcs(administration),
                AuditRpcs(AuditLog(db, utc_now)),
                SigningKeyRpcs(keys),
                ServiceAccountRpcs(service_accounts),
            )
            yield Service(
                name="auth",
                registrations=[
                    Registration(AUTH_SERVICE, auth_service, followers=frozenset({"WatchRevocations"})),
                    Registration(USER_SERVICE, user_service),
                ],
                identity=identity,
                is_ready=lambda: db.is_ready and service_accounts.are_complete,
            )


@asynccontextmanager
async def open_auth_jobs(settings: AuthJobSettings) -> AsyncIterator[Sequence[Job]]:
    """What the worker does for auth."""
    async with Database.open(settings, role="auth") as db:
        links = LinkTemplates(settings.auth_password_reset_url, settings.auth_email_verification_url)
        mailings = Mailings(db, Mailer(settings), EmailCodes(utc_now), links)
        throttle = Throttle(db, utc_now)
        chores = Chores(db, throttle, utc_now, audit_kept=settings.audit_kept)
        purge = Purge(db, JobQueue(), throttle, Audit(utc_now), utc_now)
        yield [
            Job(SEND_WELCOME_EMAIL, mailings.send_welcome_email),
            Job(SEND_PASSWORD_RESET, mailings.send_password_reset),
            Job(SEND_EMAIL_VERIFICATION, mailings.send_email_verification),
            Job(SEND_PASSWORD_NOTICE, mailings.send_password_notice),
            Job(DELETE_EXPIRED, chores.delete_expired, cron="17 * * * *"),
            Job(PURGE_USER, purge.purge_user),
            Job(PURGE_DUE_USERS, purge.purge_due_users, cron="* * * * *"),
        ]


@asynccontextmanager
async def open_administration(settings: AuthSettings) -> AsyncIterator[Admins]:
    """What an operator decides about administrators beside the running service, once the database is there."""
    with open_passwords(slots=1, queue=1) as passwords:
        async with Database.open(settings, role="auth") as db:
            await db.wait_ready()
            yield Admins(
                db,
                passwords,
                PasswordRules(passwords, min_length=settings.auth_password_min_length),
                # Nobody here is told at once: the services look every second.
                Revoker(lambda _: None, token_life=LONGEST_TOKEN_LIFE, clock=utc_now),
                Audit(utc_now),
                JobQueue(),
                utc_now,
            )


@asynccontextmanager
async def open_signing_keys(settings: AuthSettings) -> AsyncIterator[SigningKeys]:
    """What an operator does with the keys beside the running service, once the database is there."""
    secret = _secret(settings)
    async with Database.open(settings, role="auth") as db, open_bus(settings, "auth", role="auth") as bus:
        await db.wait_ready()
        yield _signing_keys(settings, db, bus, secret, Audit(utc_now))


def _signing_keys(settings: AuthSettings, db: Database, bus: Bus, secret: Secret, audit: Audit) -> SigningKeys:
    times = KeyTimes(settings.jwks_max_age, LONGEST_TOKEN_LIFE)
    return SigningKeys(db, secret, audit, bus, times=times, clock=utc_now)


@asynccontextmanager
async def _key_ring(settings: AuthSettings, keys: SigningKeys, bus: Bus, secret: Secret) -> AsyncIterator[KeyRing]:
    ring = KeyRing(keys, secret, jwks=settings.jwks_max_age, clock=utc_now)
    unsubscribe = ring.subscribe(bus)
    try:
        async with in_background(ring.reload_for_ever(), "reload-keys"):
            yield ring
    finally:
        unsubscribe()


@asynccontextmanager
async def _identity(
    settings: AuthSettings, ring: KeyRing, watch: RevocationWatch, refusals: Refusals
) -> AsyncIterator[Identity]:
    """Auth as one who accepts tokens: it has keys, revocations and the audit log at hand where others ask for them."""
    revoked = RevokedSessions(is_complete=False, patience=FIRST_SECONDS)
    verifier = TokenVerifier(ring, issuer=settings.token_issuer, audience=settings.token_audience, revoked=revoked)
    ring.on_gone = verifier.forget_all
    try:
        async with (
            in_background(watch.follow_into(revoked), "follow-revocations"),
            in_background(refusals.record_for_ever(), "record-refusals"),
        ):
            yield Identity(verifier, revoked, is_ready=lambda: revoked.is_complete, on_refusal=refusals.note)
    finally:
        await refusals.record_last()


def _built_in_secrets(settings: AuthSettings) -> Mapping[str, str]:
    return {
        name: settings.service_secrets.get(name) or kept_service_secret(settings.data_dir, name)
        for name in BUILT_IN_SERVICES
    }


def _secret(settings: AuthSettings) -> Secret:
    if settings.auth_secret_key is not None:
        return Secret.from_base64(settings.auth_secret_key.get_secret_value())
    return Secret.from_file(settings.data_dir / "auth-secret.key")
