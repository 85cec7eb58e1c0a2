"""The readers and the settings of a server with the example site (``tests.support.example_site``)."""

VISITOR, ANA, ADMINISTRATOR = "", "ana", "admin"
# An offer stays for a day, so that every page shows it.
SETTINGS = {
    "LICENSE_DB_SEED": "false",
    "LICENSE_AUTH": "open",
    "LICENSE_RATE_PER_ADDRESS": "off",
    "LICENSE_RATE_PER_CREDENTIAL": "off",
    "LICENSE_SHOW_CONTACTS": "true",
    "LICENSE_OFFER_MINUTES": "1440",
    "LICENSE_EMAIL_HOST": "127.0.0.1",
    "LICENSE_EMAIL_FROM": "licenses@example.com",
    "LICENSE_CURRENCY": "EUR",
}
