"""What a virtual key made at run time may do, as it is stored: the fields of `auth.keys` but for id and credential."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from fastroute.config.ceilings import Limits
from fastroute.config.fields import Identifier, ModelName
from fastroute.config.schema import ApiKey, Budget

#: Bounds the size of a key's terms.
MAX_MODELS: Final = 256


class Terms(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Terms of one key; many keys have the same."""

    tenant: Identifier = "default"
    models: Annotated[tuple[ModelName, ...], Meta(min_length=1, max_length=MAX_MODELS)] = ("*",)
    limits: Limits | None = None
    budget: Budget | None = None

    def key(self, key_id: str) -> ApiKey:
        """Return the key of these terms as if it stood in the configuration, without its credential."""
        return ApiKey(id=key_id, tenant=self.tenant, models=self.models, limits=self.limits, budget=self.budget)


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Terms)


def encode_terms(terms: Terms) -> bytes:
    """Return the stored form; equal terms have equal ones."""
    return _ENCODER.encode(terms)


def decode_terms(data: bytes) -> Terms:
    """Return stored terms. Raises ValueError: written by a newer fastroute, or damaged."""
    return _DECODER.decode(data)
