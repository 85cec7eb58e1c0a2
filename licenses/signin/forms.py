"""Sign-in forms that tell who tried too often to wait."""

from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError

from licenses.errors import TooManyFailures


class SignInForm(AuthenticationForm):
    """For everybody."""

    def clean(self) -> dict[str, Any]:
        try:
            return super().clean()
        except TooManyFailures as error:
            raise ValidationError(error.detail, code=error.code) from None


class AdminSignInForm(SignInForm, AdminAuthenticationForm):
    """For the admin: staff alone."""
