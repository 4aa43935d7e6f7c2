"""The table of a plain Django service: fifteen indexes with the primary key, one for whatever a list can filter by."""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class ApiRequest(models.Model):
    """A request log."""

    time = models.DateTimeField()
    service = models.CharField(max_length=100)
    endpoint = models.CharField(max_length=255)
    method = models.CharField(max_length=20)
    status_code = models.PositiveSmallIntegerField(validators=[MinValueValidator(100), MaxValueValidator(599)])
    latency_ms = models.PositiveIntegerField()
    trace_id = models.CharField(max_length=128, null=True, blank=True)
    user_ref = models.CharField(max_length=128, null=True, blank=True)
    tags = models.JSONField(default=dict, blank=True)

    class Meta:
        """The indexes."""

        app_label = "drf"
        db_table = "api_request"
        indexes: ClassVar = [
            models.Index(fields=["time"], name="api_request_time"),
            models.Index(fields=["service"], name="api_request_service"),
            models.Index(fields=["endpoint"], name="api_request_endpoint"),
            models.Index(fields=["method"], name="api_request_method"),
            models.Index(fields=["status_code"], name="api_request_status"),
            models.Index(fields=["latency_ms"], name="api_request_latency"),
            models.Index(fields=["trace_id"], name="api_request_trace"),
            models.Index(fields=["user_ref"], name="api_request_user"),
            models.Index(fields=["service", "-time"], name="api_request_service_time"),
            models.Index(fields=["endpoint", "-time"], name="api_request_endpoint_time"),
            models.Index(fields=["status_code", "-time"], name="api_request_status_time"),
            models.Index(fields=["trace_id", "-time"], name="api_request_trace_time"),
            models.Index(fields=["user_ref", "-time"], name="api_request_user_time"),
            models.Index(fields=["service", "endpoint", "-time"], name="api_request_series_time"),
        ]
