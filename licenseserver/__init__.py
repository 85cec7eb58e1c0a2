"""The Django project of the floating-licence server."""

__version__ = "0.1.0"
