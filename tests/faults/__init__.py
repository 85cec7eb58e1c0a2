"""The fault harness: a real server under real faults, and proof that nothing was lost.

``make faults`` starts PostgreSQL and gunicorn, lets clients and administrators
work over HTTP while processes are killed, connections cut and locks held, and
then checks the recorded history and the final rows against the promises in
docs/reliability.md. ``python -m tests.faults --help`` lists the ways to run it.
"""
