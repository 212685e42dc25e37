"""The fake node and gateway answer as the OpenAPI document says, so that what is shown on them holds."""

from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

import controlplane.domain
from tests.support.action_house import TLS
from tests.support.fake_node import TOKEN, FakeGateway, FakeNode, FakeProcess, Trouble

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(controlplane.domain.__path__[0]).parent.parent / "docs/contract/node-gateway.openapi.yaml").read_text()
)

NODE_CALLS = [
    ("GET", "/admin/v1/state", None),
    ("POST", "/admin/v1/cache/flush", {"tier": "l1"}),
    ("POST", "/admin/v1/cache/flush", {"tier": "l9"}),
    ("POST", "/admin/v1/cache/warm", {"prompts": [{"prompt": "x", "temperature": 0}]}),
    ("POST", "/admin/v1/drain", {"ttl_seconds": 5}),
    ("POST", "/admin/v1/undrain", None),
    ("POST", "/admin/v1/capture", None),
    ("PUT", "/admin/v1/batch", {"max_size": 3, "ttl_seconds": 5}),
    ("PUT", "/admin/v1/degradation", {"level": 1, "ttl_seconds": 5}),
    ("DELETE", "/admin/v1/degradation", None),
]
GATEWAY_CALLS = [
    ("GET", "/admin/v1/nodes", None),
    ("GET", "/admin/v1/state", None),
    ("PUT", "/admin/v1/levels", {"batch": {"is_shed": True}, "rung": 2, "ttl_seconds": 5}),
    ("DELETE", "/admin/v1/levels", None),
    ("POST", "/admin/v1/nodes/{name}/eject", {"ttl_seconds": 5, "reason": "x"}),
    ("POST", "/admin/v1/nodes/{name}/return", None),
    ("DELETE", "/admin/v1/nodes/{name}", None),
]


def check(method: str, path: str, answer: httpx.Response) -> None:
    """Validate an answer against the schema that the document gives for its status."""
    responses = DOCUMENT["paths"][path][method.lower()]["responses"]
    stated = responses[str(answer.status_code)]
    if "$ref" in stated:
        stated = DOCUMENT["components"]["responses"][stated["$ref"].rpartition("/")[2]]
    kind = answer.headers["content-type"]
    schema = {**stated["content"][kind]["schema"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer.json())


async def call(process: FakeProcess, method: str, path: str, body: Any, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as http:
        headers = {"Authorization": f"Bearer {TOKEN}", **headers}
        url = f"{process.url}{path.replace('{name}', 'n1')}"
        return await http.request(method, url, json=body, headers=headers)


@pytest.mark.parametrize(
    ("fake", "method", "path", "body"),
    [
        *((FakeNode, *one) for one in NODE_CALLS),
        *((lambda: FakeGateway("n1", "n2"), *one) for one in GATEWAY_CALLS),
    ],
)
async def test_answers_fit_their_schemas(fake: Any, method: str, path: str, body: Any) -> None:
    """Fields, types and statuses, and nothing the document does not name."""
    async with fake().running() as process:
        check(method, path, await call(process, method, path, body, **{"Idempotency-Key": "k1"}))
        if method != "GET" and body != {"tier": "l9"}:
            again = await call(process, method, path, body, **{"Idempotency-Key": "k1"})
            assert again.status_code == 200
            operations = "/admin/v1/operations/{key}"
            known = await call(process, "GET", "/admin/v1/operations/k1", None)
            assert known.json()["result"] == again.json()
            check("GET", operations, known)
            check("GET", operations, await call(process, "GET", "/admin/v1/operations/k2", None))


async def test_refusals_fit_their_schemas() -> None:
    """401, 409 and 503 as the document writes them."""
    async with FakeNode().running() as node:
        path = "/admin/v1/cache/warm"
        body = {"prompts": [{"prompt": "x"}]}
        answer = await call(node, "POST", path, body, Authorization="Bearer wrong")
        assert answer.status_code == 401
        check("POST", path, answer)
        await call(node, "POST", path, body, **{"Idempotency-Key": "k"})
        answer = await call(node, "POST", path, {"prompts": []}, **{"Idempotency-Key": "k"})
        assert answer.status_code == 409
        check("POST", path, answer)
        node.trouble = Trouble.BUSY
        answer = await call(node, "POST", path, body)
        assert answer.status_code == 503
        check("POST", path, answer)
