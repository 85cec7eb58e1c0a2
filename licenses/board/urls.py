"""Addresses of the board."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.overview, name="board"),
    path("tools/<str:name>/", views.one_tool, name="board_tool"),
    path("yours/", views.yours, name="board_yours"),
    path("leases/<uuid:lease_id>/return/", views.give_back, name="board_return"),
]
