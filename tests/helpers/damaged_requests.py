"""Requests as nobody should send them, drawn from a seed: bodies with wrong fields, cut off, with changed bytes, of
random bytes, with wrong types and lengths, in chunks, whole and broken."""

import json
import random

from tinystories.server.schema import BOUNDS


CHAT = "/v1/chat/completions"
PATHS = ("/generate", "/v1/completions", CHAT)
SHORT = {"prompt": "Story 7.", "max_tokens": 2}
FIELDS = (*BOUNDS, "model", "preset", "stream", "tidy", "stop", "logprobs", "n", "stream_options", "logit_bias", "echo")
FIELDS += ("suffix", "user", "best_of", "presence_penalty", "unknown", "", "__proto__", "pro\u0000mpt", "messages")
FIELDS += ("frequency_penalty", "min_p", "top_logprobs", "max_completion_tokens", "tools", "tool_choice", "role")
STRINGS = ("", "run", "Story", "x" * 3000, "\ud800", "\u0000", "\ufffd", "\U0001f98a" * 700, "null", "1", "é", "</s>")
NUMBERS = (0, 1, -1, 2, 0.5, 1.0, -0.0, 1e-320, 1e308, 2**31, 2**53, 2**63, 2**64, -(2**70), 10**400, 10**6, 64, 100)
WRITTEN = (
    *("NaN", "-Infinity", "1e400", "-1e400", "01", "+1", "1.", "0x10", "'a'"),
    *("9" * 5000, "[" * 5000, '{"a":' * 3000),
)
KINDS = (
    *("", "json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"),
    *("application/json;;=", "application/vnd.api+json", "application/json; charset=utf-7", "\x7f"),
)
HEADERS = (
    *("Content-Encoding: gzip", "Expect: 100-continue", "Upgrade: websocket", "Trailer: X", "Range: bytes=0-"),
    *("Transfer-Encoding: chunked", "Content-Length: 5", "Host: evil.example", "Bad Header: 1", "If-None-Match: *"),
    *("Accept: \u00e9", "Authorization: Bearer \u00ff", "X-Forwarded-For: ::"),
    *("Cookie: " + "a" * 9000, "X: " + "b" * 20_000),
)


def damaged_request(draw: random.Random) -> bytes:
    """One request for a server at localhost, whose connection it closes."""
    route = draw.choice(PATHS)
    body = damaged_body(draw, route)
    method = draw.choices(("POST", "PUT", "post", "GET", "POST\t"), (94, 2, 1, 2, 1))[0]
    path = route + draw.choices(("", "?a=%zz", "/", "%00", "#x"), (92, 2, 2, 2, 2))[0]
    kind = draw.choice(KINDS) if draw.random() < 0.1 else "application/json"
    headers = [f"{method} {path} HTTP/{draw.choices(('1.1', '1.0', '9.9'), (95, 4, 1))[0]}", "Host: localhost"]
    headers += [f"Content-Type: {kind}", "Connection: close"]
    headers += draw.sample(HEADERS, draw.choices((0, 1, 2), (85, 12, 3))[0])
    if draw.random() < 0.3:
        headers.append("Transfer-Encoding: chunked")
        body = damaged_chunks(draw, body)
    else:
        length = len(body) + draw.choices((0, -1, 7, -(10**6), 10**6, 10**30), (94, 1, 1, 1, 2, 1))[0]
        headers.append(f"Content-Length: {length}")
    return "\r\n".join([*headers, "", ""]).encode("latin-1", "replace") + body


def asked_of(route: str, fields: dict) -> dict:
    """The fields of a good request with its prompt where this route has it."""
    if route != CHAT:
        return fields
    others = {name: value for name, value in fields.items() if name != "prompt"}
    return others | {"messages": [{"role": "user", "content": fields["prompt"]}]}


def damaged_body(draw: random.Random, route: str) -> bytes:
    way = draw.choices(("fields", "text", "bytes", "random", "other"), (50, 10, 20, 15, 5))[0]
    if way == "random":
        return draw.randbytes(draw.choice((0, 1, 10, 300, 5000)))
    if way == "other":
        return json.dumps(damaged_value(draw)).encode()
    fields = asked_of(route, SHORT | {"model": "run", "seed": 1, "stream": draw.random() < 0.5})
    if draw.random() < 0.5:
        del fields["model"]
    for _ in range(draw.choice((0, 0, 0, 1, 1, 2, 5))):
        fields[draw.choice(FIELDS)] = damaged_value(draw)
    body = json.dumps(fields, ensure_ascii=draw.random() < 0.7).encode("utf-8", "surrogatepass")
    if way == "text":
        return body.replace(b"1", draw.choice(WRITTEN).encode(), 1)
    return damaged_bytes(draw, body) if way == "bytes" else body


def damaged_value(draw: random.Random, depth: int = 0):
    way = draw.randrange(8 if depth < 4 else 4)
    if way < 4:
        return (draw.choice(STRINGS), draw.choice(NUMBERS), draw.choice((None, True, False)), draw.random() * 3)[way]
    if way < 6:
        return [damaged_value(draw, depth + 1) for _ in range(draw.randrange(5))]
    return {draw.choice(STRINGS + FIELDS): damaged_value(draw, depth + 1) for _ in range(draw.randrange(4))}


def damaged_bytes(draw: random.Random, body: bytes) -> bytes:
    place = draw.randrange(len(body) + 1)
    return draw.choice((
        body[:place],
        body[:place] + draw.randbytes(3) + body[place:],
        body[:place] + body[place + 1 :],
        body + body,
        body[:place] + bytes([draw.randrange(256)]) + body[place + 1 :],
        b"\xef\xbb\xbf" + body,
        body.decode("utf-8", "replace").encode("utf-16"),
        body.ljust(draw.choice((65_536, 65_537, 200_000))),
    ))  # fmt: skip


def damaged_chunks(draw: random.Random, body: bytes) -> bytes:
    size = draw.choice((1, 2, 100, 10_000))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    end = draw.choices((b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"", b"0", b"-1\r\n\r\n", b"zz\r\n"), (90, 4, 1, 1, 2, 2))[
        0
    ]
    return chunks + end
