"""Passwords, tokens, codes and keys are in no log and nowhere in the database, whatever was done with them.

A journey through everything that handles secrets, against real processes that log all they can, for people and for
machines; afterwards `pg_dump` and all logs are searched. What a caller types is in no log either, secret or not.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1 import user_service_pb2 as users
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.auth.v1.user_service_pb2_grpc import UserServiceStub
from services.auth.domain.secret import Secret
from services.kit.secret_files import read_or_make_secret
from tests.cli.test_demo import free_ports
from tests.hush import Processes, Secrets, dump_of, filled, private_keys, processes
from tests.stage import all_rpcs, first_answer
from tests.support import Metadata, bearer, reason_of, status_of

pytestmark = pytest.mark.slow

FORMATS = ("console", "json")
DEADLINE = 60.0
CODE = re.compile(r"^\s+([0-9A-Z]{4}(?:-[0-9A-Z]{4})+)\s*$", re.MULTILINE)


@dataclass
class Scene:
    """What runs, and the secrets that have come up so far."""

    processes: Processes
    database_url: str
    auth: Mapping[str, grpc.aio.Channel]
    """One process for each format of logs."""
    others: Mapping[str, grpc.aio.Channel]
    kept: Secrets = field(default_factory=Secrets)
    """What is neither in a log nor in the database."""
    typed: Secrets = field(default_factory=Secrets)
    """What is in no log."""

    def execute(self, statement: str, *values: Any) -> None:
        """Change the database behind the services' backs."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement.encode(), values)

    def password(self, what: str) -> str:
        """A new password, which is to be kept."""
        made = f"the canary sang {secrets.token_hex(12)}"
        self.kept.add(f"the {what} password", made)
        return made

    def typing(self, what: str, is_secret: bool) -> str:
        """Something that a caller types into a field."""
        made = f"Typed{secrets.token_hex(12)}"
        (self.kept if is_secret else self.typed).add(what, made)
        return made


