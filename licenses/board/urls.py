"""Addresses of the board."""

from django.urls import path

from . import device, notifications, seats, teams, tokens, views

urlpatterns = [
    path("", views.overview, name="board"),
    path("tools/<str:name>/", views.one_tool, name="board_tool"),
    path("tools/<str:name>/get/", seats.get, name="board_get"),
    path("tools/<str:name>/star/", seats.star, name="board_star"),
    path("teams/<str:name>/", teams.one_team, name="board_team"),
    path("yours/", views.yours, name="board_yours"),
    path("leases/<uuid:lease_id>/return/", seats.give_back, name="board_return"),
    path("tickets/<uuid:ticket_id>/take/", seats.take, name="board_take"),
    path("tickets/<uuid:ticket_id>/leave/", seats.leave, name="board_leave"),
    path("notifications/", notifications.show, name="board_notifications"),
    path("notifications/save/", notifications.save, name="board_notifications_save"),
    path("device/", device.overview, name="device"),
    path("device/answer/", device.answer, name="device_answer"),
    path("tokens/", tokens.overview, name="tokens"),
    path("tokens/new/", tokens.make, name="tokens_new"),
    path("tokens/<int:token_id>/revoke/", tokens.revoke, name="tokens_revoke"),
]
