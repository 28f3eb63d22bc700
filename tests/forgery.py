"""Forged and altered access tokens: what an attacker can make of a good token, the public key, and keys of its own."""

import base64
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.kit import base64url
from services.kit.access import MAX_TOKEN_BYTES
from tests.support import KID, TestKeys, bearer

Claims: TypeAlias = dict[str, Any]
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

# The order of the base point (RFC 8032 §5.1): S + L verifies wherever S is not checked to be less.
L = 2**252 + 27742317777372353535851937790883648493


class Forger:
    """Makes forgeries of one good token. It holds the private key, for what a signature alone would let in."""

    def __init__(self, keys: TestKeys, claims: Claims, other: Claims) -> None:
        self._keys = keys
        self._claims = claims
        self._other = other
        """The claims of another caller's good token."""
        self._mine = Ed25519PrivateKey.generate()
        self.good = self.signed()

    def signed(self, header: Claims | None = None, **changed: Any) -> str:
        """A token that auth could have signed, with other headers and claims; None takes a claim out."""
        return self.claiming(changed, header)

    def claiming(self, changed: Claims, header: Claims | None = None) -> str:
        """The same, for claims whose names are not known here."""
        claims = {name: value for name, value in (self._claims | changed).items() if value is not None}
        return self._sealed({"alg": "EdDSA", "typ": "at+jwt", "kid": KID} | dict(header or {}), claims)

    def all(self) -> dict[str, Metadata]:
        """Every forgery, by what it is, as the metadata of a call."""
        tokens = dict(self._by_header()) | dict(self._by_claims()) | dict(self._by_signature()) | dict(self._by_form())
        return {what: bearer(token) for what, token in tokens.items()} | dict(self._by_metadata())

    def _by_header(self) -> Iterator[tuple[str, str]]:
        for name in ("none", "None", "NONE", "nOnE", ""):
            yield f"alg {name!r}, no signature", self._unsigned({"alg": name})
        yield "alg none, with the good signature", self._unsigned({"alg": "none"}) + self.good.rsplit(".", 1)[1]
        yield "no alg at all", self._unsigned({}) + self.good.rsplit(".", 1)[1]
        for name, key in self._public_forms().items():
            yield f"HS256 keyed with the public key as {name}", self._hmac("HS256", SHA256(), key)
        for name, kind in (("HS384", SHA384()), ("HS512", SHA512())):
            yield f"{name} keyed with the public key", self._hmac(name, kind, self._public_forms()["PEM"])
        yield "HS256 keyed with nothing", self._hmac("HS256", SHA256(), b"")
        for alg in ("eddsa", "Ed25519", "ES256", "RS256", "EdDSA ", ["EdDSA"], None, 8):
            yield f"alg {alg!r} over a good signature", self.signed({"alg": alg})
        yield "ES256 with a key of one's own in the header", self._es256()
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(self._mine.public_key().public_bytes_raw())}
        for name, value in {
            "jwk": jwk,
            "jku": "http://127.0.0.1:9/jwks.json",
            "x5u": "http://127.0.0.1:9/cert.pem",
            "x5c": [base64.b64encode(self._mine.public_key().public_bytes_raw()).decode()],
        }.items():
            yield f"{name} with a key of one's own", self._sealed(self._header({name: value}), self._claims, self._mine)
            yield f"{name} beside a good signature", self.signed({name: value})
        yield "unknown crit", self.signed({"crit": ["exp2"], "exp2": 1})
        yield "known crit", self.signed({"crit": ["exp"], "exp": 9_999_999_999})
        yield "empty crit", self.signed({"crit": []})
        yield "b64 false", self.signed({"crit": ["b64"], "b64": False})
        yield "compressed", self.signed({"zip": "DEF"})
        for typ in ("JWT", "", "at+jwt;x", "refresh+jwt", None, ["at+jwt"], 1):
            yield f"typ {typ!r}", self.signed({"typ": typ})
        path = "../../../../dev/null"
        for kid in (path, f"{KID}\0", KID.upper(), "", "' OR 1=1 --", "k" * 2000, None, 7, [KID]):
            yield f"kid {str(kid)[:30]!r} of {type(kid).__name__}", self.signed({"kid": kid})
        yield (
            "kid of a key that is gone",
            self._sealed(self._header({"kid": "a-key-that-is-gone"}), self._claims, self._mine),
        )
        yield (
            "kid twice in the header",
            self._raw(f'{{"alg":"EdDSA","typ":"at+jwt","kid":"x","kid":"{KID}","alg":"none"}}'),
        )
        yield "alg twice, none first and last", self._raw(f'{{"alg":"none","typ":"at+jwt","kid":"{KID}","alg":"none"}}')
        yield "the header is a list", self._raw('["EdDSA"]')
        yield "the header is not JSON", self._raw("EdDSA")

    def _by_claims(self) -> Iterator[tuple[str, str]]:
        now = int(time.time())
        for name in ("iss", "aud", "sub", "sid", "client_id", "jti", "iat", "exp"):
            yield f"without {name}", self.claiming({name: None})
        for name in ("iss", "aud"):
            for value in ("", "Parley", "parley ", ["parley"], ["parley", "others"], {"parley": 1}, 7):
                yield f"{name} {value!r}", self.claiming({name: value})
        for name in ("sub", "sid"):
            for odd in ("", "ann", 7, ["x"], {"id": 1}):
                yield f"{name} {odd!r}", self.claiming({name: odd})
        for no_time in (0, -1, "", "never", [now + 900], {"at": now + 900}, float("nan"), float("-inf")):
            yield f"exp {no_time!r}", self.signed(exp=no_time)
        yield "exp a second ago", self.signed(exp=now - 1)
        yield "exp an hour ago", self.signed(exp=now - 3600)
        yield "exp Infinity", self.signed(exp=float("inf"))
        yield "exp as digits beyond any clock", self.signed(exp=10**400)
        yield "exp beyond any clock", self.signed(exp=1e308)
        yield "issued in an hour", self.signed(iat=now + 3600, exp=now + 7200)
        yield "issued in two minutes", self.signed(iat=now + 120)
        yield "not before in an hour", self.signed(nbf=now + 3600)
        for name in ("iat", "nbf"):
            for wrong in ("soon", [now], {"at": now}, float("nan"), float("inf")):
                yield f"{name} {wrong!r}", self.claiming({name: wrong})

    def _by_signature(self) -> Iterator[tuple[str, str]]:
        head, payload, signature = self.good.split(".")
        raw = base64url.decode(signature)
        yield "signed with another key", self._sealed(self._header({}), self._claims, self._mine)
        yield "without a signature", f"{head}.{payload}."
        yield "the signature of another token", f"{head}.{payload}.{self.signed(jti=str(uuid4())).rsplit('.', 1)[1]}"
        yield "a signature of zeros", f"{head}.{payload}.{base64url.encode(bytes(64))}"
        big = int.from_bytes(raw[32:], "little") + L
        yield "S + L in the signature", f"{head}.{payload}.{base64url.encode(raw[:32] + big.to_bytes(32, 'little'))}"
        # The neutral element as R and as a public key: verifies for "any" message where small orders are let in.
        neutral = (1).to_bytes(32, "little")
        yield "R of small order, S zero", f"{head}.{payload}.{base64url.encode(neutral + bytes(32))}"
        yield "one bit of the signature flipped", f"{head}.{payload}.{base64url.encode(bytes([raw[0] ^ 1]) + raw[1:])}"
        yield "a byte after the signature", f"{head}.{payload}.{base64url.encode(raw + b'x')}"
        yield "the signature's first half", f"{head}.{payload}.{base64url.encode(raw[:32])}"
        for name in ("sub", "sid", "scope", "methods"):
            changed = self._claims | {name: self._other.get(name, "admin service")}
            yield f"another's {name} under the same signature", f"{head}.{_json(changed)}.{signature}"
        yield (
            "another's sub and sid",
            f"{head}.{_json(self._claims | {n: self._other[n] for n in ('sub', 'sid')})}.{signature}",
        )
        yield (
            "a later exp under the same signature",
            f"{head}.{_json(self._claims | {'exp': 9_999_999_999})}.{signature}",
        )
        yield "another header under the same signature", f"{_json(self._header({'kid': 'x'}))}.{payload}.{signature}"

    def _by_form(self) -> Iterator[tuple[str, str]]:
        head, payload, signature = self.good.split(".")
        for length in (1, len(head), len(head) + 1, len(head) + 20, len(self.good) - 44, len(self.good) - 1):
            yield f"cut off after {length}", self.good[:length]
        yield "two parts", f"{head}.{payload}"
        yield "four parts", f"{self.good}.{signature}"
        yield "five parts, like a JWE", f"{self.good}.{payload}.{signature}"
        yield "only dots", ".."
        yield "an empty payload", f"{head}..{signature}"
        yield "swapped parts", f"{payload}.{head}.{signature}"
        yield "padded", f"{head}.{payload}.{signature}=="
        yield "padding in the middle", f"{head}=.{payload}=.{signature}"
        yield "a space in it", f"{head}. {payload}.{signature}"
        yield "a space behind it", f"{self.good} "
        yield "two spaces before it", f" {self.good}"
        yield "a comma and another behind it", f"{self.good}, Bearer {self.good}"
        yield "twice, with a space", f"{self.good} {self.good}"
        yield "in quotes", f'"{self.good}"'
        yield "in standard base64", f"{head}.{payload}.{base64.b64encode(base64url.decode(signature)).decode()}"
        yield "in upper case", self.good.upper()
        yield "a token in a token", self._sealed(self._header({"cty": "JWT"}), self.good)
        yield "a payload that is a string", self._sealed(self._header({}), self.good)
        yield "a payload that is a list", self._sealed(self._header({}), [self._claims])
        yield "a payload that is null", self._sealed(self._header({}), None)
        yield "a payload that is no JSON", self._sealed(self._header({}), b"{")
        yield "a payload of other bytes", self._sealed(self._header({}), b"\xff\xfe")
        yield "nested a thousand deep", self._sealed(self._header({}), b"[" * 1000 + b"]" * 1000)
        yield "longer than any token", self.signed(filling="x" * MAX_TOKEN_BYTES)
        yield "a flattened JWS", json.dumps({"protected": head, "payload": payload, "signature": signature})
        yield "the refresh token's form", base64url.encode(bytes(range(32)))

    def _by_metadata(self) -> Iterator[tuple[str, Metadata]]:
        forged = self._sealed(self._header({}), self._claims, self._mine)
        (good,), (bad,) = bearer(self.good), bearer(forged)
        yield "nothing", ()
        yield "the good token twice", (good, good)
        yield "the good token and then a forged one", (good, bad)
        yield "a forged token and then the good one", (bad, good)
        for scheme in ("", "Basic ", "Bearer", "DPoP ", "Bearer: ", "Bearer  "):
            yield f"scheme {scheme!r}", (("authorization", f"{scheme}{self.good}"),)
        yield "no token", (("authorization", "Bearer"),)
        yield "an empty token", (("authorization", "Bearer "),)
        yield "an empty header", (("authorization", ""),)
        for name in ("x-authorization", "proxy-authorization", "cookie"):
            yield f"in the header {name}", ((name, f"Bearer {self.good}"),)
        yield "in binary metadata", (("authorization-bin", f"Bearer {self.good}".encode()),)

    def _public_forms(self) -> dict[str, bytes]:
        public = self._keys.private.public_key()
        raw = public.public_bytes_raw()
        jwk = {"kty": "OKP", "crv": "Ed25519", "kid": KID, "x": base64url.encode(raw), "alg": "EdDSA", "use": "sig"}
        return {
            "raw bytes": raw,
            "base64url": base64url.encode(raw).encode(),
            "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "JWK": json.dumps(jwk, separators=(",", ":")).encode(),
        }

    def _header(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        return {"alg": "EdDSA", "typ": "at+jwt", "kid": KID} | dict(changed)

    def _unsigned(self, algorithm: Mapping[str, Any]) -> str:
        return f"{_json({'typ': 'at+jwt', 'kid': KID} | dict(algorithm))}.{_json(self._claims)}."

    def _hmac(self, alg: str, kind: HashAlgorithm, key: bytes) -> str:
        said = f"{_json(self._header({'alg': alg}))}.{_json(self._claims)}"
        mac = HMAC(key, kind)
        mac.update(said.encode())
        return f"{said}.{base64url.encode(mac.finalize())}"

    def _es256(self) -> str:
        key = generate_private_key(SECP256R1())
        jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
        said = f"{_json(self._header({'alg': 'ES256', 'jwk': jwk}))}.{_json(self._claims)}"
        return f"{said}.{base64url.encode(key.sign(said.encode(), ECDSA(SHA256())))}"

    def _raw(self, header: str) -> str:
        """The good claims, rightly signed, under a header of this text."""
        said = f"{base64url.encode(header.encode())}.{_json(self._claims)}"
        return f"{said}.{base64url.encode(self._keys.private.sign(said.encode()))}"

    def _sealed(self, header: Mapping[str, Any], payload: Any, key: Ed25519PrivateKey | None = None) -> str:
        said = f"{_json(header)}.{_json(payload)}"
        return f"{said}.{base64url.encode((key or self._keys.private).sign(said.encode()))}"


def _json(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64url.encode(raw)
