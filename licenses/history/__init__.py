"""History: rollups, reports, what-if and retention."""
