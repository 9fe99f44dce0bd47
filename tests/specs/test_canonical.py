import hashlib
import math

import pytest

from distsim.specs import canonical_json, differences, digest
from distsim.specs.canonical import signed, unsigned


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": 1, "a": [0.1, None]}) == '{"a":[0.1,null],"b":1}'
    with pytest.raises(ValueError, match="Out of range float values"):
        canonical_json(math.nan)


def test_a_digest_is_that_of_the_canonical_text():
    text = b'{"a":[0.1,null],"b":1}'
    assert digest({"b": 1, "a": [0.1, None]}) == hashlib.sha256(text).hexdigest()


def test_what_is_signed_is_read_and_nothing_else():
    content = signed({"b": 1, "a": [0.1, None]})
    assert unsigned(content, most=len(content)) == {"b": 1, "a": [0.1, None]}
    for changed, said in {
        content.replace(b"0.1", b"0.2"): "its content does not match the digest in it",
        b'{"a":1}': "its content does not match the digest in it",
        b"[1]": "its content does not match the digest in it",
        content[:-1]: "it is not JSON as distsim writes it",
        b"[" * 50: "it is not JSON as distsim writes it",
        content + b" ": f"it has more than {len(content)} bytes",
    }.items():
        with pytest.raises(ValueError, match=said):
            unsigned(changed, most=len(content))


def test_differences_say_what_is_asked_for_and_what_is_there():
    ours = {"a": {"x": 1, "y": [1, 2]}, "b": None}
    theirs = {"a": {"x": 2, "y": [1, 2]}, "c": True}
    assert differences(ours, theirs) == [
        "a.x: 1 asked for, 2 in the store",
        "b: None asked for, '(absent)' in the store",
        "c: '(absent)' asked for, True in the store",
    ]
