"""Mutations of requests: of a body's tree, of its text, of a form's parts, of the head, and of the framing.

Each changes one draft in one way, chosen by the generator of random numbers that it is given.
"""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

from tests.reliability.cases import BOUNDARY, Draft, Mutation, Part
from tests.reliability.odd_values import (
    CHARSETS,
    CONTENT_TYPES,
    FIELDS,
    HEADER_NAMES,
    HEADER_VALUES,
    METHODS,
    NUMBERS,
    SHAPES,
    TEXTS,
)

# --- of a body's tree ---


def value(draft: Draft, rng: random.Random) -> None:
    """Another value somewhere."""
    places = list(_places(draft.json))
    if places:
        holder, key = rng.choice(places)
        holder[key] = _value(rng)


def field(draft: Draft, rng: random.Random) -> None:
    """A field more, known or not."""
    name = rng.choice(FIELDS) if rng.random() < 0.9 else rng.choice(TEXTS)
    if isinstance(draft.json, dict):
        inner = draft.json.get("input")
        (inner if isinstance(inner, dict) and rng.random() < 0.7 else draft.json)[name] = _value(rng)
    elif draft.parts is not None:
        text = _value(rng)
        spelled = text if isinstance(text, str) else json.dumps(text)
        header = f'Content-Disposition: form-data; name="{name}"'
        draft.parts.append(Part([header.encode("utf-8", "replace")], spelled.encode("utf-8", "replace")))


def without(draft: Draft, rng: random.Random) -> None:
    """A field less."""
    places = [(holder, key) for holder, key in _places(draft.json) if isinstance(holder, dict)]
    if places:
        holder, key = rng.choice(places)
        del holder[key]
    elif draft.parts:
        draft.parts.pop(rng.randrange(len(draft.parts)))


def root(draft: Draft, rng: random.Random) -> None:
    """Something else than an object."""
    if draft.json is not None:
        draft.json = rng.choice([_value(rng), [draft.json], json.dumps(draft.json), {"data": draft.json}])


def _places(tree: Any) -> Any:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from _places(tree[key])


def _value(rng: random.Random) -> Any:
    pool: list[Any] = rng.choice((list(TEXTS), NUMBERS, SHAPES))
    # Copied: a later mutation may change it in place.
    return json.loads(json.dumps(rng.choice(pool)))


# --- of its text ---


def text(draft: Draft, rng: random.Random) -> None:
    """JSON that is nearly JSON, or more than JSON."""
    draft.settle()
    body = draft.body
    twice = b'{"prompt": "a", "prompt": "b", "n": 1, "n": 99, "seed": 1' + b', "seed": 2' * 2000 + b"}"
    draft.body = rng.choice(
        [
            b"\xef\xbb\xbf" + body,
            body.decode("utf-8", "replace").encode("utf-16"),
            body + b"\n\n}",
            body + body,
            body.replace(b'"', b"'"),
            body.replace(b": ", b": /* note */ "),
            body.replace(b"}", b",}"),
            body.replace(b"1", b"01"),
            body.replace(b"1", b"NaN"),
            body.replace(b"1", b"1e99999"),
            body.replace(b"1", b"1" * 5000),
            body.replace(b"1", b"-" + b"9" * 400 + b".5e-400"),
            body.replace(b"apple", b"\\ud83d apple"),
            body.replace(b"apple", b"\\udc00\\ud800"),
            body.replace(b"apple", b"\xff\xfe\xed\xa0\x80"),
            body.replace(b"apple", b"\0"),
            body.replace(b"{", b"[" * rng.choice((3, 1000, 100_000)), 1),
            b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            b'{"prompt": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
            twice,
            b'{"prompt": "a", "' + b'", "'.join(b'k%d": "v' % i for i in range(3000)) + b'"}',
            b'{"prompt": "' + b"\\u0041" * 20_000 + b'"}',
            b"\n" * 50_000 + body,
            b"",
            b"null",
            b"prompt=a+red+apple&n=1",
        ]
    )


def bytes_(draft: Draft, rng: random.Random) -> None:
    """Some bytes changed, cut out, or written twice."""
    draft.settle()
    body = bytearray(draft.body)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if not body:
            return
        at = rng.randrange(len(body))
        kind = rng.randrange(4)
        if kind == 0:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            body[at] = rng.choice(b'\0"\\{}[],:-\r\n\x7f\x80\xff')
        elif kind == 2:
            del body[at : at + rng.choice((1, 4, 64))]
        else:
            body[at:at] = body[at : at + rng.choice((1, 16, 256))]
    draft.body = bytes(body)


def short(draft: Draft, rng: random.Random) -> None:
    """A body that ends early, with a Content-Length that says so."""
    draft.settle()
    draft.body = draft.body[: rng.randrange(len(draft.body) + 1)]


