"""Fields of the admin's forms."""

from typing import Any

from django.contrib.admin.widgets import AutocompleteSelect


class SearchedSelect(AutocompleteSelect):
    """A row of another table, searched for while one types.

    Django's own fails on a value that can't be a key, in an address or a form.
    """

    def optgroups(self, name: str, value: Any, attr: Any = None) -> Any:
        """Return the choices that are chosen."""
        return super().optgroups(name, [key for key in value if str(key).isdecimal() and len(str(key)) < 19], attr)
