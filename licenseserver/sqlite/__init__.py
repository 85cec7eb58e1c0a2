"""SQLite as a server's database: a file that only its own account can read."""