def packed(draft: Draft, rng: random.Random) -> None:
    """A body that is compressed, or said to be."""
    draft.settle()
    name = rng.choice((b"gzip", b"gzip", b"deflate", b"br", b"gzip, gzip", b"identity", b"x"))
    draft.headers.append(("Content-Encoding", name))
    kind = rng.randrange(4)
    if kind == 0:
        draft.body = gzip.compress(draft.body)
    elif kind == 1:
        draft.body = gzip.compress(draft.body)[: rng.randrange(1, 20)]
    elif kind == 2:
        draft.body = gzip.compress(b'{"prompt": "' + b"a" * 2_000_000 + b'"}')


# --- of a form's parts ---


def part(draft: Draft, rng: random.Random) -> None:
    """A part that is spelled in another way, or comes twice, or is empty."""
    if not draft.parts:
        return
    chosen = rng.choice(draft.parts)
    head = chosen.headers[0]
    kind = rng.randrange(14)
    if kind == 0:
        draft.parts.append(Part(list(chosen.headers), chosen.body))
    elif kind == 1:
        chosen.body = b""
    elif kind == 2:
        chosen.headers[0] = head.replace(b'filename="a.png"', b'filename=""')
    elif kind == 3:
        names = (
            b"mask[]",
            b"image[0]",
            b"image[1]",
            b"images[]",
            b"images",
            b"file",
            b"",
            b"image[a]",
            b"\xff",
            b"a" * 5000,
        )
        chosen.headers[0] = head.replace(b'name="image"', b'name="' + rng.choice(names) + b'"')
    elif kind == 4:
        chosen.headers[0] = head.replace(b'"', b"")
    elif kind == 5:
        chosen.headers[0] = rng.choice(
            (b"", b"Content-Disposition: form-data", b"Content-Disposition: attachment", b"x")
        )
    elif kind == 6:
        chosen.headers.append(b"Content-Type: text/plain; charset=" + rng.choice(CHARSETS).encode())
    elif kind == 7:
        chosen.headers.append(
            rng.choice((b"Content-Transfer-Encoding: base64", b"Content-Length: 5", b"\xff: \xff", b":"))
        )
    elif kind == 8:
        chosen.body += b"\r\n--" + BOUNDARY.encode()[: rng.randrange(1, 20)]
    elif kind == 9:
        draft.parts += [Part(list(chosen.headers), chosen.body) for _ in range(rng.choice((17, 70, 200)))]
    elif kind == 10:
        rng.shuffle(draft.parts)
    elif kind == 11:
        chosen.headers[0] = head.replace(b"filename=", b"filename*=UTF-8''%00%2e%2e%2f; x=")
    elif kind == 12:
        chosen.body = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    else:
        chosen.headers += [b"x-%d: y" % i for i in range(200)]


def delimiter(draft: Draft, rng: random.Random) -> None:
    """Boundaries and ends of a form that do not fit."""
    mark = b"--" + BOUNDARY.encode()
    draft.close = rng.choice(
        (b"", mark, mark + b"-", mark + b"\r\n", mark + b"--", mark + b"--\r\nepilogue" * 3, b"--x--")
    )
    if rng.random() < 0.3:
        draft.settle()
        draft.body = rng.choice(
            (b"preamble\r\n" + draft.body, draft.body.replace(b"\r\n", b"\n"), b"\r\n" + draft.body)
        )


# --- of the head ---


