"""Addresses of sign-in and sign-out. Register the callback and, for the sign-out, the sign-in page at
the provider."""

from django.urls import path

from . import oidc, views

urlpatterns = [
    path("signin/", views.SignInView.as_view(), name="signin"),
    path("signout/", views.sign_out, name="signout"),
    # mozilla-django-oidc looks for these names.
    path("oidc/authenticate/", oidc.StartView.as_view(), name="oidc_authentication_init"),
    path("oidc/callback/", oidc.CallbackView.as_view(), name="oidc_authentication_callback"),
]
