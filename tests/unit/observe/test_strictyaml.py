"""Strict YAML: what is refused, where the refusal points, and what plain values become."""

import pydantic
import pytest

from controlplane import strictyaml
from controlplane.domain import errors
from controlplane.observe import service_file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3: key 'a' is given twice; the first is on line 1"),
        ("list:\n  - {x: 1, x: 2}", "f.yaml:2: key 'x' is given twice; the first is on line 2"),
        ("a: &anchor [1]\nb: *anchor", "f.yaml:1: anchors and aliases"),
        ("a: *gone", "f.yaml:1: anchors and aliases"),
        ("a: !!python/object/apply:os.system [x]", "f.yaml:1: tags (!) are not accepted"),
        ("a: 1\n---\nb: 2", "f.yaml:2: a second document begins here"),
        ("a: 1\nb: .inf", "f.yaml:2: .inf is not a finite number"),
        ("a: 1e999", "f.yaml:1: 1e999 is not a finite number"),
        ("? [a]\n: b", "f.yaml:1: a key must be text"),
        ("[" * 100, "f.yaml:1: nested deeper than 40 levels"),
        ("a: b: c", "f.yaml:1: not YAML"),
        ("a: 'open", "f.yaml:1: not YAML"),
        ("a: \x00", "f.yaml: not YAML"),
        ("#" * 300_000, "f.yaml: has 300000 characters, at most 262144 are read"),
    ],
)
def test_what_is_refused_says_where_and_why(text: str, said: str) -> None:
    """Every refusal names the file, the line where there is one, and the reason."""
    with pytest.raises(errors.InvalidInputError) as refused:
        strictyaml.load(text, source="f.yaml")
    assert str(refused.value).startswith(said)


def test_scalars_mean_what_they_look_like() -> None:
    """No surprises of YAML 1.1: yes is text, 010 is ten, times and dates are text."""
    text = "{a: yes, b: 010, c: 1:30, d: 2026-01-01, e: true, f: ~, g: 1.5, h: '7', i: -3, j: 1e3, on: x, <<: y}"
    assert strictyaml.load(text, source="f.yaml") == {
        "a": "yes", "b": 10, "c": "1:30", "d": "2026-01-01", "e": True, "f": None,
        "g": 1.5, "h": "7", "i": -3, "j": 1000.0, "on": "x", "<<": "y",
    }  # fmt: skip


def test_an_empty_file_is_nothing() -> None:
    """Nothing, and only comments, are None."""
    assert strictyaml.load("", source="f.yaml") is None
    assert strictyaml.load("# nothing here\n", source="f.yaml") is None


class _Pool(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    size: int = 1


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    pools: list[_Pool] = []
    title: str | None = None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("titel: x", "f.yaml:1: unknown field 'titel'; did you mean 'title'?"),
        ("pools:\n  - name: a\n    sise: 2", "f.yaml:3: pools[0]: unknown field 'sise'; did you mean 'size'?"),
        ("pools:\n  - size: 2", "f.yaml:2: pools[0]: field 'name' is missing"),
        (
            "pools:\n  - name: a\n  - name: b\n    size: many",
            "f.yaml:4: pools[1].size: Input should be a valid integer",
        ),
        ("pools: [{zz: 1}]", "f.yaml:1: pools[0]: field 'name' is missing (and 1 more)"),
        ("[]", "f.yaml:1: expects a mapping"),
        ("", "f.yaml:1: expects a mapping"),
    ],
)
def test_what_does_not_fit_the_model_is_said_in_terms_of_the_file(text: str, said: str) -> None:
    """The line of the part that is wrong, its path, and the nearest known field."""
    with pytest.raises(errors.InvalidInputError) as refused:
        strictyaml.parse(_Model, text, source="f.yaml")
    assert said.replace("…", "") in str(refused.value)


def test_what_fits_is_an_instance() -> None:
    """The model, filled."""
    assert strictyaml.parse(_Model, "pools: [{name: a}]", source="f.yaml").pools[0].size == 1


@pytest.mark.parametrize("text", ["root:x:0:0", "- a\n- b", "7"])
def test_a_document_of_another_shape_is_refused_in_the_readers_words(text: str) -> None:
    """Somebody who named the wrong file reads what is expected, not the name of a class."""
    with pytest.raises(errors.InvalidInputError, match=r"^services.yaml:1: expects a mapping of fields$"):
        service_file.parse(text, source="services.yaml")
