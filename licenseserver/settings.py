"""Define all settings. Each comes from a typed environment variable.

docs/reference/settings.md lists every variable; a test compares the two.
"""

import multiprocessing
import re
from pathlib import Path
from typing import Any

import django_stubs_ext

from licenseserver import __version__, environment, logs
from licenseserver.environment import SettingError

# Let Django's generic classes (ModelAdmin[Tool]) accept their parameter at run time.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = __version__

# --- Security ---------------------------------------------------------------

DEBUG = environment.boolean("DEBUG", False)
SECRET_KEY = environment.key(
    "SECRET_KEY",
    environment.text("SECRET_KEY", advice="After `make run`: export SECRET_KEY=$(cat .secret_key)"),
)
SECRET_KEY_FALLBACKS = [
    environment.key("SECRET_KEY_FALLBACKS", old) for old in environment.words("SECRET_KEY_FALLBACKS")
]
ALLOWED_HOSTS = environment.hosts("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = environment.origins("CSRF_TRUSTED_ORIGINS")

# Plain HTTP is only for `make run` and compose on one machine.
SECURE_SSL = environment.boolean("SECURE_SSL", not DEBUG)
SECURE_SSL_REDIRECT = SECURE_SSL
TRUST_PROXY = environment.boolean("TRUST_PROXY", False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUST_PROXY else None
# The number of proxies in front that add to X-Forwarded-For. A client can forge the
# entries before theirs.
TRUSTED_PROXIES = environment.integer("TRUSTED_PROXIES", int(TRUST_PROXY), minimum=0, maximum=10)
SECURE_HSTS_SECONDS = 31_536_000 if SECURE_SSL else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_SSL
SECURE_HSTS_PRELOAD = SECURE_SSL
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
# The path of the server on its host, "" for the root.
SCRIPT_NAME = environment.path("SCRIPT_NAME")
FORCE_SCRIPT_NAME = SCRIPT_NAME or None
SESSION_COOKIE_SECURE = SECURE_SSL
# With this prefix a browser accepts a cookie only over HTTPS and, with __Host-, only from
# this host and for the whole host.
COOKIE_PREFIX = ("__Secure-" if SCRIPT_NAME else "__Host-") if SECURE_SSL else ""
SESSION_COOKIE_NAME = f"{COOKIE_PREFIX}sessionid"
SESSION_COOKIE_AGE = 8 * 3600
SESSION_ENGINE = "licenses.signin.sessions"
CSRF_COOKIE_SECURE = SECURE_SSL
CSRF_COOKIE_NAME = f"{COOKIE_PREFIX}csrftoken"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = SCRIPT_NAME or "/"
X_FRAME_OPTIONS = "DENY"

# --- Who may call -----------------------------------------------------------

# `required`: every call needs a credential, except /livez and /readyz.
# `open`: everybody can borrow and return any seat; for demos.
LICENSE_AUTH = environment.choice("LICENSE_AUTH", "required", among=("required", "open"))
# Whether `open` is allowed on addresses that other machines can reach.
LICENSE_OPEN_TO_NETWORK = environment.boolean("LICENSE_OPEN_TO_NETWORK", False)
# Whether /metrics needs no credential even if other calls do.
LICENSE_METRICS_PUBLIC = environment.boolean("LICENSE_METRICS_PUBLIC", False)
# Who sees the names on leases and tickets: every reader, the members of the lease's team,
# or nobody. Administrators and the holder always see them.
LICENSE_SHOW_HOLDERS = environment.choice("LICENSE_SHOW_HOLDERS", "everyone", among=("everyone", "team", "nobody"))
# Whether the board links to the mail address of a holder whose name the reader sees.
LICENSE_SHOW_CONTACTS = environment.boolean("LICENSE_SHOW_CONTACTS", False)
# Whether users can sign in with passwords of this server.
LICENSE_LOCAL_PASSWORDS = environment.boolean("LICENSE_LOCAL_PASSWORDS", True)

# Who can make API tokens of their own, on the page Tokens and with `license login`; how many
# valid ones a person can have, for how many days, and what they can do. Only superusers get
# the scope `admin`.
LICENSE_OWN_TOKENS = environment.choice("LICENSE_OWN_TOKENS", "everyone", among=("everyone", "staff", "nobody"))
LICENSE_OWN_TOKENS_PER_USER = environment.integer("LICENSE_OWN_TOKENS_PER_USER", 20, minimum=1, maximum=1000)
LICENSE_OWN_TOKEN_DAYS = environment.integer("LICENSE_OWN_TOKEN_DAYS", 90, minimum=1, maximum=366)
LICENSE_OWN_TOKEN_SCOPES = list(dict.fromkeys(environment.words("LICENSE_OWN_TOKEN_SCOPES", "read,borrow")))
if not LICENSE_OWN_TOKEN_SCOPES or not set(LICENSE_OWN_TOKEN_SCOPES) <= {"read", "borrow", "admin"}:
    raise SettingError("LICENSE_OWN_TOKEN_SCOPES must be a list of read, borrow and admin.")

# The most open sign-ins of programs (`license login`), of all and of one address.
LICENSE_LOGINS = environment.integer("LICENSE_LOGINS", 1000, minimum=1, maximum=100_000)
LICENSE_LOGINS_PER_ADDRESS = environment.integer("LICENSE_LOGINS_PER_ADDRESS", 20, minimum=1, maximum=100_000)

# The most failed credentials in 15 minutes before the next ones must wait.
LICENSE_FAILURES_PER_ADDRESS = environment.integer("LICENSE_FAILURES_PER_ADDRESS", 50, minimum=1, maximum=1_000_000)
LICENSE_FAILURES_PER_ACCOUNT = environment.integer("LICENSE_FAILURES_PER_ACCOUNT", 5, minimum=1, maximum=1_000_000)

# The most calls per second of one caller to each worker process, 0 for no limit: with a
# valid credential; from one address without one; and separately for renewals and
# returns. A burst is this number of seconds of calls.
LICENSE_RATE_PER_CREDENTIAL = environment.limit("LICENSE_RATE_PER_CREDENTIAL", 50, maximum=1_000_000)
LICENSE_RATE_PER_ADDRESS = environment.limit("LICENSE_RATE_PER_ADDRESS", 50, maximum=1_000_000)
LICENSE_RATE_HEARTBEATS = environment.limit("LICENSE_RATE_HEARTBEATS", 50, maximum=1_000_000)
LICENSE_RATE_BURST = environment.integer("LICENSE_RATE_BURST", 10, minimum=1, maximum=3600)
# Seconds that a request may wait for a thread before the server refuses it as overload.
LICENSE_LONGEST_WAIT = environment.integer("LICENSE_LONGEST_WAIT", 2, minimum=1, maximum=60)

# The address of the OpenID provider (its issuer).
LICENSE_OIDC_ISSUER = environment.url("LICENSE_OIDC_ISSUER")
LICENSE_OIDC_ALGORITHMS = environment.words("LICENSE_OIDC_ALGORITHMS", "RS256,ES256")
for algorithm in LICENSE_OIDC_ALGORITHMS:
    # With a shared secret, or none, the verifier could sign too.
    if not re.fullmatch(r"(RS|PS|ES)(256|384|512)|EdDSA", algorithm):
        raise SettingError(f"LICENSE_OIDC_ALGORITHMS: {algorithm!r} does not use a public key.")
# The allowed difference between the provider's clock and ours, in seconds.
LICENSE_OIDC_LEEWAY = environment.integer("LICENSE_OIDC_LEEWAY", 60, minimum=0, maximum=300)
# The claims with the user name of leases and with the groups.
LICENSE_OIDC_USERNAME_CLAIM = environment.text("LICENSE_OIDC_USERNAME_CLAIM", "preferred_username")
LICENSE_OIDC_GROUPS_CLAIM = environment.text("LICENSE_OIDC_GROUPS_CLAIM", "groups")
LICENSE_OIDC_ADMIN_GROUPS = environment.words("LICENSE_OIDC_ADMIN_GROUPS")
# A word is a group of operators, or group=role.
LICENSE_OIDC_STAFF_GROUPS = environment.words("LICENSE_OIDC_STAFF_GROUPS")
for word in LICENSE_OIDC_STAFF_GROUPS:
    if not all(part.strip() for part in word.rsplit("=", 1)):
        raise SettingError(f"LICENSE_OIDC_STAFF_GROUPS must be a list of groups and of group=role, not {word!r}.")
# Groups that are teams: those with this prefix, and those listed as group=team.
LICENSE_OIDC_TEAM_PREFIX = environment.text("LICENSE_OIDC_TEAM_PREFIX", "")
LICENSE_OIDC_TEAM_GROUPS = environment.pairs("LICENSE_OIDC_TEAM_GROUPS")
for team in LICENSE_OIDC_TEAM_GROUPS.values():
    if not re.fullmatch(r"[a-z0-9_][a-z0-9_.-]{0,63}", team):
        raise SettingError(f"LICENSE_OIDC_TEAM_GROUPS: {team!r} is not a valid name of a team.")

# The audience of accepted bearer JWTs. If empty, no JWT is accepted.
LICENSE_JWT_AUDIENCE = environment.text("LICENSE_JWT_AUDIENCE", "")
# The name of a JWT's caller is the first of these claims that it has.
LICENSE_JWT_USERNAME_CLAIMS = environment.words("LICENSE_JWT_USERNAME_CLAIMS", LICENSE_OIDC_USERNAME_CLAIM)
# Scopes of the provider with this prefix limit a JWT.
LICENSE_JWT_SCOPE_PREFIX = environment.text("LICENSE_JWT_SCOPE_PREFIX", "licenses:")
# Whether a JWT without such a scope has no rights, or all rights of its user.
LICENSE_JWT_SCOPE_REQUIRED = environment.boolean("LICENSE_JWT_SCOPE_REQUIRED", False)
if LICENSE_JWT_AUDIENCE and not LICENSE_OIDC_ISSUER:
    raise SettingError("LICENSE_JWT_AUDIENCE needs LICENSE_OIDC_ISSUER.")

# Sign-in at the provider; disabled without a client id.
LICENSE_OIDC_CLIENT_ID = environment.text("LICENSE_OIDC_CLIENT_ID", "")
LICENSE_OIDC_CLIENT_SECRET = environment.text("LICENSE_OIDC_CLIENT_SECRET", "")
LICENSE_OIDC_CLIENT_AUTH = environment.choice("LICENSE_OIDC_CLIENT_AUTH", "basic", among=("basic", "post"))
if LICENSE_OIDC_CLIENT_ID and not (LICENSE_OIDC_ISSUER and LICENSE_OIDC_CLIENT_SECRET):
    raise SettingError("LICENSE_OIDC_CLIENT_ID needs LICENSE_OIDC_ISSUER and LICENSE_OIDC_CLIENT_SECRET.")
if not LICENSE_LOCAL_PASSWORDS and not LICENSE_OIDC_CLIENT_ID:
    raise SettingError("LICENSE_LOCAL_PASSWORDS=false needs LICENSE_OIDC_CLIENT_ID. Otherwise nobody can sign in.")

# Names of mozilla-django-oidc.
OIDC_RP_SCOPES = environment.text("LICENSE_OIDC_SCOPES", "openid profile")
OIDC_USE_PKCE = True
OIDC_PKCE_CODE_CHALLENGE_METHOD = "S256"
OIDC_TOKEN_USE_BASIC_AUTH = LICENSE_OIDC_CLIENT_AUTH == "basic"
OIDC_TIMEOUT = 3
# The most pending sign-ins of a browser; its cookie stores them.
OIDC_MAX_STATES = 3

AUTHENTICATION_BACKENDS = [
    "licenses.signin.passwords.PasswordBackend",
    "licenses.signin.oidc.ProviderBackend",
]
LOGIN_URL = "signin"
LOGIN_REDIRECT_URL = "board"

# --- Applications -----------------------------------------------------------

INSTALLED_APPS = [
    "licenses",
    "licenses.apps.LicensesAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_prometheus",
    "django_filters",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]

MIDDLEWARE = [
    "licenses.api.middleware.EventMiddleware",
    "licenses.api.rate_limits.RateLimitMiddleware",
    "licenses.api.middleware.OverloadMiddleware",
    "licenses.api.middleware.ProbeMiddleware",
    "licenses.api.middleware.PlainHttpMiddleware",
    # From here a call of the API that brings no cookie goes by API_MIDDLEWARE to the last one.
    "licenses.api.middleware.ForkMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "licenses.security_headers.SecurityHeadersMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "licenses.api.middleware.BodyLimitMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "licenses.api.middleware.RequestMetricsMiddleware",
]

API_MIDDLEWARE = [
    "licenses.api.middleware.CallMiddleware",
    "licenses.api.middleware.BodyLimitMiddleware",
]

ROOT_URLCONF = "licenseserver.urls"
WSGI_APPLICATION = "licenseserver.wsgi.application"
APPEND_SLASH = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# --- Database ---------------------------------------------------------------

# In seconds; 0 is no limit, for migrations.
STATEMENT_TIMEOUT = environment.integer("DATABASE_STATEMENT_TIMEOUT", 5, minimum=0, maximum=86_400)
ENCODE = "In a password, percent-encode special characters: %2F for /, %23 for #, %3F for ?, %40 for @, %25 for %."
URL_FORM = "postgresql://user:password@host:port/name"


def sqlite(path: str) -> dict[str, Any]:
    """Return the settings of an SQLite database.

    IMMEDIATE, because a transaction that reads before it writes would fail with "database
    is locked" without a wait; WAL, so that reads work during a write; FULL, so that a
    committed borrow survives a power cut.
    """
    if not Path(path).absolute().parent.is_dir() or Path(path).is_dir():
        raise SettingError(f"LICENSE_DB_PATH must be a file in an existing folder, not {path!r}.")
    return {
        "ENGINE": "licenseserver.sqlite",
        "NAME": path,
        # In seconds: to open the file and set it up takes longer than a borrow.
        "CONN_MAX_AGE": 60,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        },
    }


def postgresql(url: str) -> dict[str, Any]:
    """Return the settings of a PostgreSQL database from a libpq URL.

    Sets time limits, so that a stuck client does not hold a tool's lock: lock < statement
    < gunicorn's timeout. Several hosts are tried in order, until one has the URL's
    ``target_session_attrs``. ``?options=`` in the URL replaces the limits. A pooler that
    shares connections refuses or drops options: then set the limits on the role
    (licenses/checks.py checks them).
    """
    from psycopg import IsolationLevel, ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts: dict[str, Any] = conninfo_to_dict(url)
    except (ProgrammingError, UnicodeDecodeError):
        # Hide the message, because it may contain a part of the password.
        raise SettingError(f"DATABASE_URL is not a database URL ({URL_FORM}). {ENCODE}") from None
    if "@" in f"{parts.get('host', '')}{parts.get('dbname', '')}":
        # The password ended early, at a character with a meaning in a URL.
        raise SettingError(f"DATABASE_URL: {ENCODE}")
    ports = str(parts.get("port", "")).split(",")
    if not url.startswith(("postgresql://", "postgres://")) or not parts.get("dbname"):
        raise SettingError(f"DATABASE_URL must be {URL_FORM}.")
    if not all(port == "" or (port.isdecimal() and 0 < int(port) <= 65_535) for port in ports):
        raise SettingError("DATABASE_URL: a port must be a number from 1 to 65535.")
    # PostgreSQL would plan the statement that locks tools again each time, which takes four times as long as
    # to run it. The ORM's queries have their values in their text, so they are planned for these as always.
    limits = (
        f"-c statement_timeout={STATEMENT_TIMEOUT}s -c lock_timeout=3s -c idle_in_transaction_session_timeout=10s "
        "-c default_transaction_isolation=read\\ committed -c plan_cache_mode=force_generic_plan"
    )
    return {
        "ENGINE": "licenseserver.postgresql",
        "NAME": parts.pop("dbname"),
        "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""),
        "HOST": parts.pop("host", ""),
        "PORT": parts.pop("port", ""),
        # No health check, because it would cost each request a round trip. A broken connection
        # costs one request a 503.
        "CONN_MAX_AGE": 60,
        # Server-side cursors do not work with PgBouncer's transaction pooling.
        "DISABLE_SERVER_SIDE_CURSORS": True,
        # RoundTrip prepares the statements of the calls that come most often.
        "PREPARE": LICENSE_DB_PREPARE,
        "OPTIONS": ({} if LICENSE_DB_POOLER else {"options": limits})
        # Set it with each BEGIN, whatever the default of the role or the pooler is: under
        # REPEATABLE READ a count after the lock would be stale.
        | {"connect_timeout": 5, "isolation_level": IsolationLevel.READ_COMMITTED}
        # Notice a host without power. Without these a call would wait 15 minutes.
        | {"keepalives_idle": 3, "keepalives_interval": 1, "keepalives_count": 3, "tcp_user_timeout": 6000}
        | parts,
    }


DATABASE_URL = environment.text("DATABASE_URL", "")
# Whether a pooler in front of PostgreSQL gives connections to other clients after each
# transaction (PgBouncer's pool_mode = transaction).
LICENSE_DB_POOLER = environment.boolean("LICENSE_DB_POOLER", False)
LICENSE_DB_PREPARE = environment.boolean("LICENSE_DB_PREPARE", not LICENSE_DB_POOLER)
DATABASES = {
    "default": postgresql(DATABASE_URL)
    if DATABASE_URL
    else sqlite(environment.text("LICENSE_DB_PATH", str(BASE_DIR / "licenses.db")))
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PROMETHEUS_EXPORT_MIGRATIONS = False

# --- Server ------------------------------------------------------------------

BIND = environment.address("BIND", "0.0.0.0:8000")
# gunicorn's worker processes, of 16 threads. SQLite has one writer at a time: two processes share
# the other work, and more would wait too long for its lock. On PostgreSQL three fit its
# default of 100 connections, also during a reload, when old and new ones run.
CORES = multiprocessing.cpu_count()
WEB_CONCURRENCY = environment.integer(
    "WEB_CONCURRENCY", min(max(CORES, 2), 3) if DATABASE_URL else min(CORES, 2), minimum=1, maximum=512
)

# --- The product ------------------------------------------------------------

# Seed the default tools when the server starts.
LICENSE_DB_SEED = environment.boolean("LICENSE_DB_SEED", False)
# The most tickets of one tool, of all users and of one user; and the most new idempotency
# keys of one caller per day and worker. 0 is no limit.
LICENSE_QUEUE_PER_TOOL = environment.limit("LICENSE_QUEUE_PER_TOOL", 1000, maximum=1_000_000)
LICENSE_QUEUE_PER_USER = environment.limit("LICENSE_QUEUE_PER_USER", 100, maximum=1_000_000)
# For how many minutes seats are kept for a person who waits on the board, once they are there.
LICENSE_OFFER_MINUTES = environment.integer("LICENSE_OFFER_MINUTES", 10, minimum=1, maximum=1440)
LICENSE_KEYS_PER_DAY = environment.limit("LICENSE_KEYS_PER_DAY", 10_000, maximum=100_000_000)
# The most leases and tickets of one user, of all tools together.
LICENSE_LEASES_PER_USER = environment.limit("LICENSE_LEASES_PER_USER", 0, maximum=1_000_000)
# The address under which people reach the server, for links in messages; the path is SCRIPT_NAME.
LICENSE_PUBLIC_URL = environment.origin("LICENSE_PUBLIC_URL")
# The time zone of times in messages, of reports in the admin, and of working hours.
LICENSE_TIME_ZONE = environment.time_zone("LICENSE_TIME_ZONE", "UTC")

# --- Notifications ----------------------------------------------------------

# The mail server; without one no mail is sent.
EMAIL_HOST = environment.text("LICENSE_EMAIL_HOST", "")
LICENSE_EMAIL_TLS = environment.choice("LICENSE_EMAIL_TLS", "starttls", among=("starttls", "tls", "off"))
EMAIL_USE_TLS = LICENSE_EMAIL_TLS == "starttls"
EMAIL_USE_SSL = LICENSE_EMAIL_TLS == "tls"
EMAIL_PORT = environment.integer(
    "LICENSE_EMAIL_PORT", {"starttls": 587, "tls": 465, "off": 25}[LICENSE_EMAIL_TLS], minimum=1, maximum=65_535
)
EMAIL_HOST_USER = environment.text("LICENSE_EMAIL_USER", "")
EMAIL_HOST_PASSWORD = environment.secret("LICENSE_EMAIL_PASSWORD")
if bool(EMAIL_HOST_USER) != bool(EMAIL_HOST_PASSWORD):
    raise SettingError("LICENSE_EMAIL_USER needs LICENSE_EMAIL_PASSWORD or LICENSE_EMAIL_PASSWORD_FILE, and they it.")
if EMAIL_HOST_USER and LICENSE_EMAIL_TLS == "off" and EMAIL_HOST not in environment.LOOPBACK:
    raise SettingError("LICENSE_EMAIL_TLS=off would send LICENSE_EMAIL_PASSWORD in clear text.")
DEFAULT_FROM_EMAIL = SERVER_EMAIL = environment.mail_address("LICENSE_EMAIL_FROM")
if EMAIL_HOST and not DEFAULT_FROM_EMAIL:
    raise SettingError("LICENSE_EMAIL_HOST needs LICENSE_EMAIL_FROM, the sender of the messages.")
EMAIL_TIMEOUT = 10

# The minutes before its end at which the holder of a lease hears of it.
LICENSE_NOTICE_MINUTES = environment.integer("LICENSE_NOTICE_MINUTES", 30, minimum=1, maximum=1440)
# Administrators hear of a queue of this length, or in which somebody waits for this number of minutes.
LICENSE_NOTICE_QUEUE_LENGTH = environment.integer("LICENSE_NOTICE_QUEUE_LENGTH", 10, minimum=1, maximum=1_000_000)
LICENSE_NOTICE_QUEUE_MINUTES = environment.integer("LICENSE_NOTICE_QUEUE_MINUTES", 30, minimum=1, maximum=100_000)

# Hosts that webhooks may call; they may have private addresses. Empty: any host with a public address.
LICENSE_WEBHOOK_HOSTS = environment.hosts("LICENSE_WEBHOOK_HOSTS", "")

# The currency of all prices, in reports.
LICENSE_CURRENCY = environment.currency("LICENSE_CURRENCY")
# The days and hours of work, in LICENSE_TIME_ZONE. Reports show the use in them and at all hours.
LICENSE_WORKING_DAYS = environment.weekdays("LICENSE_WORKING_DAYS", "mon-fri")
LICENSE_WORKING_HOURS = environment.hours("LICENSE_WORKING_HOURS", "08:00-18:00")

# The largest body of an API call, in bytes. A borrow of a dozen tools is far below.
API_BODY_LIMIT = 64 * 1024
# The largest form, in bytes: on other pages, and in the admin, where a form may have
# hundreds of lines.
PAGE_BODY_LIMIT = 64 * 1024
ADMIN_BODY_LIMIT = 2_621_440
DATA_UPLOAD_MAX_MEMORY_SIZE = ADMIN_BODY_LIMIT
# The form that imports FlexNet's files. Keep uploaded files off the disk.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]

REST_FRAMEWORK: dict[str, Any] = {
    # Every 401 has the challenge of the first one.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "licenses.api.authentication.BearerAuthentication",
        "licenses.api.authentication.PasswordAuthentication",
        "licenses.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["licenses.api.permissions.HasScope"],
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": "licenses.access.credentials.anonymous",
    "DEFAULT_PARSER_CLASSES": ["licenses.api.common.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "licenses.api.common.problems.handle_exception",
    "URL_FORMAT_OVERRIDE": None,
}

SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Floating-license server",
    "DESCRIPTION": "Borrow a seat of a tool, work, return it.",
    "VERSION": VERSION,
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["licenses.api.permissions.HasScope"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": f"{SCRIPT_NAME}/static/licenses/board.svg",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "licenses.api.common.openapi.complete",
    ],
}

# --- Language, time, files --------------------------------------------------

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
FORMAT_MODULE_PATH = "licenseserver.formats"
STATIC_URL = f"{SCRIPT_NAME}/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"

# --- Logs -------------------------------------------------------------------

LOG_FORMAT = environment.choice("LOG_FORMAT", "json", among=logs.FORMATTERS)
LOG_LEVEL = environment.choice("LOG_LEVEL", "INFO", among=environment.LOG_LEVELS)
LOGGING = logs.configuration(LOG_FORMAT, LOG_LEVEL)

# --- Traces -----------------------------------------------------------------

# Off unless OpenTelemetry's variables name an endpoint. The SDK reads the others.
TRACING = environment.tracing()
if TRACING:
    # After the middleware for probes and files, which need no traces.
    for chain in (MIDDLEWARE, API_MIDDLEWARE):
        chain.insert(
            chain.index("licenses.api.middleware.BodyLimitMiddleware"), "licenseserver.tracing.TracingMiddleware"
        )
