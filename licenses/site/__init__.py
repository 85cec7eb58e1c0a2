"""Bring a whole site from one document, and write the site as such a document.

``parser`` reads a document and ``rows`` the tables, both as a ``description``. ``plan`` compares the two,
``applying`` makes the changes, and ``writer`` writes a description as a document.
"""
