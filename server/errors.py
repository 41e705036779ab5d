"""The errors a client can meet, and the one table from error to answer.

Knows kinds, statuses and whether a repeat can help; knows nothing of HTTP frameworks. Whoever finds
something wrong raises one of these; only ``server.edge.answers`` turns one into a response.

    DarkroomError
    ├── BadRequest             400  a field is missing, malformed or out of range; names it in ``param``
    │   └── BadImage           400  an input picture that cannot or may not be decoded or fetched
    ├── Unauthorized           401  no key, or one that we do not know
    ├── AdminRequired          403  only an admin key may ask for this
    ├── ModelForbidden         403  this key may not use the model; names those that it may
    ├── LinkRefused            403  a picture URL that has expired or whose signature is wrong
    ├── NotFound               404  no such route, picture or job
    │   └── ModelNotFound      404  no such model; names those that exist
    ├── MethodNotAllowed       405  the route exists, the method does not
    ├── SlowClient             408  the request did not arrive in time
    ├── JobCancelled           409  the job was cancelled by DELETE
    ├── IdempotencyMismatch    409  this Idempotency-Key came with another body before
    ├── TooLarge               413  body or input picture over a limit
    ├── UnsupportedEncoding    415  a body with a Content-Encoding other than gzip or deflate
    ├── RangeRefused           416  a Range that cannot be served
    ├── Busy                   429  come back after ``retry_after_s``
    │   ├── QueueFull          429  no permit left
    │   └── KeyLimit           429  this key has its share of permits in use
    ├── QuotaExceeded          429  this key has used up its day, or may have nothing
    ├── ServerFault            500  our fault; a repeat may help
    │   ├── GenerationFailed   500  this request would fail again (a black picture, a job that kills workers)
    │   └── JobLost            500  an async job that was begun twice, each time ended by the process that drew it
    ├── Unavailable            503  come back after ``retry_after_s``
    │   ├── ModelUnavailable   503  its folder is missing or broken; other models serve
    │   ├── WorkerLost         503  the worker died or hung under this job
    │   ├── OutOfDeviceMemory  503  the device had no room, even for the smallest batch
    │   ├── DeadlineExceeded   503  the job waited or ran longer than it may
    │   └── Draining           503  the server is shutting down
    ├── StoreFull              507  no room to store the picture
    └── JobNotKept             507  an async job cannot be kept: the database is full, read-only or broken

    ConfigError  start-up only: a setting or models.yaml entry that stops the server at the door.
"""

from __future__ import annotations

from dataclasses import dataclass


class DarkroomError(Exception):
    """An answerable failure.

    ``message`` is for the client: it names the field and the remedy, and never carries input values, paths,
    addresses or secrets. ``param`` is the offending request field, if one is.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or ANSWERS[type(self)].code
        self.retry_after_s = retry_after_s

    @property
    def answer(self) -> Answer:
        """The row of the table that this error is answered with."""
        return ANSWERS[type(self)]


class BadRequest(DarkroomError):
    pass


class BadImage(BadRequest):
    pass


class Unauthorized(DarkroomError):
    pass


class AdminRequired(DarkroomError):
    pass


class ModelForbidden(DarkroomError):
    pass


class LinkRefused(DarkroomError):
    pass


class NotFound(DarkroomError):
    pass


class ModelNotFound(NotFound):
    pass


class MethodNotAllowed(DarkroomError):
    pass


class SlowClient(DarkroomError):
    pass


class JobCancelled(DarkroomError):
    pass


class IdempotencyMismatch(DarkroomError):
    pass


class TooLarge(DarkroomError):
    pass


class UnsupportedEncoding(DarkroomError):
    pass


class RangeRefused(DarkroomError):
    pass


class Busy(DarkroomError):
    pass


class QueueFull(Busy):
    pass


class KeyLimit(Busy):
    pass


class QuotaExceeded(DarkroomError):
    pass


class ServerFault(DarkroomError):
    pass


class GenerationFailed(ServerFault):
    pass


class JobLost(ServerFault):
    pass


class Unavailable(DarkroomError):
    started = True  # False: no worker has come to the drawing, so that another may draw it


class ModelUnavailable(Unavailable):
    pass


class WorkerLost(Unavailable):
    begun = True  # False: it cannot have ended the worker (it waited for its model), or none is known to have ended


class OutOfDeviceMemory(Unavailable):
    pass


class DeadlineExceeded(Unavailable):
    pass


class Draining(Unavailable):
    pass


class StoreFull(DarkroomError):
    pass


class JobNotKept(DarkroomError):
    pass


class ConfigError(Exception):
    """A setting or a models.yaml entry that cannot be served with. Stops start-up; never on the wire."""


@dataclass(frozen=True)
class Answer:
    """How one kind of error looks on the wire."""

    status: int
    type: str
    code: str
    retry: bool  # may the same request succeed later? Sent as x-should-retry


ANSWERS: dict[type[DarkroomError], Answer] = {
    BadRequest: Answer(400, "invalid_request_error", "invalid_value", retry=False),
    BadImage: Answer(400, "invalid_request_error", "invalid_image", retry=False),
    Unauthorized: Answer(401, "authentication_error", "invalid_api_key", retry=False),
    AdminRequired: Answer(403, "permission_error", "admin_required", retry=False),
    ModelForbidden: Answer(403, "permission_error", "model_forbidden", retry=False),
    LinkRefused: Answer(403, "permission_error", "link_refused", retry=False),
    NotFound: Answer(404, "invalid_request_error", "not_found", retry=False),
    ModelNotFound: Answer(404, "invalid_request_error", "model_not_found", retry=False),
    MethodNotAllowed: Answer(405, "invalid_request_error", "method_not_allowed", retry=False),
    SlowClient: Answer(408, "invalid_request_error", "request_timeout", retry=True),
    JobCancelled: Answer(409, "invalid_request_error", "job_cancelled", retry=False),
    IdempotencyMismatch: Answer(409, "invalid_request_error", "idempotency_mismatch", retry=False),
    TooLarge: Answer(413, "invalid_request_error", "too_large", retry=False),
    UnsupportedEncoding: Answer(415, "invalid_request_error", "unsupported_encoding", retry=False),
    RangeRefused: Answer(416, "invalid_request_error", "range_not_satisfiable", retry=False),
    Busy: Answer(429, "rate_limit_error", "busy", retry=True),
    QueueFull: Answer(429, "rate_limit_error", "queue_full", retry=True),
    KeyLimit: Answer(429, "rate_limit_error", "key_limit", retry=True),
    QuotaExceeded: Answer(429, "rate_limit_error", "quota_exceeded", retry=False),
    ServerFault: Answer(500, "server_error", "internal_error", retry=True),
    GenerationFailed: Answer(500, "server_error", "generation_failed", retry=False),
    JobLost: Answer(500, "server_error", "job_lost", retry=False),
    Unavailable: Answer(503, "server_error", "unavailable", retry=True),
    ModelUnavailable: Answer(503, "server_error", "model_unavailable", retry=False),
    WorkerLost: Answer(503, "server_error", "worker_lost", retry=True),
    OutOfDeviceMemory: Answer(503, "server_error", "out_of_device_memory", retry=True),
    DeadlineExceeded: Answer(503, "server_error", "deadline_exceeded", retry=False),
    Draining: Answer(503, "server_error", "draining", retry=True),
    StoreFull: Answer(507, "server_error", "store_full", retry=False),
    JobNotKept: Answer(507, "server_error", "job_not_kept", retry=False),
}
