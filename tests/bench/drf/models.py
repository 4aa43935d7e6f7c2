"""The table of a plain Django service, with what its lists filter and sort by marked ``db_index``.

That makes fifteen indexes: Django gives each text a second one, for LIKE.
"""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class ApiRequest(models.Model):
    """A request log."""

    time = models.DateTimeField(db_index=True)
    service = models.CharField(max_length=100, db_index=True)
    endpoint = models.CharField(max_length=255, db_index=True)
    method = models.CharField(max_length=20, db_index=True)
    status_code = models.PositiveSmallIntegerField(
        db_index=True, validators=[MinValueValidator(100), MaxValueValidator(599)]
    )
    latency_ms = models.PositiveIntegerField()
    trace_id = models.CharField(max_length=128, null=True, blank=True, db_index=True)
    user_ref = models.CharField(max_length=128, null=True, blank=True, db_index=True)
    tags = models.JSONField(default=dict, blank=True)

    class Meta:
        """The indexes that go with the order of lists."""

        app_label = "drf"
        db_table = "api_request"
        ordering: ClassVar = ["-time"]
        indexes: ClassVar = [
            models.Index(fields=["service", "-time"], name="api_request_service_time"),
            models.Index(fields=["endpoint", "-time"], name="api_request_endpoint_time"),
        ]