def header(draft: Draft, rng: random.Random) -> None:
    """Headers more, known or not, with values of any kind."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        name = rng.choice(HEADER_NAMES) if rng.random() < 0.9 else rng.choice(("X", "é", "a b", "", "_", "x" * 500))
        draft.headers.append((name, rng.choice(HEADER_VALUES)))
        # It may be refused before the body, or not be HTTP at all, or ask for another protocol.
        draft.whole = (
            draft.whole and name in HEADER_NAMES and name.lower() not in ("connection", "upgrade", "te", "expect")
        )


def content_type(draft: Draft, rng: random.Random) -> None:
    """Another Content-Type, or none."""
    draft.headers = [(name, sent) for name, sent in draft.headers if name != "Content-Type"]
    chosen = rng.choice(CONTENT_TYPES)
    if chosen:
        draft.headers.append(("Content-Type", chosen))


def names(draft: Draft, rng: random.Random) -> None:
    """Ids as clients choose them, also twice."""
    name = rng.choice(("x-job-id", "Idempotency-Key", "x-request-id"))
    chosen = rng.choice(
        (b"fuzz-%04d" % rng.randrange(50), b"fuzz-" + b"a" * 60, b"short", b"\xe9" * 9, b"a b c d e", b"")
    )
    draft.headers += [(name, chosen)] * rng.choice((1, 1, 1, 2))


def method(draft: Draft, rng: random.Random) -> None:
    draft.method = rng.choice(METHODS)
    draft.whole = draft.whole and draft.method not in ("CONNECT", "BREW", "get")


def path(draft: Draft, rng: random.Random) -> None:
    """The same path in another spelling, or a strange one."""
    name, _, query = draft.path.partition("?")
    swapped = name.replace("/v1/", "/api/", 1) if "/v1/" in name else name.replace("/api/", "/v1/", 1)
    draft.path = rng.choice(
        [
            name + "/",
            name.replace("/", "//"),
            swapped,
            name.removeprefix("/v1").removeprefix("/api") or "/",
            "/x" + name,
            name + "?" + "&".join(f"{rng.choice(FIELDS)}={i}" for i in range(rng.choice((1, 5, 500)))),
            name + "?model=%FF%00&type=%E2%28%A1&expires=9" + "9" * 500,
            name.replace("s", "%73").replace("e", "%65"),
            name + "%00",
            name + "/%2e%2e/%2e%2e/etc/passwd",
            name.replace("/", "/./", 1) + "/../",
            name.replace("/", "\\"),
            name + ";x=y",
            name + "#x",
            name.upper(),
            name + "/" + "a" * rng.choice((300, 9000)),
            name + "/é",
            name + "%ff%fe",
            "http://other.example" + name,
            "//other.example" + name,
            "*",
        ]
    ) + (f"?{query}" if query and rng.random() < 0.5 else "")


# --- of the framing: nothing is known of how many answers there will be ---


def torn(draft: Draft, rng: random.Random) -> None:
    """A request whose sender stops anywhere."""
    draft.cut = rng.randrange(1, 3000)
    draft.whole = False


def length(draft: Draft, rng: random.Random) -> None:
    """A Content-Length that is not the body's, or comes twice."""
    draft.settle()
    true = len(draft.body)
    lies = (
        str(true + 1),
        str(max(0, true - 5)),
        "0",
        "-1",
        "+5",
        "1e3",
        "",
        "5, 5",
        "99999999999999999999",
        " 7",
        "0x10",
    )
    draft.length = rng.choice(lies)
    if rng.random() < 0.2:
        draft.headers.append(("Content-Length", str(true).encode()))
    draft.whole = False


def chunked(draft: Draft, rng: random.Random) -> None:
    """A chunked body, whole or not, and perhaps with a Content-Length too."""
    draft.settle()
    body, size = draft.body, rng.choice((1, 7, 1000))
    body = body[: 200 * size] if size < 100 else body
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    ends = (b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"", b"0", b"zz\r\n\r\n", b"-1\r\n\r\n", b"0;a=b\r\n\r\n")
    draft.chunks = sent + rng.choice(ends)
    name = rng.choice(
        (b"chunked", b"chunked", b"Chunked", b"gzip, chunked", b"chunked, chunked", b"identity", b" chunked")
    )
    draft.headers.append(("Transfer-Encoding", name))
    if rng.random() < 0.2:
        draft.headers.append(("Content-Length", b"%d" % rng.choice((0, 5, len(draft.chunks)))))
    draft.whole = False


def line(draft: Draft, rng: random.Random) -> None:
    """A first line, or line ends, of another time."""
    kind = rng.randrange(4)
    if kind == 0:
        draft.version = rng.choice(
            ("HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/11.1", "http/1.1", "", "HTTP/1.1 x")
        )
    elif kind == 1:
        draft.line_end = rng.choice((b"\n", b"\r", b"\r\n ", b"\0\r\n"))
    elif kind == 2:
        draft.before = rng.choice(
            (b"\r\n\r\n", b"\0", b"\x16\x03\x01\x02\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n\r\n")
        )
    else:
        draft.headers += [(f"x-{i}", b"y" * rng.choice((1, 100, 700))) for i in range(rng.choice((100, 1000)))]
    draft.whole = False


def pipelined(draft: Draft, rng: random.Random) -> None:
    """More requests before and behind it on the same connection."""
    probe = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    draft.before = probe * rng.choice((0, 1, 5))
    draft.after = rng.choice((probe, probe * 20, b"garbage\r\n\r\n", probe[:20], b"\0" * 100))
    draft.whole = False


# How often each is drawn. Framing is rare: its connections cannot be used again, and some are waited for.
WEIGHTS: dict[str, tuple[Mutation, int]] = {
    "value": (value, 24),
    "field": (field, 16),
    "without": (without, 6),
    "root": (root, 2),
    "text": (text, 8),
    "bytes": (bytes_, 8),
    "short": (short, 4),
    "packed": (packed, 3),
    "part": (part, 14),
    "delimiter": (delimiter, 4),
    "header": (header, 8),
    "content type": (content_type, 4),
    "names": (names, 4),
    "method": (method, 3),
    "path": (path, 6),
    "torn": (torn, 1),
    "length": (length, 1),
    "chunked": (chunked, 2),
    "line": (line, 1),
    "pipelined": (pipelined, 2),
}
MUTATIONS: dict[str, Mutation] = {name: mutation for name, (mutation, _) in WEIGHTS.items()}
