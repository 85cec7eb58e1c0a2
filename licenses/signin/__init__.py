"""Sign users in: with a password of this server, or at a provider."""
