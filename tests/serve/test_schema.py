"""Requests made up from the OpenAPI description: none gives a 500, and every answer is one that is described."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from hrformer.serve.app import Service
from small_service import PICTURES

PICTURE = (PICTURES / "cat.jpg").read_bytes()


@pytest.mark.slow
def test_made_up_requests(service: Service) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.guard)
    tried: list[str] = []
    reached: list[int] = []
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            # What is no picture in base64 fits the description and is refused all the same.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])
            if isinstance(case.body, dict) and "image" in case.body:
                as_json = case.media_type == "application/json"
                case.body["image"] = base64.b64encode(PICTURE).decode() if as_json else [PICTURE]
                reached.append(case.call_and_validate(excluded_checks=[positive_data_acceptance]).status_code)

        check()
        tried.append(operation.label)
    assert reached.count(200) > 20
    assert {"POST /v1/models/lspet:predict", "GET /v1/models", "GET /metrics"} <= set(tried)
