"""Notifications: mail and webhooks, sent by the sweeper from an outbox."""
