"""The tools that a person looks at first."""

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models

from .tool import Tool


class StarQuerySet(models.QuerySet["Star"]):
    def put(self, *, user: User, tool: Tool, starred: bool) -> None:
        """Star a tool, or remove its star; harmless if that is so already."""
        if starred:
            self.get_or_create(user=user, tool=tool)
        else:
            self.filter(user=user, tool=tool).delete()


class Star(models.Model):
    """A tool that an account has starred. The board shows it first to this account."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="stars", db_index=False)
    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="stars")

    objects = StarQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "tool"], name="star_is_one_a_tool")]

    def __str__(self) -> str:
        return f"{self.tool} of {self.user}"
