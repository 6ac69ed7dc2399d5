"""Calls: both ends of one node, and the answer object at the callee."""

# Facts that this file relies on, besides those of the pure twin:
# - An open answer object and the desk know each other by plain pointers, so it needs no garbage
#   collector: the desk, when it goes, cuts off the answers in its list; an answer, when it goes,
#   takes itself out of the list. Both happen in __dealloc__, which sees no half-cleared object.
# - Envelopes are read where the frame lies and written into the frame; payload and text become
#   bytes before any Python code runs.

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyCallable_Check, PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netcore._fast.buffer cimport decref
from netcore._fast.callvalues cimport CallAnswer, RpcRequest
from netcore._fast.codec cimport (
    DEFAULT_TTL_HOPS,
    MAX_SERVICE,
    ROUTE_NODE,
    Message,
    header_t,
    load_u16,
    load_u32,
    load_u64,
    plain,
    store_u16,
    store_u32,
    store_u64,
)
from netcore._fast.connection cimport MAX_REASON_BYTES
from netcore._fast.loop cimport Loop, enter_hook, leave_hook
from netcore._fast.pending cimport (
    KEPT_PLACES,
    NO_PLACE,
    due_t,
    pending_add,
    pending_clear,
    pending_find,
    pending_first,
    pending_remove,
    wait_t,
)
from netcore._fast.switch cimport Calls, Switch, as_payload
from netcore._fast.table cimport SERVICES

from netcore import wire
from netcore.errors import (
    AnswerDropped,
    Busy,
    CallError,
    CallTimeout,
    LocalError,
    MessageTooBigError,
    NodeClosedError,
    NotHandled,
    QueueFullError,
    RemoteFailure,
    SendQueueFullError,
    ServiceNotFound,
)
from netcore.ids import check_service_id
from netcore.route import RouteRule, check_one, check_rule

__all__ = ["CallDesk", "RpcAnswer"]

cdef extern from *:
    """
    /* args[2..] are the n arguments; args[1] is for the object of a bound method, args[0] for
       whoever is called. */
    static PyObject *netcore_call(PyObject *function, PyObject **args, size_t n) {
        if (PyMethod_Check(function)) {
            args[1] = PyMethod_GET_SELF(function);
            return PyObject_Vectorcall(
                PyMethod_GET_FUNCTION(function), args + 1,
                (n + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        }
        return PyObject_Vectorcall(
            function, args + 2, n | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    """
    # Without a bound method's own hop. NULL with the exception set, which the caller handles.
    PyObject* call "netcore_call" (PyObject* function, PyObject** args, size_t n) noexcept

cdef extern from "Python.h":
    int is_true "PyObject_IsTrue" (PyObject* thing) noexcept

# The same names and values as in netcore/wire.py; tests/meta compares them.
cdef enum:
    RPC_REQUEST = 1
    RPC_OK = 2
    RPC_ERROR = 3
    RPC_REQUEST_HEADER_BYTES = 13
    RPC_OK_HEADER_BYTES = 9
    RPC_ERROR_HEADER_BYTES = 11
    RPC_SERVICE_NOT_FOUND = 1
    RPC_NOT_HANDLED = 2
    RPC_INTERNAL = 3
    RPC_DROPPED = 4
    RPC_BUSY = 5
    RPC_FIRST_APPLICATION_CODE = 256
    MAX_RPC_CODE = 65535

cdef enum:
    IDS_BYTES = 4096        # of randomness, drawn at once

cdef object LOCAL_TIMEOUT = wire.RPC_LOCAL_TIMEOUT
cdef object LOCAL_CLOSED = wire.RPC_LOCAL_CLOSED
cdef long long MAX_U32 = wire.MAX_U32
cdef dict ERRORS = {
    wire.RPC_LOCAL_TIMEOUT: CallTimeout,
    wire.RPC_SERVICE_NOT_FOUND: ServiceNotFound,
    wire.RPC_NOT_HANDLED: NotHandled,
    wire.RPC_INTERNAL: RemoteFailure,
    wire.RPC_DROPPED: AnswerDropped,
    wire.RPC_BUSY: Busy,
}
# After these an answer was not given: it may be given again, or a smaller one instead.
cdef tuple NOT_GIVEN = (SendQueueFullError, QueueFullError, MessageTooBigError)


