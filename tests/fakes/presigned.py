"""A signature in the query, which the service takes and no client of ours makes."""

import dataclasses
import hashlib

from kci.contract import signing


def sign(request, credentials, *, region, now, expires_s=None):
    """The query pairs to add to a request whose one header that counts is `host`. `now` is in UTC."""
    scope = signing.Scope(date=f"{now:%Y%m%d}", region=region)
    added = [
        ("X-Amz-Algorithm", signing.ALGORITHM),
        ("X-Amz-Credential", f"{credentials.access_key}/{scope}"),
        ("X-Amz-Date", f"{now:%Y%m%dT%H%M%SZ}"),
        ("X-Amz-SignedHeaders", "host"),
    ]
    if expires_s is not None:
        added.append(("X-Amz-Expires", str(expires_s)))
    whole = dataclasses.replace(request, query=[*request.query, *added])
    body_hash = hashlib.sha256(request.body).hexdigest()
    signature = signing.signature_of(whole, scope, now, ("host",), body_hash, credentials.secret_key)
    return [*added, ("X-Amz-Signature", signature)]
