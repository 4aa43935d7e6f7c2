"""Access tokens: JSON Web Tokens (RFC 7519, with the profile of RFC 9068) that name a session, for some minutes."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from joserfc import jwt
from joserfc.errors import BadSignatureError, ExpiredTokenError, JoseError
from joserfc.jwk import GuestProtocol, OctKey

from kernel import Cache, UnauthorizedError
from plugins.accounts.sign_in.sessions import Session, Sessions
from plugins.accounts.sign_in.signing_keys import SigningKeys
from plugins.accounts.sign_in.users import SignedInUser

# The only algorithm, whatever a token says: the service that signs is the one that verifies.
_ALGORITHM = "HS256"
_TYPE = "at+jwt"
_ISSUER = "tiercel"
# By how much clocks of the machines of a service may differ.
LEEWAY_S = 30
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LENGTH_MAX = 2048
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_NAME = "the access token"


class VerifiedToken(NamedTuple):
    """What was found in an access token that is signed by this service.

    Args:
        session: Number of its session.
        expires_at: Unix time.
        kid: Name of the key that signed it.
        secret: That key.
    """

    session: int
    expires_at: int
    kid: str
    secret: bytes


class AccessTokens:
    """Issues and verifies access tokens.

    Args:
        keys: Sign them.
        sessions: What they are good for.
        lifetime_s: How long one is good.
        now: The clock.
        cache: Tokens whose signatures were verified, by hash. Whether they still are good is asked each time.
    """

    def __init__(
        self,
        keys: SigningKeys,
        sessions: Sessions,
        lifetime_s: int,
        now: Callable[[], datetime],
        cache: Cache[bytes, VerifiedToken],
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._lifetime_s = lifetime_s
        self._now = now
        self._cache = cache

    def issue(self, session: Session) -> tuple[str, int]:
        """Return an access token of a session, and for how many seconds it is good. It does not outlive the session."""
        now = int(self._now().timestamp())
        expires_at = min(now + self._lifetime_s, int(session.expires_at.timestamp()))
        key = self._keys.current_jwt()
        claims = {
            "iss": _ISSUER,
            "aud": _ISSUER,
            "sub": str(session.user_id),
            "sid": str(session.id),
            "iat": now,
            "exp": expires_at,
            "jti": secrets.token_urlsafe(12),
        }
        header = {"alg": _ALGORITHM, "kid": key.kid, "typ": _TYPE}
        token = jwt.encode(header, claims, _import_key(key.secret), algorithms=[_ALGORITHM])
        return token, expires_at - now

    def authenticate(self, text: str) -> tuple[Session, SignedInUser]:
        """Return the session of an access token, and its user.

        Raises:
            UnauthorizedError: It is malformed, wrongly signed, expired, not valid yet or revoked.
        """
        return self._sessions.find_good(self._verify(text), _NAME)

    def _verify(self, text: str) -> int:
        """Return the session of a token."""
        if len(text) > _LENGTH_MAX or not _TOKEN.fullmatch(text):
            raise _refused("malformed")
        digest = hashlib.sha256(text.encode()).digest()
        verified = self._cache.get(digest)
        if verified is None or not self._is_good(verified):
            # Says what is wrong with one that is not good any more.
            verified = self._decode(text)
            self._cache.set(digest, verified)
        return verified.session

    def _is_good(self, verified: VerifiedToken) -> bool:
        key = self._keys.find_jwt(verified.kid)
        is_current = key is not None and key.secret == verified.secret
        return is_current and self._now().timestamp() < verified.expires_at + LEEWAY_S

    def _decode(self, text: str) -> VerifiedToken:
        try:
            token = jwt.decode(text, self._find_key, algorithms=[_ALGORITHM])
            self._claims_registry().validate(token.claims)
        except ExpiredTokenError:
            raise _refused("expired") from None
        except BadSignatureError:
            raise _refused("not signed by this service") from None
        # What is no JSON or no base64 is a ValueError; what is nested too deeply a RecursionError.
        except (JoseError, ValueError, RecursionError):
            raise _refused("malformed") from None
        claims = token.claims
        if token.header.get("typ") != _TYPE or not all(
            isinstance(claims[name], str) and _NUMBER.fullmatch(claims[name]) for name in ("sub", "sid")
        ):
            raise _refused("malformed")
        kid = token.header["kid"]
        key = self._keys.find_jwt(kid)
        if key is None:  # forgotten in this moment
            raise _refused("not signed by this service")
        return VerifiedToken(int(claims["sid"]), int(claims["exp"]), kid, key.secret)

    def _find_key(self, token: GuestProtocol) -> OctKey:
        kid = token.headers().get("kid")
        key = self._keys.find_jwt(kid) if isinstance(kid, str) else None
        if key is None:
            raise BadSignatureError
        return _import_key(key.secret)

    def _claims_registry(self) -> jwt.JWTClaimsRegistry:
        return jwt.JWTClaimsRegistry(
            now=int(self._now().timestamp()),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": _ISSUER},
            aud={"essential": True, "value": _ISSUER},
            sub={"essential": True},
            sid={"essential": True},
            iat={"essential": True},
            exp={"essential": True},
        )


@lru_cache(maxsize=8)
def _import_key(secret: bytes) -> OctKey:
    # Looks whether it is a key of another kind, which takes as long as all the rest.
    return OctKey.import_key(secret)


def _refused(reason: str) -> UnauthorizedError:
    return UnauthorizedError(detail=f"{_NAME} is {reason}")
