"""SQLite database in a file that only the server's account can read."""
