"""What happened: high-water marks, usage, denials, what-if, and what is kept of it."""
