"""The commands of ``license``, by subject. Each module has a function ``register``."""