@pytest.fixture
async def scene(database_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    """Two processes of auth, the others, and two workers; everything logs in one of the formats."""
    auth_ports = dict(zip(FORMATS, free_ports(2), strict=True))
    with processes(database_url, tmp_path) as started:
        at = {
            "agent": started.start("agent", "json", auth_ports["json"]),
            "file": started.start("file", "console", auth_ports["console"]),
            "chat": started.start("chat", "json", auth_ports["console"]),
        }
        auth_at = {kind: started.start("auth", kind, port) for kind, port in auth_ports.items()}
        for kind in FORMATS:
            started.start("worker", kind, auth_ports[kind])
        opened = {address: grpc.aio.insecure_channel(address) for address in (*at.values(), *auth_at.values())}
        try:
            await asyncio.gather(*(_until_serving(channel) for channel in opened.values()))
            yield Scene(
                started,
                database_url,
                {kind: opened[address] for kind, address in auth_at.items()},
                {name: opened[address] for name, address in at.items()},
            )
        finally:
            for channel in opened.values():
                await channel.close()


async def test_no_secret_is_in_the_database_or_in_a_log_after_all_that_can_be_done_with_it(scene: Scene) -> None:
    for kind, channel in scene.auth.items():
        await _live(scene, kind, channel)
    await _type_nonsense(scene)
    data_dir = scene.processes.data_dir
    secret = read_or_make_secret(data_dir / "auth-secret.key")
    scene.kept.add("the secret of auth", secret)
    for path in (data_dir / "services").glob("*.secret"):
        scene.kept.add(f"the secret of {path.stem}", read_or_make_secret(path))
    keys = private_keys(scene.database_url, Secret(secret))
    assert len(keys) >= 2
    for kid, private in keys.items():
        scene.kept.add_key(f"the private key {kid[:6]}", private)

    exits = scene.processes.stop()
    assert set(exits.values()) == {0}, exits
    logs = scene.processes.logs()
    assert len(logs) == 7
    for name, log in logs.items():
        assert ("worker" in name and "job done" in log) or ("rpc" in log and "method" in log), name
        assert scene.kept.found_in(log) == [], name
        assert scene.typed.found_in(log) == [], name
        assert "eyJ" not in log, f"a token in the log of {name}"
    dump = dump_of(scene.database_url)
    assert "ann.json@example.com" in dump
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in dump
    assert scene.kept.found_in(dump) == []
    # What is searched for is found where it may be.
    assert "the name of a device as text" in scene.typed.found_in(dump)


async def _live(scene: Scene, kind: str, channel: grpc.aio.Channel) -> None:
    """All that a user, an administrator and a service do with secrets, against one process of auth."""
    auth, email = AuthServiceStub(channel), f"ann.{kind}@example.com"
    first, second, third = (scene.password(which) for which in ("first", "second", "third"))
    await auth.Register(pb2.RegisterRequest(email=email, password=first, full_name="Ann Arbor"), timeout=DEADLINE)
    stranger = f"nobody.{secrets.token_hex(8)}@example.com"
    scene.typed.add("an address that is not registered", stranger)
    for wrong_email in (email, stranger):
        await _refused(auth.Login(pb2.LoginRequest(email=wrong_email, password=scene.password("wrong"))))

    await _refresh_and_be_robbed(scene, auth, await _sign_in(scene, auth, email, first))
    me = bearer((await _sign_in(scene, auth, email, first)).access_token)
    wrong = pb2.ChangePasswordRequest(current_password=scene.password("wrong"), new_password=second)
    await _refused(auth.ChangePassword(wrong, metadata=me))
    await auth.ChangePassword(
        pb2.ChangePasswordRequest(current_password=first, new_password=second), metadata=me, timeout=DEADLINE
    )

    await auth.RequestPasswordReset(pb2.RequestPasswordResetRequest(email=email), timeout=DEADLINE)
    code = await _mailed_code(scene, email, "Reset")
    miss = _another(code)
    scene.kept.add_code("a wrong code", miss)
    for tried in (miss, code):
        request = pb2.ResetPasswordRequest(email=email, code=tried, new_password=third)
        await (_refused if tried == miss else _answered)(auth.ResetPassword(request, timeout=DEADLINE))
    me = bearer((await _sign_in(scene, auth, email, third)).access_token)

    # The address counts as verified by now. So that there is something to verify:
    scene.execute("UPDATE auth.users SET email_verify_time = NULL WHERE email = %s", email)
    await auth.RequestEmailVerification(pb2.RequestEmailVerificationRequest(), metadata=me, timeout=DEADLINE)
    code = await _mailed_code(scene, email, "Verify")
    await auth.VerifyEmail(pb2.VerifyEmailRequest(code=code), metadata=me, timeout=DEADLINE)

    scene.execute("UPDATE auth.users SET is_admin = true WHERE email = %s", email)
    admin = bearer((await _sign_in(scene, auth, email, third)).access_token)
    await _administer(scene, kind, channel, admin)
    await _break_down(scene, auth, email, third)


async def _sign_in(scene: Scene, auth: AuthServiceStub, email: str, password: str) -> pb2.TokenPair:
    device = scene.typing("the name of a device", is_secret=False)
    request = pb2.LoginRequest(email=email, password=password, device_label=device)
    tokens = (await auth.Login(request, timeout=DEADLINE)).tokens
    return _noted(scene, tokens)


def _noted(scene: Scene, tokens: pb2.TokenPair) -> pb2.TokenPair:
    scene.kept.add("a refresh token", tokens.refresh_token)
    scene.kept.add_token("an access token", tokens.access_token)
    return tokens


async def _refresh_and_be_robbed(scene: Scene, auth: AuthServiceStub, tokens: pb2.TokenPair) -> None:
    """A token is exchanged, and long afterwards once more."""
    request = pb2.RefreshTokenRequest(refresh_token=tokens.refresh_token)
    _noted(scene, (await auth.RefreshToken(request, timeout=DEADLINE)).tokens)
    scene.execute("UPDATE auth.refresh_tokens SET exchange_time = exchange_time - interval '1 minute'")
    assert await _refused(auth.RefreshToken(request, timeout=DEADLINE)) == "REFRESH_TOKEN_REUSED"
    made_up = secrets.token_urlsafe(32)
    scene.kept.add("a refresh token that was made up", made_up)
    await _refused(auth.RefreshToken(pb2.RefreshTokenRequest(refresh_token=made_up), timeout=DEADLINE))


async def _administer(scene: Scene, kind: str, channel: grpc.aio.Channel, admin: Metadata) -> None:
    """A service account and its secrets, and a new signing key."""
    auth, user_service = AuthServiceStub(channel), UserServiceStub(channel)
    create = users.CreateServiceAccountRequest(name=f"robot-{kind}", methods=["parley.auth.v1.AuthService/*"])
    made = await user_service.CreateServiceAccount(create, metadata=admin, timeout=DEADLINE)
    account_id = made.service_account.id
    rotate = users.RotateServiceAccountSecretRequest(service_account_id=account_id)
    rotated = await user_service.RotateServiceAccountSecret(rotate, metadata=admin, timeout=DEADLINE)
    wrong = secrets.token_urlsafe(32)
    for what, secret in (("old", made.client_secret), ("new", rotated.client_secret), ("wrong", wrong)):
        scene.kept.add(f"the {what} secret of a service", secret)
        issue = pb2.IssueServiceTokenRequest(client_id=f"robot-{kind}", client_secret=secret)
        if secret == wrong:
            await _refused(auth.IssueServiceToken(issue, timeout=DEADLINE))
        else:
            issued = await auth.IssueServiceToken(issue, timeout=DEADLINE)
            scene.kept.add_token("a service's token", issued.access_token)

    key = await user_service.CreateSigningKey(users.CreateSigningKeyRequest(), metadata=admin, timeout=DEADLINE)
    kid = key.signing_key.kid
    scene.execute("UPDATE auth.signing_keys SET create_time = create_time - interval '1 day' WHERE kid = %s", kid)
    activate = users.ActivateSigningKeyRequest(kid=kid)
    await user_service.ActivateSigningKey(activate, metadata=admin, timeout=DEADLINE)
    delete = users.DeleteServiceAccountRequest(service_account_id=account_id)
    await user_service.DeleteServiceAccount(delete, metadata=admin, timeout=DEADLINE)


async def _break_down(scene: Scene, auth: AuthServiceStub, email: str, password: str) -> None:
    """The server has a fault while it holds secrets."""
    scene.execute("ALTER TABLE auth.users RENAME COLUMN password_hash TO password_hash_")
    try:
        login = auth.Login(pb2.LoginRequest(email=email, password=password), timeout=DEADLINE)
        assert await _refused(login) == "INTERNAL"
        request = pb2.RegisterRequest(email="eve@example.com", password=scene.password("unlucky"), full_name="Eve")
        assert await _refused(auth.Register(request, timeout=DEADLINE)) == "INTERNAL"
    finally:
        scene.execute("ALTER TABLE auth.users RENAME COLUMN password_hash_ TO password_hash")


async def _type_nonsense(scene: Scene) -> None:
    """Every RPC of every service with something in all of its strings: as nobody, and as an administrator."""
    email, password = "root@example.com", scene.password("administrator's")
    auth = AuthServiceStub(scene.auth["console"])
    await auth.Register(pb2.RegisterRequest(email=email, password=password, full_name="Root"), timeout=DEADLINE)
    scene.execute("UPDATE auth.users SET is_admin = true WHERE email = %s", email)
    admin = bearer((await _sign_in(scene, auth, email, password)).access_token)
    forged = scene.typing("a token that was made up", is_secret=True)
    faults = []
    # What ends the session that this is done with comes last.
    for rpc, method in sorted(all_rpcs().items(), key=lambda each: each[0].endswith("/Logout")):
        service = rpc.split(".")[1]
        channels = scene.auth.values() if service == "auth" else (scene.others[service],)
        for channel in channels:
            for metadata in (None, bearer(forged), admin):
                for message in filled(method.input_type, rpc, scene.typing):
                    try:
                        await first_answer(channel, method, [message.SerializeToString()], metadata)
                    except grpc.aio.AioRpcError as error:
                        if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
                            faults.append(f"{rpc}: {error.details()}")
    assert faults == []
    assert len(scene.typed) > 100


async def _mailed_code(scene: Scene, email: str, subject: str) -> str:
    """The code in the mail with this subject; it is to be kept."""
    async with asyncio.timeout(DEADLINE):
        while True:
            for path in (scene.processes.data_dir / "mail").glob("*.eml"):
                mail: Any = message_from_bytes(path.read_bytes(), policy=default)
                if email in str(mail["To"]) and subject in str(mail["Subject"]):
                    (code,) = CODE.findall(mail.get_content())
                    scene.kept.add_code("a mailed code", code)
                    return str(code)
            await asyncio.sleep(0.05)


def _another(code: str) -> str:
    return code[::-1] if code[::-1] != code else "0" + code[1:]


async def _answered(call: Any) -> Any:
    return await call


async def _refused(call: Any) -> str:
    """The reason for which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(status_of(caught.value))


async def _until_serving(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(DEADLINE):
        while True:
            answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=DEADLINE)
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(0.05)
