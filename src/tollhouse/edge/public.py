"""Which addresses an edge leads to; all others are for inside."""

PUBLIC = "^/(ai|v1|v1beta|v1alpha|v2|reports|events)(/|$)"
"""Of the path as it was sent, as both PCRE and RE2 read it.

Inside stay ``/admin``, ``/edge``, ``/metrics``, ``/health``, ``/readyz``, ``/docs`` and ``/openapi.json``.
"""

EVENTS = "^/events(/|$)"
"""Those of them where events are followed, and where tokens for it are made."""
