"""Create and revoke API tokens."""

from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.models import Action, ApiToken


@transaction.atomic
def issue(token: ApiToken, *, by: Actor) -> str:
    """Save a new token and return its secret, which cannot be read again.

    Raises ValidationError.
    """
    secret = ApiToken.objects.issue(token)
    auditing.created([token], by=by)
    return secret


@transaction.atomic
def revoke(token: ApiToken, *, by: Actor) -> bool:
    """Revoke a token. Return False if it was revoked before."""
    if not token.revoke():
        return False
    token.refresh_from_db(fields=["revoked_at"])
    auditing.record(
        by,
        action=Action.REVOKED,
        subject=token,
        before={"revoked_at": None},
        after={"revoked_at": token.revoked_at},
    )
    return True
