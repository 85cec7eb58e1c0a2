"""PostgreSQL as a server's database, whose statements are counted."""
