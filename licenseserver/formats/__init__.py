"""How the admin writes dates; Django looks them up by language."""
