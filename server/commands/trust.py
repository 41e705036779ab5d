"""Which certificates a command trusts: the usual authorities, those of SSL_CERT_FILE, or its own server's certificate.

Knows files and TLS contexts; sends nothing. What OpenSSL reads of the environment is honoured for every host, loopback
too, which the HTTP client does not do where no proxy is to be asked.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from server.errors import ConfigError


def context_for(url: str, own_certificate: Path | None = None) -> ssl.SSLContext | bool:
    """What the HTTP client is to verify with. False for a URL without TLS: reading the authorities takes a while.

    ``own_certificate``: the chain of the server of this very machine, which is then trusted under any name, and nothing
    else. Raises ConfigError.
    """
    if not url.lower().startswith("https:"):
        return False
    if own_certificate is not None:
        return _trusting(own_certificate)
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (named := os.environ.get(variable)) and not Path(named).exists():
            raise ConfigError(f"{variable} = {named}: there is nothing; it must name the authorities to trust (PEM)")
    try:
        context = ssl.create_default_context()  # the system's, or those of SSL_CERT_FILE and SSL_CERT_DIR
        if not os.environ.get("SSL_CERT_FILE") and not os.environ.get("SSL_CERT_DIR"):
            import certifi  # with the HTTP client; slim containers have no authorities of their own

            context.load_verify_locations(certifi.where())
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"the authorities to trust cannot be read: {error}; see SSL_CERT_FILE") from None
    return context


def refused_certificate(error: BaseException, shown: str) -> str | None:
    """Why the server at ``shown`` is not trusted, where that is what ``error`` comes from."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            why = link.verify_message.rstrip(".")
            return (
                f"{shown} shows a certificate that is not trusted here ({why}). Ask under a name that it has; where"
                " your own authority has signed it, name that one's certificate in SSL_CERT_FILE"
            )
        if isinstance(link, ssl.SSLError):
            return (
                f"{shown} does not speak HTTPS as this machine does ({link.reason or 'no handshake'}); is it http://?"
            )
        link = link.__cause__ or link.__context__
    return None


def _trusting(certificate: Path) -> ssl.SSLContext:
    from server.edge.certificate import CERTIFICATE_NAME, trusting

    try:
        return trusting(certificate.read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        raise ConfigError(f"{CERTIFICATE_NAME} = {certificate}: cannot be read: {error.strerror}") from None
    except (ssl.SSLError, ValueError, IndexError):
        raise ConfigError(f"{CERTIFICATE_NAME} = {certificate}: has no certificate in PEM") from None
