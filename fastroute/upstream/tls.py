"""TLS towards providers: always verified, HTTP/1.1 only."""

import ssl
from collections.abc import Mapping

import certifi


def client_context(env: Mapping[str, str]) -> ssl.SSLContext:
    """Return a verifying client context.

    SSL_CERT_FILE and SSL_CERT_DIR are honoured as OpenSSL does; without them the system's store is used, and the
    bundle that comes with httpx where the system has none.
    """
    context = ssl.create_default_context()
    if not (env.get("SSL_CERT_FILE") or env.get("SSL_CERT_DIR")) and not context.cert_store_stats()["x509_ca"]:
        context.load_verify_locations(certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
