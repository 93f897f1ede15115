"""Which host a client talks to, under which provider name, and which key may go there.

In: a configured base URL (None: the local stand-in) and the name of an environment variable. Out: a provider name for
ledger and fingerprint, and a key. A key belongs to a host: one that is known to be another host's is never sent.
Opens no connection.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from pydantic import ConfigDict, Field

from agentflow.clients.retry import Patience
from agentflow.config import Frozen, Where, identity
from agentflow.errors import ConfigError, MissingKeyError
from agentflow.records import canonical_json, sha256_text

LOCAL_KEY = "local"
# What the stand-ins get; it is no secret.
NO_KEY = "none"
# What a host gets whose configuration says that it needs no key (`api_key_env: ""`).
KEY_OWNERS = {"OPENAI_API_KEY": "api.openai.com", "TAVILY_API_KEY": "api.tavily.com"}
WITHOUT_SCHEMAS = frozenset({"api.deepseek.com"})
# Hosts known to refuse a `response_format` with a JSON schema (400); they take {"type": "json_object"}.
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class ServiceConfig(Frozen):
    """A paid service at a real host, or its local stand-in. Prices, keys, limits and addresses are `Where`: of the
    place only `provider` enters an identity.
    """

    model_config = ConfigDict(allow_inf_nan=False)  # a price of nan would pass every budget

    base_url: Annotated[str | None, Where()] = None
    # E.g. https://api.deepseek.com/v1 or https://api.tavily.com. Empty: the local stand-in.
    local: Annotated[Frozen, Where()] = Frozen()
    # Settings of the stand-in.
    default_key_env: ClassVar[str]
    api_key_env: Annotated[str | None, Where()] = None
    # Name of the variable with the key of `base_url`'s host; "" if it needs none (a search always needs one). None:
    # `default_key_env`, which is sent to its owner alone. The stand-in never gets a key.
    max_attempts: Annotated[int, Where()] = Field(default=5, ge=1)
    concurrency: Annotated[int, Where()] = Field(default=16, ge=1)
    # Requests in flight in one process at most; fewer while the service answers 429.
    patience: Annotated[Patience, Where()] = Patience()

    @property
    def provider(self) -> str:
        """`local/<8 hex>` or scheme and host; raises ConfigError for a base URL that is none."""
        return provider_name(self.base_url, self.local)

    @property
    def key_env(self) -> str:
        """Name of the variable with the key; "" for none."""
        return self.default_key_env if self.api_key_env is None else self.api_key_env

    def extra_identity(self) -> dict[str, Any]:
        place: dict[str, Any] = {"provider": self.provider}
        if self.base_url is None:
            place["local"] = identity(self.local)
        return place


def split_url(base_url: str) -> SplitResult:
    """`base_url` in parts. Raises ConfigError unless it is http(s)://HOST[:PORT][/PATH] without anything secret."""
    allowed = "give http(s)://HOST[:PORT][/PATH]"
    try:
        parts = urlsplit(base_url)
        parts.port  # noqa: B018 (raises ValueError if it is no number)
    except ValueError as error:
        raise ConfigError(f"base_url cannot be read ({error}); {allowed}") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # Not repeated in the message: it may hold a secret.
        raise ConfigError(f"base_url holds a user, password, query or fragment; {allowed}, and keys by api_key_env")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ConfigError(f"base_url {base_url!r} is no address of a service; {allowed}")
    return parts


def provider_name(base_url: str | None, local: Frozen) -> str:
    """`local/<8 hex of the stand-in's settings>`, or scheme and host of a real service (port unless the default)."""
    if base_url is None:
        return f"local/{sha256_text(canonical_json(identity(local)))[:8]}"
    parts = split_url(base_url)
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}{port}"


def limit_key(provider: str, api_key: str) -> str:
    """Name of a key's limits in the ledger: a hash, so that the key cannot be read from it."""
    return sha256_text(f"{provider}\n{api_key}")


def key_for(base_url: str, api_key_env: str, *, chosen: bool, service: str) -> str:
    """The key for the real host of `base_url`, from the environment.

    `chosen` says that the configuration names `api_key_env` itself: then the user has said that this key goes to this
    host. Raises MissingKeyError if the variable is unset, empty, or by default another host's. Never keyless, unless
    `api_key_env` is empty.
    """
    if api_key_env == "":
        return NO_KEY
    if not _VARIABLE.match(api_key_env):
        # Somebody may have put the key itself here, so it is not repeated.
        raise MissingKeyError(f"{service}.api_key_env is no name of an environment variable; put only the name there")
    host = split_url(base_url).hostname
    owner = KEY_OWNERS.get(api_key_env, host)
    if not chosen and owner != host:
        raise MissingKeyError(
            f"{api_key_env} is the key of {owner} and is not sent to {host}; put the key of {host} in a variable and "
            f"name it in {service}.api_key_env (the same name is fine if it holds that key; empty if it needs none)"
        )
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise MissingKeyError(
            f"{service}.base_url is {base_url} but the environment variable {api_key_env} is not set; "
            f"set it to the key of {host}, or leave base_url out to use the local stand-in"
        )
    return key
