"""Addresses of sign-in and sign-out. The provider has to know the callback's
and, to come back to after a sign-out, the sign-in page's."""

from django.urls import path

from . import oidc, views

urlpatterns = [
    path("signin/", views.SignInView.as_view(), name="signin"),
    path("signout/", views.sign_out, name="signout"),
    # The names are those that mozilla-django-oidc looks for.
    path("oidc/authenticate/", oidc.StartView.as_view(), name="oidc_authentication_init"),
    path("oidc/callback/", oidc.CallbackView.as_view(), name="oidc_authentication_callback"),
]
