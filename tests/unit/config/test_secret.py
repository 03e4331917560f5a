import copy
import pickle

import msgspec
import pytest

from fastroute.config.secret import Secret, decode_secret


def test_only_reveal_shows_the_value() -> None:
    secret = Secret("sk-very-secret")
    assert secret.reveal() == "sk-very-secret"
    assert repr(secret) == str(secret) == f"{secret}" == "Secret(***)"
    assert "very" not in repr([secret, {"k": secret}])


def test_equality_is_by_value() -> None:
    assert Secret("ä") == Secret("ä")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_it_cannot_be_hashed_changed_or_taken_apart() -> None:
    secret = Secret("a")
    with pytest.raises(TypeError):
        hash(secret)
    with pytest.raises(AttributeError):
        secret._value = "b"
    with pytest.raises(AttributeError):
        del secret._value
    with pytest.raises(TypeError):
        vars(secret)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_cannot_be_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Secret("a"), protocol)


def test_copies_are_the_same_object() -> None:
    secret = Secret("a")
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_msgspec_builds_one_and_refuses_to_write_one() -> None:
    assert msgspec.convert("k", Secret, dec_hook=decode_secret) == Secret("k")
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert({"k": 1}, dict[str, Secret], dec_hook=decode_secret)
    assert "expected a string" in str(error.value)
    with pytest.raises(TypeError):
        msgspec.json.encode(Secret("k"))