cdef bytes cut_text(object text):
    """Return at most 200 bytes of UTF-8, never cut inside a character."""
    cdef bytes data
    if not isinstance(text, str):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    data = text.encode("utf-8", "replace")
    if PyBytes_GET_SIZE(data) <= MAX_REASON_BYTES:
        return data
    return data[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()


cdef CallAnswer failed(object code, object text):
    """Return the outcome of a call that failed."""
    cdef CallAnswer answer = CallAnswer.__new__(CallAnswer)
    answer.payload = b""
    answer.error = ERRORS.get(code, CallError)(code, text)
    return answer


cdef void hold_by(PyObject* answer, PyObject* desk) noexcept:
    """Enter an answer object into the list of its desk."""
    cdef PyObject* first = (<CallDesk>desk)._open
    (<RpcAnswer>answer)._desk = desk
    (<RpcAnswer>answer)._next = first
    if first != NULL:
        (<RpcAnswer>first)._previous = answer
    (<CallDesk>desk)._open = answer
    (<CallDesk>desk)._opened += 1


cdef void cut_off(PyObject* answer) noexcept:
    """Take an answer object out of that list, if it is in one; nothing more can be sent."""
    cdef PyObject* desk = (<RpcAnswer>answer)._desk
    cdef PyObject* after = (<RpcAnswer>answer)._next
    cdef PyObject* before = (<RpcAnswer>answer)._previous
    if desk == NULL:
        return
    if before != NULL:
        (<RpcAnswer>before)._next = after
    else:
        (<CallDesk>desk)._open = after
    if after != NULL:
        (<RpcAnswer>after)._previous = before
    (<RpcAnswer>answer)._desk = (<RpcAnswer>answer)._next = NULL
    (<RpcAnswer>answer)._previous = NULL
    (<CallDesk>desk)._opened -= 1


@cython.final
@cython.freelist(64)
cdef class RpcAnswer:
    """The one answer to a call: ``ok`` or ``error``, once, now or later, on the node's thread."""

    def __init__(self):
        """Make one that is closed."""

    def __dealloc__(self):
        cdef PyObject* desk = self._desk
        if desk != NULL:
            cut_off(<PyObject*>self)
            (<CallDesk>desk)._let_go(&self._caller)

    def __repr__(self):
        state = "answered" if self._answered else "closed" if self._desk == NULL else "open"
        return f"<RpcAnswer {self._caller.call_id:#x} {state}>"

    def __reduce__(self):
        # A copy would answer a second time.
        raise TypeError("an RpcAnswer can neither be copied nor pickled")

    @property
    def answered(self):
        """Whether the answer was given."""
        return self._answered

    def ok(self, payload=b""):
        """Answer."""
        cdef uint8_t envelope[RPC_OK_HEADER_BYTES]
        envelope[0] = RPC_OK
        store_u64(envelope + 1, self._caller.call_id)
        self._give(
            envelope,
            RPC_OK_HEADER_BYTES,
            <bytes>payload if PyBytes_CheckExact(payload) else as_payload(payload),
        )

    def error(self, code, text=""):
        """Answer with an error."""
        cdef uint8_t envelope[RPC_ERROR_HEADER_BYTES]
        cdef long long number = plain(code, MAX_RPC_CODE)
        if number < RPC_FIRST_APPLICATION_CODE:
            raise ValueError(
                f"an error code is {RPC_FIRST_APPLICATION_CODE}..{MAX_RPC_CODE} "
                f"(lower ones are netcore's own), not {code!r}"
            )
        put_error(envelope, self._caller.call_id, <int>number)
        self._give(envelope, RPC_ERROR_HEADER_BYTES, cut_text(text))

    cdef int _give(self, const uint8_t* envelope, uint32_t n, bytes payload) except -1:
        cdef CallDesk desk
        if self._answered:
            raise LocalError("already answered")
        if self._desk == NULL:
            raise NodeClosedError
        desk = <CallDesk>self._desk
        # Answered from here on: whatever runs inside of the send must not answer a second time.
        self._answered = True
        try:
            desk._send_back(&self._caller, envelope, n, payload)
        except NOT_GIVEN:
            self._answered = False
            raise
        except BaseException:
            cut_off(<PyObject*>self)
            raise
        cut_off(<PyObject*>self)
        return 0


cdef inline void put_error(uint8_t* envelope, uint64_t call_id, int code) noexcept:
    envelope[0] = RPC_ERROR
    store_u64(envelope + 1, call_id)
    store_u16(envelope + 9, <uint16_t>code)


@cython.auto_pickle(False)
@cython.final
cdef class CallDesk(Calls):
    """RPC of one node."""

    def __cinit__(self, Loop loop not None, rng, hooks, max_pending_calls, max_answers_open):
        """Make a desk."""
        self._loop = loop
        self._rng = rng
        self._hooks = hooks
        self._max_pending = max_pending_calls
        self._max_open = max_answers_open
        self._closed = NodeClosedError()  # until there is a switch
        self._behaviors = [None] * SERVICES
        self._on_done = []
        self._ids = b""

    def __dealloc__(self):
        while self._open != NULL:
            cut_off(self._open)
        pending_clear(&self._pending)
        PyMem_Free(self._dropped)

    def bind(self, Switch switch not None):
        """Use this switch, and be its desk; once, before anything else."""
        self._switch = switch
        self._closed = None
        switch._calls = self

    def set_behavior(self, service_id, hook, agent=None):
        """Give requests for a service to ``hook(agent, request, answer)``; None ends that."""
        self._behaviors[check_service_id(service_id)] = None if hook is None else (hook, agent)

    @property
    def pending(self):
        """Calls of this node that have not ended."""
        return self._pending.count

    @property
    def open(self):
        """Answer objects that have not ended."""
        return self._opened + self._n_dropped

    # -- the caller's side -------------------------------------------------------------------------

    def call(self, from_service, rule, service_id, payload, on_done, timeout_ms):
        """Send a request; ``on_done`` follows exactly once unless this raises."""
        self.c_call(from_service, rule, service_id, payload, on_done, timeout_ms)

    cdef int c_call(
        self,
        object from_service,
        object rule,
        object service_id,
        object payload,
        object on_done,
        object timeout_ms,
    ) except -1:
        cdef header_t header
        cdef long long timeout, deadline_ms
        cdef uint32_t place
        cdef uint64_t call_id
        if self._closed is not None or self._switch is None:
            raise (self._closed or NodeClosedError()).with_traceback(None)
        if not PyCallable_Check(on_done):
            raise TypeError(f"on_done must be callable, not {type(on_done).__name__}")
        if type(rule) is not RouteRule:  # cheaper than the call; it is final
            check_rule(rule)
        timeout = plain(timeout_ms, MAX_U32) if type(timeout_ms) is int else 0
        if timeout <= 0:
            raise LocalError(f"timeout_ms must be an int in 1..{MAX_U32}, not {timeout_ms!r}")
        if self._pending.count >= self._max_pending:
            self.refused += 1
            raise QueueFullError("max_pending_calls", self._max_pending)
        call_id = self._draw_id()
        if pending_find(&self._pending, call_id) != NO_PLACE:
            raise LocalError(f"call id {call_id:#x} is in use")
        if not self._loop._in_turn:
            self._loop.c_update_now()  # the last turn may be long ago
        deadline_ms = self._loop._now_ms + timeout
        place = pending_add(&self._pending, call_id, deadline_ms, <uint32_t>timeout)
        try:
            self._look_at(rule, &header)
            self._enter(place, &header, on_done)
            self._send_request(&header, from_service, service_id, payload, call_id, timeout)
        except BaseException as exc:
            if pending_find(&self._pending, call_id) == place:
                self._remove(place)
            elif isinstance(exc, Exception):
                return 0  # what ran inside closed the desk, which told on_done
            raise
        self.sent += 1
        if self._pending.count == 0:  # likewise
            return 0
        return self._arm(deadline_ms)

    cdef uint64_t _draw_id(self) except? 0:
        """Return the next 64 of the bits that were drawn."""
        if self._ids_at == PyBytes_GET_SIZE(self._ids):
            drawn = self._rng.randbytes(IDS_BYTES)
            if not PyBytes_CheckExact(drawn) or PyBytes_GET_SIZE(drawn) != IDS_BYTES:
                raise ValueError(f"randbytes({IDS_BYTES}) gave something else")
            self._ids = drawn
            self._ids_at = 0
        self._ids_at += 8
        return load_u64(PyBytes_AS_STRING(self._ids) + self._ids_at - 8)

    cdef int _look_at(self, object rule, header_t* header) except -1:
        """Read a rule; the last one is remembered, because it is often the next one too."""
        if rule is not self._rule:
            check_one(rule)
            self._rule_kind = rule.kind
            self._rule_argument = rule.argument
            self._rule = rule
        header.kind = self._rule_kind
        header.argument = self._rule_argument
        return 0

    cdef int _enter(self, uint32_t place, const header_t* header, object on_done) except -1:
        """Note who may answer, and who is told."""
        cdef wait_t* wait = &self._pending.places[place]
        wait.anybody = header.kind != ROUTE_NODE
        wait.expected = header.argument
        while len(self._on_done) <= place:
            self._on_done.append(None)
        self._on_done[place] = on_done
        return 0

    cdef object _remove(self, uint32_t place):
        """Take a call out; return its ``on_done``."""
        on_done = self._on_done[place] if place < <uint32_t>len(self._on_done) else None
        if on_done is not None:
            self._on_done[place] = None
        pending_remove(&self._pending, place)
        if self._pending.count == 0 and self._pending.room > KEPT_PLACES:
            pending_clear(&self._pending)
            self._on_done.clear()
        return on_done

    cdef int _send_request(
        self,
        header_t* header,
        object from_service,
        object service_id,
        object payload,
        uint64_t call_id,
        long long timeout_ms,
    ) except -1:
        cdef uint8_t envelope[RPC_REQUEST_HEADER_BYTES]
        cdef long long own = plain(from_service, MAX_SERVICE)
        cdef long long to = plain(service_id, MAX_SERVICE)
        cdef bytes data = (
            <bytes>payload if PyBytes_CheckExact(payload) else as_payload(payload)
        )
        if own < 0 or to < 0:
            self._switch._refuse_header(
                data, header.kind, header.argument, DEFAULT_TTL_HOPS, from_service, service_id, 0, 0
            )
        header.from_service = <uint8_t>own
        header.to_service = <uint8_t>to
        envelope[0] = RPC_REQUEST
        store_u64(envelope + 1, call_id)
        store_u32(envelope + 9, <uint32_t>timeout_ms)
        return self._switch._originate_call(header, envelope, RPC_REQUEST_HEADER_BYTES, data)

    cdef int _finish(self, object on_done, CallAnswer answer) except -1:
        cdef PyObject* args[3]
        cdef PyObject* result
        if not answer.ok:
            self.failed += 1
        args[2] = <PyObject*>answer
        enter_hook(self._loop, on_done)
        result = call(<PyObject*>on_done, args, 1)
        if result == NULL:
            self._on_raised(on_done)
        else:
            decref(result)
        return leave_hook(self._loop)

    cdef int _on_raised(self, object hook) except -1:
        """Report the exception that is set."""
        try:
            reraise()
        except Exception as exc:
            self._hooks.on_error(hook, exc)
        except BaseException as exc:
            self._hooks.hold(exc)
        return 0

    def _expire(self):
        """End the calls whose deadline has come."""
        cdef due_t* due
        cdef uint32_t timeout_ms
        self._timer = None
        while True:
            due = pending_first(&self._pending)
            if due == NULL or due.deadline_ms > self._loop._now_ms:
                break
            timeout_ms = self._pending.places[due.place].timeout_ms
            on_done = self._remove(due.place)
            self._finish(on_done, failed(LOCAL_TIMEOUT, f"no answer within {timeout_ms} ms"))
        due = pending_first(&self._pending)
        if due != NULL:
            self._arm(due.deadline_ms)

    cdef int _arm(self, long long due_ms) except -1:
        if self._timer is not None:
            if self._timer_ms <= due_ms:
                return 0  # an early wake-up costs less than a timer per call
            self._timer.cancel()
        self._timer_ms = due_ms
        self._timer = self._loop.c_call_at(due_ms, self._expire, ())
        return 0

    # -- the callee's side -------------------------------------------------------------------------

    def on_call(self, Message message not None):
        """Take a CALL frame in: a request or an answer."""
        cdef header_t header
        if message.payload is None:
            raise TypeError("the message was not made by its constructor")
        header.has_from = message.c_has_from
        header.from_node = message.c_from_node
        header.from_service = message.from_service
        header.to_service = message.to_service
        header.stream_id = message.stream_id
        self.c_on_call(
            &header,
            message.sender_verified,
            <const uint8_t*>PyBytes_AS_STRING(message.payload),
            PyBytes_GET_SIZE(message.payload),
        )

    cdef int c_on_call(
        self, const header_t* header, bint verified, const uint8_t* data, size_t n
    ) except -1:
        cdef int kind = data[0] if n >= RPC_OK_HEADER_BYTES else 0
        if kind == RPC_OK:
            return self._on_ok(header, data, n)
        if kind == RPC_REQUEST and n >= RPC_REQUEST_HEADER_BYTES:
            return self._on_request(header, verified, data, n)
        if kind == RPC_ERROR and n >= RPC_ERROR_HEADER_BYTES:
            return self._on_error(header, data, n)
        self.malformed += 1
        return 0

    cdef int _on_ok(self, const header_t* header, const uint8_t* data, size_t n) except -1:
        cdef uint32_t place = self._awaited(header, load_u64(data + 1))
        cdef CallAnswer answer
        if place == NO_PLACE:
            return 0
        answer = CallAnswer.__new__(CallAnswer)
        answer.ok = True
        answer.payload = PyBytes_FromStringAndSize(
            <const char*>data + RPC_OK_HEADER_BYTES, <Py_ssize_t>n - RPC_OK_HEADER_BYTES
        )
        return self._finish(self._remove(place), answer)

    cdef int _on_error(self, const header_t* header, const uint8_t* data, size_t n) except -1:
        cdef uint32_t code = load_u16(data + 9)
        cdef uint32_t place
        cdef bytes text
        if code == 0 or n > RPC_ERROR_HEADER_BYTES + MAX_REASON_BYTES:
            self.malformed += 1
            return 0
        text = PyBytes_FromStringAndSize(
            <const char*>data + RPC_ERROR_HEADER_BYTES, <Py_ssize_t>n - RPC_ERROR_HEADER_BYTES
        )
        try:
            words = text.decode()
        except UnicodeDecodeError:
            self.malformed += 1
            return 0
        place = self._awaited(header, load_u64(data + 1))
        if place == NO_PLACE:
            return 0
        return self._finish(self._remove(place), failed(code, words))

    cdef uint32_t _awaited(self, const header_t* header, uint64_t call_id) noexcept:
        """Return the place of the call that an answer ends; NO_PLACE, counted, for none."""
        cdef uint32_t place = pending_find(&self._pending, call_id)
        cdef wait_t* wait
        if place != NO_PLACE:
            wait = &self._pending.places[place]
            if wait.anybody or (header.has_from and header.from_node == wait.expected):
                return place
        self.late += 1
        return NO_PLACE

    cdef int _on_request(
        self, const header_t* header, bint verified, const uint8_t* data, size_t n
    ) except -1:
        cdef caller_t caller
        cdef RpcRequest request
        cdef RpcAnswer answer
        self.received += 1
        if not header.has_from:
            self.malformed += 1
            return 0
        caller.call_id = load_u64(data + 1)
        caller.node = header.from_node
        caller.from_service = header.to_service
        caller.to_service = header.from_service
        if self._opened + self._n_dropped >= self._max_open:
            self.busy += 1
            return self._refuse(&caller, RPC_BUSY, "")
        target = self._behaviors[header.to_service]
        if target is None:
            return self._refuse(
                &caller, RPC_SERVICE_NOT_FOUND, f"node has no service {header.to_service}"
            )
        request = RpcRequest.__new__(RpcRequest)
        request.payload = PyBytes_FromStringAndSize(
            <const char*>data + RPC_REQUEST_HEADER_BYTES,
            <Py_ssize_t>n - RPC_REQUEST_HEADER_BYTES,
        )
        request.from_node = header.from_node
        request.from_service = header.from_service
        request.to_service = header.to_service
        request.stream_id = header.stream_id
        request.deadline_ms = self._loop._now_ms + load_u32(data + 9)
        request.sender_verified = verified
        answer = RpcAnswer.__new__(RpcAnswer)
        answer._caller = caller
        hold_by(<PyObject*>answer, <PyObject*>self)
        return self._run(<tuple>target, request, answer)

    cdef int _run(self, tuple target, RpcRequest request, RpcAnswer answer) except -1:
        cdef PyObject* args[5]
        cdef PyObject* result
        cdef int handled = -1
        args[2] = <PyObject*>target[1]
        args[3] = <PyObject*>request
        args[4] = <PyObject*>answer
        enter_hook(self._loop, target[0])
        result = call(<PyObject*>target[0], args, 3)
        if result != NULL:
            handled = is_true(result)
            decref(result)
        if handled < 0:
            self._on_raised(target[0])
        leave_hook(self._loop)
        if handled == 1:
            return 0
        if answer._desk == NULL:
            return 0
        answer._answered = True
        cut_off(<PyObject*>answer)
        if handled < 0:
            return self._refuse(&answer._caller, RPC_INTERNAL, "the service raised an exception")
        return self._refuse(
            &answer._caller, RPC_NOT_HANDLED, f"service {request.to_service} does not handle this"
        )

    # -- answer objects ----------------------------------------------------------------------------

    cdef int _send_back(
        self, const caller_t* caller, const uint8_t* envelope, uint32_t n, bytes payload
    ) except -1:
        cdef header_t header
        if self._switch is None:  # in a garbage collection
            raise NodeClosedError
        header.kind = ROUTE_NODE
        header.argument = caller.node
        header.from_service = caller.from_service
        header.to_service = caller.to_service
        return self._switch._originate_call(&header, envelope, n, payload)

    cdef int _refuse(self, const caller_t* caller, int code, object text) except -1:
        """Answer with one of netcore's own codes; when that fails, the caller's timeout tells."""
        cdef uint8_t envelope[RPC_ERROR_HEADER_BYTES]
        put_error(envelope, caller.call_id, code)
        try:
            self._send_back(caller, envelope, RPC_ERROR_HEADER_BYTES, cut_text(text))
        except Exception:
            return 0
        return 0

    cdef int _let_go(self, const caller_t* caller) except -1:
        """Tell the caller soon; on any thread, at any moment. It stays counted until then."""
        cdef size_t room = self._dropped_room
        cdef void* memory
        if self._n_dropped == room:
            room = 2 * room + 16
            memory = PyMem_Realloc(self._dropped, room * sizeof(caller_t))
            if memory == NULL:
                return 0  # the caller's timeout tells
            self._dropped = <caller_t*>memory
            self._dropped_room = room
        self._dropped[self._n_dropped] = caller[0]
        self._n_dropped += 1
        if self._drop_posted:
            return 0
        self._drop_posted = True
        try:
            self._loop.post(self._send_dropped)
        except Exception:  # the loop takes nothing more
            self._drop_posted = False
            self._n_dropped = 0
        return 0

    def _send_dropped(self):
        """Tell those whose answer was let go, also while this runs."""
        cdef caller_t caller
        cdef size_t at = 0
        self._drop_posted = False
        while at < self._n_dropped:
            caller = self._dropped[at]
            at += 1
            self._refuse(&caller, RPC_DROPPED, "")
        self._n_dropped = 0

    # -- the end -----------------------------------------------------------------------------------

    def refuse(self, error):
        """Raise ``error`` from every call from now on."""
        self._closed = error

    def close(self):
        """End every call of this node with an error and let go of the open requests."""
        cdef uint32_t place
        cdef list ends = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for place in range(self._pending.room):
            if self._pending.places[place].number != 0:
                ends.append((self._pending.places[place].number, self._on_done[place]))
        pending_clear(&self._pending)
        self._on_done.clear()
        ends.sort()  # the numbers differ, so nothing else is compared
        for _, on_done in ends:
            self._finish(on_done, failed(LOCAL_CLOSED, "the node was closed"))
        while self._open != NULL:
            cut_off(self._open)
        self._n_dropped = 0


cdef int reraise() except -1:
    """Return with the exception that is set."""
    return -1
