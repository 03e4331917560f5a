"""What is loaded with a warning."""

from pathlib import Path

import pytest

from fastroute.cli import main
from fastroute.config import doubts, load_file
from tests.unit.config.helpers import check_text

PROVIDERS = """
providers:
  - {id: one, type: openai, keys: [a], models: [gpt-4o, o3]}
  - {id: two, type: openai, keys: [b], models: [gpt-4.1, "llama-*"]}
aliases: {fast: best, best: gpt-4o}
"""
KEYS = "auth: {keys: [{id: app, key: k1, tenant: acme}, {id: lab, key: k2}]}\n"
NOWHERE = "the rule sends this model to providers none of which lists it"
NO_ID = "no key of the configuration has this id; only one made at run time can"
NO_TENANT = "no key of the configuration has this tenant; only one made at run time can"


def found(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "c.yaml"
    file.write_text(text + PROVIDERS)
    assert check_text(str(file)) == []
    return doubts(load_file(str(file), {}))


def of_rule(tmp_path: Path, rule: str, before: str = "") -> list[str]:
    return [line.removeprefix("rules[0].") for line in found(tmp_path, f"{before}rules: [{{id: r, {rule}}}]")]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("when: {model: [gpt-4o]}, then: {provider: two}", ["when.model[0]"]),
        ("when: {model: [gpt-4o]}, then: {provider: one}", []),
        ("when: {model: [o3, gpt-4.1, gpt-4o]}, then: {provider: two}", ["when.model[0]", "when.model[2]"]),
        ("when: {model: [gpt-4o]}, then: {pool: [two, one]}", []),
        ("when: {model: [gpt-4.1]}, then: {pool: [one]}", ["when.model[0]"]),
        ("when: {model: [gpt-4o]}, then: {chain: [{strategy: random}, {provider: two}]}", ["when.model[0]"]),
        ("when: {model: [llama-3]}, then: {provider: two}", []),
        ("when: {model: [llama-3]}, then: {provider: one}", ["when.model[0]"]),
        # Aliases stand for where they end.
        ("when: {model: [fast]}, then: {provider: two}", ["when.model[0]"]),
        ("when: {model: [fast]}, then: {provider: one}", []),
        # What all parts have to hold for.
        ("when: {tags: [x], all: [{model: [gpt-4o]}]}, then: {provider: two}", ["when.all[0].model[0]"]),
        ("when: {model: [gpt-4o, gpt-4.1], all: [{model: [gpt-4.1]}]}, then: {provider: two}", []),
        ("when: {model: [gpt-4o, gpt-4.1], all: [{model: ['gpt-4o*']}]}, then: {provider: two}", ["when.model[0]"]),
        # Where it takes more to tell, nothing is said.
        ("when: {model: ['gpt-*']}, then: {provider: two}", []),
        ("when: {model: [gpt-4o, gpt-4.1], not: {model: [gpt-4o]}}, then: {provider: two}", []),
        ("when: {model: [gpt-4o, gpt-4.1], any: [{all: [{model: [gpt-4.1]}]}]}, then: {provider: two}", []),
        ("when: {model: [gpt-4o], any: [{tags: [x]}, {stream: true}]}, then: {provider: two}", ["when.model[0]"]),
        ("when: {any: [{model: [gpt-4o]}]}, then: {provider: two}", []),
        ("then: {provider: two}", []),
        ("when: {model: [gpt-4o]}, then: {priority: high}", []),
        ("enabled: false, when: {model: [gpt-4o]}, then: {provider: two}", []),
    ],
)
def test_a_rule_that_sends_a_model_to_who_does_not_list_it(tmp_path: Path, rule: str, expected: list[str]) -> None:
    assert of_rule(tmp_path, rule) == [f"{place}: {NOWHERE}" for place in expected]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("when: {key: [app, lab]}", []),
        ("when: {key: [app, later]}", [f"when.key[1]: {NO_ID}"]),
        ("when: {not: {any: [{key: [later]}]}}", [f"when.not.any[0].key[0]: {NO_ID}"]),
        ("when: {tenant: [acme, default]}", []),
        ("when: {all: [{tenant: [acne]}]}", [f"when.all[0].tenant[0]: {NO_TENANT}"]),
    ],
)
def test_names_that_only_keys_made_at_run_time_can_have(tmp_path: Path, rule: str, expected: list[str]) -> None:
    assert of_rule(tmp_path, f"{rule}, then: {{priority: low}}", KEYS) == expected


def test_where_all_keys_are_made_at_run_time_none_is_missing(tmp_path: Path) -> None:
    assert of_rule(tmp_path, "when: {key: [later], tenant: [acme]}, then: {priority: low}") == []


def test_callers_with_a_path_token_have_ids_too(tmp_path: Path) -> None:
    keys = "auth: {keys: [{id: app, key: k1}], path_tokens: [t1, t2]}\n"
    rule = "when: {key: [path-token-1, path-token-2, path-token-3]}, then: {priority: low}"
    assert of_rule(tmp_path, rule, keys) == [f"when.key[2]: {NO_ID}"]


def test_check_warns_and_is_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"rules: [{{id: r, when: {{model: [o3]}}, then: {{provider: two}}}}]{PROVIDERS}")
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{file}: ok\n"
    assert said.err == f"warning: rules[0].when.model[0]: {NOWHERE}\n"
