"""key=value command lines."""

from __future__ import annotations

import pytest

from mtrl_conic.settings.arguments import choice, flag, parse, text, wants_help, whole, whole_list
from mtrl_conic.settings.errors import ConfigError

READERS = {
    "run": text,
    "episodes": whole(1),
    "workers": whole(0),
    "seeds": whole_list,
    "format": choice("mp4", "gif"),
    "video": flag,
}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("run=a=b", "a=b"),
        ("episodes=50", 50),
        ("workers=0", 0),
        ("seeds=[3, 1]", [3, 1]),
        ("seeds=3,1", [3, 1]),
        ("seeds=3", [3]),
        ("format=gif", "gif"),
        ("video=true", True),
        ("video=False", False),
    ],
)
def test_values(argument, value):
    assert parse([argument], READERS) == {argument.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/x"], ["runs/x", "key=value"]),
        (["--video"], ["--video", "--help"]),
        (["episode=5"], ["episode:", "did you mean episodes?"]),
        (["colour=red"], ["colour:", "run, episodes, workers"]),
        (["run="], ["run=", "empty"]),
        (["episodes=0"], ["episodes=0", "at least 1"]),
        (["episodes=-1"], ["episodes=-1", "at least 1"]),
        (["episodes=1.5"], ["episodes=1.5", "whole number"]),
        (["episodes=²"], ["episodes=²", "whole number"]),
        (["seeds=[]"], ["seeds=[]", "[0,1,2]"]),
        (["seeds=[1,1]"], ["seeds=[1,1]", "different"]),
        (["seeds=[1,x]"], ["seeds=[1,x]"]),
        (["format=avi"], ["format=avi", "mp4, gif"]),
        (["video=yes"], ["video=yes", "true or false"]),
        (["run=a", "run=b"], ["run=b", "twice"]),
        ([], ["run=", "missing"]),
    ],
)
def test_what_cannot_be_used_is_one_line(arguments, words):
    with pytest.raises(ConfigError) as error:
        parse(arguments, READERS, required=["run"])
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_help_is_asked_for_anywhere():
    assert wants_help(["run=x", "--help"])
    assert wants_help(["-h"])
    assert not wants_help(["run=--help"])
