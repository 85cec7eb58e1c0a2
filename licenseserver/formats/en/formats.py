"""As in logs and in the API: 2026-11-23 16:38:13, not 4:38 p.m."""

DATE_FORMAT = "Y-m-d"
TIME_FORMAT = "H:i:s"
DATETIME_FORMAT = "Y-m-d H:i:s"
