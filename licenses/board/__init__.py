"""The board: who holds which seats, who waits, who was refused; for people with a browser."""
