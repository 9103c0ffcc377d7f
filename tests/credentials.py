"""Tokens and key sets for tests of who may do what."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SECRET = "a secret of the tests, thirty-two bytes or more"
OTHER_SECRET = "another secret of the tests, also long enough"


def token(secret: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **claims: Any) -> str:
    """A token that ends in an hour, longer than the suite takes; a claim that is None is left out."""
    given = {"exp": int(time.time()) + 3600, "sub": "tester", **claims}
    payload = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(payload, secret, algorithm, headers={"kid": kid} if kid else None)


def bearer(text: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {text}"}


def admin(tenant: str | None = None) -> dict[str, str]:
    """The header of somebody who may do everything in a tenant."""
    return bearer(token(scope="admin", tenant=tenant))


def key_pair(algorithm: str) -> Any:
    """A private key for an asymmetric algorithm."""
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def key_set(**keys: Any) -> bytes:
    """A JWKS of the public halves of private keys, by kid."""
    entries = []
    for kid, private in keys.items():
        public = private.public_key()
        algorithm = {"RSA": "RS256", "EC": "ES256"}.get(type(private).__name__.lstrip("_").split("P")[0], "EdDSA")
        entry = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
        entries.append({**entry, "kid": kid, "use": "sig", "alg": algorithm})
    return json.dumps({"keys": entries}).encode()
