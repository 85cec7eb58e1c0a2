"""Sign-in forms that show how long to wait after too many attempts."""

from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError

from licenses.errors import TooManyFailures


class SignInForm(AuthenticationForm):
    """The form for all users."""

    def clean(self) -> dict[str, Any]:
        try:
            return super().clean()
        except TooManyFailures as error:
            raise ValidationError(error.detail, code=error.code) from None


class AdminSignInForm(SignInForm, AdminAuthenticationForm):
    """The form of the admin, only for staff."""
