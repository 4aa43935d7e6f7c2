"""The bulk endpoint: a ListSerializer that ends in ``bulk_create``."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tests.bench.drf.models import ApiRequest
from tests.bench.load import INGEST

BATCH_SIZE = 1_000


class BulkSerializer(serializers.ListSerializer):
    """Stores a list with as few statements as Django can."""

    def create(self, validated_data: list[dict[str, Any]]) -> list[ApiRequest]:
        """Store the items."""
        items = [ApiRequest(**item) for item in validated_data]
        return list(ApiRequest.objects.bulk_create(items, batch_size=BATCH_SIZE))


class ApiRequestSerializer(serializers.ModelSerializer):
    """Validates one item."""

    class Meta:
        """Which fields."""

        model = ApiRequest
        fields = "__all__"
        list_serializer_class = BulkSerializer


class Ingest(APIView):
    """Takes a list of request logs."""

    def post(self, request: Request) -> Response:
        """Store them all, or refuse them all."""
        serializer = ApiRequestSerializer(data=request.data, many=True)
        serializer.is_valid(raise_exception=True)
        return Response({"inserted": len(serializer.save())})


def ready(_request: HttpRequest) -> HttpResponse:
    """Say that the service is up."""
    return HttpResponse()


urlpatterns = [path(INGEST.removeprefix("/"), Ingest.as_view()), path("readyz", ready)]
