"""Who calls, and what a caller may do. No HTTP and no web framework: the API, the board and the admin translate."""
