"""Bring a whole site from one document, and write the site as such a document."""
