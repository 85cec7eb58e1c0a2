"""How the figures in docs/performance.md are made: ``make bench``."""
