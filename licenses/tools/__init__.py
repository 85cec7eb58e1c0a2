"""Change tools, and what belongs to them.

Every door comes here: seed, import, admin and API only translate. A service locks the
tool, validates, saves, records the change in the audit, and lets leases and counters
follow, all in one transaction.
"""
