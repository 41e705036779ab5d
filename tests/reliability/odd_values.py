"""Values, words and names that requests are mutated with."""

from __future__ import annotations

from typing import Any

from tests.reliability.cases import BOUNDARY

FIELDS = [
    "prompt",
    "model",
    "image",
    "images",
    "mask",
    "n",
    "size",
    "response_format",
    "quality",
    "style",
    "output_format",
    "output_compression",
    "background",
    "stream",
    "partial_images",
    "stream_progress",
    "seed",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "strength",
    "input_fidelity",
    "scheduler",
    "loras",
    "user",
    "moderation",
    "width",
    "height",
    "steps",
    "cfg_scale",
    "guidance",
    "aspect_ratio",
    "input",
    "modelOptions",
    "responseFormat",
    "negativePrompt",
    "image_url",
    "b64_json",
]
TEXTS = [
    "",
    " ",
    "a",
    "auto",
    "2",
    "2.0",
    "-1",
    "1e3",
    "True",
    "false",
    "null",
    "NaN",
    "1024X1024",
    "1024*1024",
    "0x0",
]
TEXTS += [
    "1024 x 1024",
    "99999999x1",
    "１０２４x１０２４",
    "٣x٣",
    "é🎨",
    "\0",
    "a\nb",
    "\x1b[31m",
    "../../etc/passwd",
    "%00",
]
TEXTS += ["data:image/png;base64,", "data:,x", "data:image/png;base64,AAAA", "http://127.0.0.1/", "file:///etc/passwd"]
TEXTS += ["{{7*7}}", "${jndi:x}", "'; drop--", "dall-e-3", "openai/dall-e-3", "gpt-image-1", "no-such-model", "\ud800"]
TEXTS += ["\u202eabc", "A" * 5000, "🎨" * 3000, "a " * 20_000, "(" * 2000, "[" * 2000, "\ufeff", "=" * 4096]
NUMBERS: list[Any] = [0, -0.0, -1, 1, 2, 2.0, 0.5, 1.5, 10, 11, 256, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63)]
NUMBERS += [10**30, 1e308, -1e308, 5e-324, 1e-400, True, False, None]
SHAPES: list[Any] = [[], {}, [[]], [{}], {"": ""}, [None], {"image_url": {"url": "x"}}, {"url": "x"}, {"file_id": "f"}]
SHAPES += [["a"] * 300, {str(i): i for i in range(300)}, [[[[[[]]]]]], {"b64_json": "AAAA"}, [1, "a", None, {}]]
HEADER_VALUES = [
    b"",
    b" ",
    b"*/*",
    b"\xff\xfe",
    b"a" * 3000,
    b"\t",
    b'"',
    b"0",
    b"-1",
    b"bytes=0-1,2-3,-5",
    b'W/"x"',
    b"x,y;q=2",
]
HEADER_VALUES += [
    b"http://evil.example",
    b"null",
    b"chunked",
    b"100-continue",
    b"close",
    b"keep-alive, Upgrade",
    b"\xc3\xa9",
]
HEADER_NAMES = [
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Authorization",
    "api-key",
    "Cache-Control",
    "Connection",
    "Content-Encoding",
    "Content-Language",
    "Content-MD5",
    "Cookie",
    "Expect",
    "Forwarded",
    "Host",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Max-Forwards",
    "Origin",
    "Access-Control-Request-Method",
    "Pragma",
    "Proxy",
    "Range",
    "Referer",
    "TE",
    "Trailer",
    "Upgrade",
    "User-Agent",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-HTTP-Method-Override",
    "x-job-id",
    "x-request-id",
    "x-should-retry",
    "X-Stainless-Retry-Count",
    "Sec-Fetch-Site",
    "Sec-WebSocket-Key",
]
CONTENT_TYPES = [
    b"",
    b"application/json; charset=utf-16",
    b"application/json;charset=punycode",
    b"text/plain",
    b"text/html",
]
CONTENT_TYPES += [b"application/x-www-form-urlencoded", b"multipart/form-data", b"multipart/form-data; boundary="]
CONTENT_TYPES += [b'multipart/form-data; boundary="' + BOUNDARY.encode() + b'"', b"multipart/form-data; boundary=other"]
CONTENT_TYPES += [
    b"multipart/mixed; boundary=" + BOUNDARY.encode(),
    b"APPLICATION/JSON",
    b"image/png",
    b"application/xml",
    b";;=,",
]
CONTENT_TYPES += [
    b"multipart/form-data; charset=punycode; boundary=" + BOUNDARY.encode(),
    b"application/msgpack",
    b"json",
]
CONTENT_TYPES += [b"multipart/form-data; boundary=" + b"b" * 300]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "BREW", "get"]
CHARSETS = [
    "utf-8",
    "utf-16",
    "utf-7",
    "latin-1",
    "punycode",
    "idna",
    "base64",
    "zip",
    "unicode_escape",
    "raw_unicode_escape",
    "undefined",
    "x",
]
