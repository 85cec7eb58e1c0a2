"""Pages for sign-in and sign-out."""

from typing import Any

from django.contrib import admin
from django.contrib.auth import logout
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from . import oidc
from .forms import SignInForm


@method_decorator(never_cache, "dispatch")
class SignInView(LoginView):
    """The sign-in page for all users. The admin has its own, only for staff."""

    template_name = "licenses/signin.html"
    authentication_form = SignInForm

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs) | admin.site.each_context(self.request) | {"title": "Sign in"}


@never_cache
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session, here and at the provider. A link must end none, so a GET only says what to do."""
    if request.method != "POST":
        context = {"title": "Method not allowed", "detail": "Use the button Sign out."}
        answer = render(request, "licenses/board/error.html", context, status=405)
        answer["Allow"] = "POST"
        return answer
    address = oidc.sign_out_address(request)
    logout(request)
    return HttpResponseRedirect(address or reverse("signin"))
