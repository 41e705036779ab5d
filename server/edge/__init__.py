"""The edge: everything that stands between a socket and a route. No torch, no jobs, no models.

From the socket inwards, each layer in its own file (``stack.install`` stacks them):

    deadlines        heads arrive in time and are not endless, answers are taken        (uvicorn protocol)
    http10           what has no length ends with its connection, where chunks are unknown (uvicorn protocol)
    pipelining       a client that leaves is seen, whatever waits behind its request     (uvicorn protocol)
    upgrades         an offer of another protocol is declined, and its request answered (uvicorn protocol)
    request_id       every request gets an id, every answer carries it
    lingering_close  an answer given before the body arrived closes the connection, but not at once
    access_log       one record per request: route, status, seconds, principal, bytes
    boundary         exceptions stop here and become an answer of the one shape
    paths            one spelling of each path: no doubled slash, none at the end
    auth             a key, or one of the open paths, or an open server guarded against web pages
    methods          OPTIONS is answered, and HEAD wherever GET is
    body             the body has a cap and a deadline, checked while it is read
    encodings        a body sent with gzip or deflate is read as what it was before

So a request without a key is refused before its body is read, and every refusal, whichever layer
it comes from, has an id, a log record and the one error shape. Beside the layers: ``connections``
(how many, whose, and which must go), ``answers`` (error → response), ``translation`` (other people's
exceptions → ours), ``dialects`` (whose words a path's clients read), ``keys`` (the keyring), ``rebinding`` (what an
open server refuses) and ``disconnect`` (work that ends when its client leaves).
"""
