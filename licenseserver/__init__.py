"""The Django project of the floating-license server."""

__version__ = "0.1.0"
