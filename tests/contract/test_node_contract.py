"""The document docs/contract/node-gateway.openapi.yaml against both applications: routes, bodies, answers, metrics."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import httpx
import jsonschema
import openapi_spec_validator
import pydantic
import pytest
import yaml
from fastapi.openapi.utils import get_openapi
from prometheus_client import parser

from inference_node import settings
from inference_node.gateway import admin_api as gateway_admin
from inference_node.gateway import app as gateway_app
from inference_node.gateway import gateway
from inference_node.server import admin_api as node_admin
from inference_node.server import protocol
from tests.support import node_fakes
from tests.support.clock import FakeClock

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "docs/contract/node-gateway.openapi.yaml").read_text(encoding="utf-8")
)
ADMIN = {"authorization": "Bearer admin-token"}
DATA = {"authorization": "Bearer key-standard"}
METHODS = {"get", "put", "post", "delete"}

BODIES: dict[str, type[pydantic.BaseModel]] = {
    "FlushRequest": node_admin.FlushRequest,
    "WarmRequest": node_admin.WarmRequest,
    "DrainRequest": node_admin.DrainRequest,
    "BatchRequest": node_admin.BatchRequest,
    "LevelLimit": node_admin.LevelLimit,
    "LimitsRequest": node_admin.LimitsRequest,
    "DegradationRequest": node_admin.DegradationRequest,
    "LevelCap": node_admin.LevelCap,
    "ModelRequest": node_admin.ModelRequest,
    "FaultRequest": node_admin.FaultRequest,
    "RegisterRequest": gateway_admin.RegisterRequest,
    "EjectRequest": gateway_admin.EjectRequest,
    "WeightRequest": gateway_admin.WeightRequest,
    "LevelState": gateway_admin.LevelState,
    "LevelsRequest": gateway_admin.LevelsRequest,
    "CompletionRequest": protocol.CompletionRequest,
    "ChatRequest": protocol.ChatRequest,
}


def documented(server: str) -> set[tuple[str, str]]:
    return {
        (method, path)
        for path, item in DOCUMENT["paths"].items()
        for method in METHODS & set(item)
        if server in item[method]["x-served-by"]
    }


def served(app: fastapi.FastAPI) -> set[tuple[str, str]]:
    """Return the routes as FastAPI itself lists them."""
    listed = get_openapi(title="t", version="1", routes=app.routes)["paths"]
    return {(method, path) for path, item in listed.items() for method in item}


def validate(method: str, template: str, response: httpx.Response) -> None:
    """Fail unless the document knows this status of this operation and the body and headers have its shape."""
    operation = DOCUMENT["paths"][template][method.lower()]
    answer = operation["responses"][str(response.status_code)]
    answer = _resolved(answer)
    media = response.headers["content-type"].split(";")[0]
    assert media in answer["content"], f"{media} is not documented for {method} {template} {response.status_code}"
    for name, header in answer.get("headers", {}).items():
        jsonschema.validate(
            response.headers[name], {**_resolved(header)["schema"], "components": DOCUMENT["components"]}
        )
    if media.endswith("json"):
        schema = {**answer["content"][media]["schema"], "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(response.json())


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    """Return what a local reference points at."""
    found: Any = DOCUMENT
    for part in node.get("$ref", "#").split("/")[1:]:
        found = found[part]
    return found if "$ref" in node else node


@asynccontextmanager
async def served_gateway() -> AsyncGenerator[tuple[gateway.Gateway, httpx.AsyncClient, fastapi.FastAPI]]:
    document = {
        "api_keys": [{"key": "key-standard"}],
        "admin_tokens": ["admin-token"],
        "nodes": [{"name": "a", "url": "http://127.0.0.1:1"}],
    }
    made = gateway.Gateway(settings.GatewaySettings.model_validate(document), time=FakeClock())
    edge, app = gateway_app.create(made)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=edge), base_url="http://gateway") as client:
        yield made, client, app
    await made.stop()


def test_the_document_is_valid_openapi() -> None:
    """Other tools can read it."""
    openapi_spec_validator.validate(DOCUMENT)


async def test_both_servers_have_the_documented_routes_and_no_others() -> None:
    """A route missing on either side fails."""
    async with node_fakes.served_node() as node:
        assert served(node.app) == documented("node")
    async with served_gateway() as (_, _, app):
        assert served(app) == documented("gateway")


@pytest.mark.parametrize("name", sorted(BODIES))
def test_request_bodies_have_the_documented_fields(name: str) -> None:
    """Fields and required fields are the same on both sides, unless a data request ignores the unknown."""
    schema = DOCUMENT["components"]["schemas"][name]
    properties = dict(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        properties |= _resolved(part)["properties"]
    model = BODIES[name]
    assert set(properties) == set(model.model_fields)
    required = {field for field, info in model.model_fields.items() if info.is_required()}
    assert set(schema.get("required", [])) == required


def test_every_documented_body_is_checked() -> None:
    """A body added to the document must be added here."""
    used = {
        item[method]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for item in DOCUMENT["paths"].values()
        for method in METHODS & set(item)
        if "requestBody" in item[method]
    }
    assert used <= set(BODIES)


NODE_CALLS: list[tuple[str, str, Any, int]] = [
    ("GET", "/v1/models", None, 200),
    ("POST", "/v1/completions", {"prompt": "x", "temperature": 0}, 200),
    ("POST", "/v1/completions", {"prompt": "x", "temperature": 0, "stream": True}, 200),
    ("POST", "/v1/completions", {"prompt": 1}, 400),
    ("POST", "/v1/completions", {"prompt": "x", "model": "other"}, 404),
    ("POST", "/v1/completions", {"prompt": "x" * 3000}, 413),
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, 200),
    ("POST", "/v1/chat/completions", {"messages": []}, 400),
    ("GET", "/health", None, 200),
    ("GET", "/ready", None, 200),
    ("GET", "/metrics", None, 200),
    ("GET", "/version", None, 200),
    ("GET", "/admin/v1/state", None, 200),
    ("GET", "/admin/v1/operations/missing", None, 404),
    ("POST", "/admin/v1/cache/flush", {"tier": "l1", "prefix": "x"}, 200),
    ("POST", "/admin/v1/cache/flush", {"tier": "l9"}, 422),
    ("POST", "/admin/v1/cache/flush", {"tier": "l1", "prefix": "x" * 3000}, 413),
    ("POST", "/admin/v1/cache/warm", {"prompts": [{"prompt": "w", "temperature": 0}]}, 200),
    ("POST", "/admin/v1/cuda-cache/empty", None, 200),
    ("POST", "/admin/v1/drain", {"ttl_seconds": 5}, 200),
    ("POST", "/admin/v1/drain", None, 200),
    ("POST", "/v1/completions", {"prompt": "x"}, 503),
    ("GET", "/ready", None, 503),
    ("POST", "/admin/v1/undrain", None, 200),
    ("PUT", "/admin/v1/batch", {"max_size": 2, "ttl_seconds": 5}, 200),
    ("PUT", "/admin/v1/batch", {}, 422),
    ("PUT", "/admin/v1/limits", {"batch": {"concurrency": 1, "queue": 1}, "ttl_seconds": 5}, 200),
    ("PUT", "/admin/v1/degradation", {"level": 1, "max_tokens": 2, "ttl_seconds": 5}, 200),
    (
        "PUT",
        "/admin/v1/degradation",
        {"level": 3, "levels": {"standard": {"is_cached_only": True}}, "ttl_seconds": 5},
        200,
    ),
    ("POST", "/v1/completions", {"prompt": "not cached"}, 429),
    ("GET", "/admin/v1/state", None, 200),
    ("DELETE", "/admin/v1/degradation", None, 200),
    ("PUT", "/admin/v1/model", {"version": "v2"}, 200),
    ("PUT", "/admin/v1/model", {"version": "v9"}, 404),
    ("GET", "/admin/v1/faults", None, 200),
    ("PUT", "/admin/v1/faults/slow_decode", {"ttl_seconds": 5, "factor": 2}, 200),
    ("PUT", "/admin/v1/faults/meteor", {"ttl_seconds": 5}, 404),
    ("GET", "/admin/v1/state", None, 200),
    ("GET", "/admin/v1/faults", None, 200),
    ("DELETE", "/admin/v1/faults/slow_decode", None, 200),
    ("PUT", "/admin/v1/faults/errors", {"ttl_seconds": 5, "ratio": 1}, 200),
    ("POST", "/v1/completions", {"prompt": "x"}, 500),
    ("DELETE", "/admin/v1/faults/errors", None, 200),
    ("PUT", "/admin/v1/faults/leak", {"ttl_seconds": 5, "bytes_per_second": 1000}, 200),
    ("PUT", "/admin/v1/faults/leak", {"ttl_seconds": 5}, 422),
    ("DELETE", "/admin/v1/faults/leak", None, 200),
    ("POST", "/admin/v1/capture", None, 200),
    ("PUT", "/admin/v1/limits", {"standard": {"concurrency": 0, "queue": 0}}, 200),
    ("POST", "/v1/completions", {"prompt": "y"}, 429),
]

GATEWAY_CALLS: list[tuple[str, str, Any, int]] = [
    ("GET", "/health", None, 200),
    ("GET", "/ready", None, 200),
    ("GET", "/metrics", None, 200),
    ("GET", "/v1/models", None, 503),
    ("POST", "/v1/completions", {"prompt": "x"}, 503),
    ("GET", "/admin/v1/nodes", None, 200),
    ("GET", "/admin/v1/state", None, 200),
    ("GET", "/admin/v1/operations/missing", None, 404),
    ("PUT", "/admin/v1/nodes/b", {"url": "http://127.0.0.1:2"}, 200),
    ("PUT", "/admin/v1/nodes/b", {"url": "nothing"}, 422),
    ("PUT", "/admin/v1/nodes/b/weight", {"weight": 2, "ttl_seconds": 5}, 200),
    ("POST", "/admin/v1/nodes/b/eject", {"ttl_seconds": 5, "reason": "test"}, 200),
    ("POST", "/admin/v1/nodes/z/eject", {"ttl_seconds": 5, "reason": "test"}, 404),
    ("GET", "/admin/v1/state", None, 200),
    ("POST", "/admin/v1/nodes/b/return", None, 200),
    ("DELETE", "/admin/v1/nodes/b", None, 200),
    ("PUT", "/admin/v1/levels", {"standard": {"is_shed": True}, "rung": 4, "ttl_seconds": 5}, 200),
    ("POST", "/v1/completions", {"prompt": "x"}, 429),
    ("GET", "/admin/v1/state", None, 200),
    ("DELETE", "/admin/v1/levels", None, 200),
]


def template_of(path: str) -> str:
    """Return the documented path that `path` is an instance of."""
    exact = [each for each in DOCUMENT["paths"] if each == path]
    return (exact or [each for each in DOCUMENT["paths"] if re.fullmatch(re.sub(r"{\w+}", "[^/]+", each), path)])[0]


async def replay(client: httpx.AsyncClient, calls: list[tuple[str, str, Any, int]]) -> set[tuple[str, str]]:
    """Make the calls in order, validate each answer, and return the operations that answered 200."""
    succeeded: set[tuple[str, str]] = set()
    for method, path, body, status in calls:
        headers = ADMIN if path.startswith("/admin") else DATA
        response = await client.request(method, path, json=body, headers=headers)
        assert response.status_code == status, f"{method} {path}: {response.text}"
        validate(method, template_of(path), response)
        if status == 200:
            succeeded.add((method.lower(), template_of(path)))
    return succeeded


async def test_the_nodes_answers_have_the_documented_shapes() -> None:
    """Every operation of the node, its refusals too; each succeeds at least once."""
    async with node_fakes.served_node(max_body_bytes=2000) as node:
        succeeded = await replay(node.client, NODE_CALLS)
        assert succeeded == documented("node") - {("get", "/admin/v1/operations/{key}")}


async def test_the_gateways_answers_have_the_documented_shapes() -> None:
    """Every admin operation and probe of the gateway, and the refusals of its data API."""
    async with served_gateway() as (_, client, _):
        succeeded = await replay(client, GATEWAY_CALLS)
        data = {each for each in documented("gateway") if each[1].startswith("/v1/")}
        assert succeeded == documented("gateway") - data - {("get", "/admin/v1/operations/{key}")}


async def test_a_finished_operation_has_the_documented_shape() -> None:
    """Looking up a key after the call."""
    async with node_fakes.served_node() as node:
        await node.admin("POST", "/cache/flush", {"tier": "l1"}, key="k")
        response = await node.admin("GET", "/operations/k")
        assert response.status_code == 200
        validate("GET", "/admin/v1/operations/{key}", response)


@pytest.mark.parametrize("server", ["node", "gateway"])
async def test_every_route_demands_what_the_document_says(server: str) -> None:
    """Without credentials each route answers 401, except the ones documented as open; a data key opens no admin route."""
    async with node_fakes.served_node() as node, served_gateway() as (_, gateway_client, _):
        client = node.client if server == "node" else gateway_client
        for method, template in sorted(documented(server)):
            path = re.sub(r"{\w+}", "errors", template)
            is_open = DOCUMENT["paths"][template][method].get("security") == []
            for headers in ({}, {"authorization": "Bearer wrong-token"}, DATA):
                if headers == DATA and not path.startswith("/admin"):
                    continue
                response = await client.request(method, path, headers=headers)
                assert (response.status_code == 401) is not is_open, f"{method} {path} with {headers}"
                validate(method, template, response)


async def test_the_metrics_are_the_documented_ones() -> None:
    """Names, types and labels agree in both directions; nothing carries service or node on a node."""
    async with node_fakes.served_node() as node, served_gateway() as (_, client, _):
        await node.ask()
        await node.ask()
        await client.post("/v1/completions", json={"prompt": "x"}, headers=DATA)
        for server, one in (("node", node.client), ("gateway", client)):
            text = (await one.get("/metrics")).text
            families = [
                each for each in parser.text_string_to_metric_families(text) if not each.name.startswith("process_")
            ]
            expected = {
                each["name"].removesuffix("_total") if each["type"] == "counter" else each["name"]: each
                for each in DOCUMENT["x-metrics"][server]
            }
            shown = {each.name: each for each in families if not each.name.endswith("_created")}
            assert set(shown) == set(expected)
            for name, family in shown.items():
                assert family.type == expected[name]["type"], name
                for sample in family.samples:
                    assert set(sample.labels) - {"le"} == set(expected[name]["labels"]), sample
