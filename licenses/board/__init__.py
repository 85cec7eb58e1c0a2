"""The board: web pages that show leases, queues and refusals."""
