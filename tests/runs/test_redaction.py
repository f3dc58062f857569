"""What is a secret, and in which spellings it is found."""

from __future__ import annotations

import pytest

from vaelab.runs import ConsoleLog, Secrets

VALUE = 'pa"ss\\wörd/1'


@pytest.mark.parametrize("name", ["API_KEY", "hf_token", "MySecretThing", "DB_PASSWORD"])
def test_variables_are_known_by_their_names(name: str) -> None:
    secrets = Secrets.of({name: VALUE, "HOME": "/home/me", "SHORT_KEY": "12345"})
    assert secrets.redact([f"a{VALUE}b", "/home/me", "12345", 12345]) == [
        f"a<secret {name}>b",
        "/home/me",
        "12345",
        12345,
    ]
    assert secrets.replaced == {name}


@pytest.mark.parametrize(
    "text", [VALUE, r"pa\"ss\\w\u00f6rd/1", "https://me:pa%22ss%5Cw%C3%B6rd%2F1@host", f"-key = '{VALUE}'\n"]
)
def test_a_value_is_found_in_json_and_in_an_address(text: str) -> None:
    secrets = Secrets.of({"KEY": VALUE})
    assert secrets.names_in(text) == secrets.names_in(text.encode()) == ["KEY"]
    assert "ss" not in secrets.redact(text).replace("<secret KEY>", "").replace("https", "")


def test_a_value_of_several_lines_is_found_line_by_line() -> None:
    """A patch puts a sign before each."""
    secrets = Secrets.of({"SSH_KEY": "-----BEGIN-----\nMIIEvQIBADANBgkqhkiG\nend\n"})
    assert secrets.names_in(b"+-----BEGIN\n+MIIEvQIBADANBgkqhkiG\n") == ["SSH_KEY"]
    assert secrets.names_in(b"+end\n") == []


def test_the_longer_of_two_that_overlap_is_replaced_whole() -> None:
    secrets = Secrets.of({"A_KEY": "abcdef", "B_KEY": "abcdef-and-more"})
    assert secrets.redact("x abcdef-and-more y abcdef") == "x <secret B_KEY> y <secret A_KEY>"


@pytest.mark.parametrize("key", ["api_key", "token", "access_token", "client_secret", "password", "apikey"])
def test_settings_are_known_by_their_names(key: str) -> None:
    config = {"logger": {key: "typed-in", "name": "x"}, "seed": 1234567, "nested": [{key: 1234567}]}
    secrets = Secrets.of({}, config)
    assert secrets.redact(config) == {
        "logger": {key: f"<secret logger.{key}>", "name": "x"},
        "seed": 1234567,
        "nested": [{key: f"<secret nested.{key}>"}],
    }


def test_settings_of_a_model_are_none() -> None:
    config = {
        "label_key": "labels",
        "mask_token": "[MASK]",
        "tokenizer": "characters",
        "num_tokens": 1000000,
        "token": None,
    }
    assert Secrets.of({}, config).redact(config) == config
    assert Secrets({}).words(["model.num_tokens=1000000", "seed=123456", "key"]) == [
        "model.num_tokens=1000000",
        "seed=123456",
        "key",
    ]


def test_a_typed_secret_is_left_out_whether_it_is_known_or_not() -> None:
    """In a sweep the command line has those of other jobs."""
    words = ["vae-train", "-m", "+logger.api_key=first-one,second-one", "seed=0,1"]
    assert Secrets.of({}, {"logger": {"api_key": "first-one"}}).words(words) == [
        *words[:2],
        "+logger.api_key=<secret logger.api_key>",
        "seed=0,1",
    ]


def test_what_the_screen_shows_is_in_the_log_without_secrets(
    tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = Secrets.of({"API_KEY": "planted-secret"})

    def work() -> None:
        print("key planted-", end="")
        print("secret.")
        raise ValueError("planted-secret is no key")

    with pytest.raises(ValueError, match="planted"), ConsoleLog(tmp_path / "log", secrets.redact):
        work()
    text = (tmp_path / "log").read_text()
    assert "key <secret API_KEY>." in text
    assert "ValueError: <secret API_KEY> is no key" in text
    assert "planted" not in "".join(line for line in text.splitlines() if "raise " not in line and "print" not in line)  # fmt: skip
