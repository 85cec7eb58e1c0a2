"""Seats: who borrows which, for how long, and who waits.

``services`` is the front door, ``expiry`` is what time ends. ``batch`` decides many
requests in one transaction, by ``decisions`` on a ``snapshot`` of locked rows; ``ledger``
is the only writer of seats.
"""
