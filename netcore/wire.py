"""Every number that travels between nodes; docs/protocol.md explains them.

Frame (streams)::

     0               1               2               3
    +---------------+-----------------------------------------------+
    |     kind      |        length of what follows (24 bit)        |
    +---------------+-----------------------------------------------+

Message header, 8, 12 or 16 bytes::

    +---+-+---+-+---+---------------+---------------+---------------+
    |V=0|F| R |S| M |      TTL      |  from_service |   to_service  |
    +---+-+---+-+---+---------------+---------------+---------------+
    |                           stream_id                           |
    +---------------------------------------------------------------+
    |                       from_node   (if F)                      |
    +---------------------------------------------------------------+
    |            route argument                (if R is not Direct) |
    +---------------------------------------------------------------+

The compiled kernels repeat some of these as C constants; ``tests/meta`` compares the two.
"""

from __future__ import annotations

from ._typing import Final

PROTOCOL_VERSION: Final = 1

# -- frames ------------------------------------------------------------------------------------
FRAME_HEADER_BYTES: Final = 4

KIND_MESSAGE: Final = 0x00
KIND_CALL: Final = 0x01
KIND_BROADCAST: Final = 0x02
KIND_HELLO: Final = 0x08
KIND_AUTH: Final = 0x09
KIND_READY: Final = 0x0A
KIND_REJECT: Final = 0x0B
KIND_PING: Final = 0x10
KIND_PONG: Final = 0x11
KIND_CLOSE: Final = 0x12
#: Kinds from here on are room for extensions: a receiver that does not know one counts it.
KIND_EXTENSION: Final = 0x80
#: Kinds from here on use the control queue of a link.
KIND_CONTROL: Final = 0x08

MAX_FRAME_BYTES: Final = (1 << 24) - 1  # the length field has 24 bits
DEFAULT_MAX_FRAME_BYTES: Final = 1 << 20
MIN_MAX_FRAME_BYTES: Final = 1 << 12  # room for a full route announcement in pieces
MAX_HANDSHAKE_FRAME_BYTES: Final = 256
MAX_HANDSHAKE_BYTES: Final = 512

# -- message header ----------------------------------------------------------------------------
HEADER_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 16
HEADER_VERSION: Final = 0
VERSION_SHIFT: Final = 6
FLAG_FROM_NODE: Final = 0x20
FLAG_SEALED: Final = 0x04  # end-to-end sealing; 0 in version 1
ROUTE_SHIFT: Final = 3
ROUTE_MASK: Final = 0x18
META_MASK: Final = 0x03

ROUTE_DIRECT: Final = 0
ROUTE_NODE: Final = 1
ROUTE_SERVICE: Final = 2
ROUTE_KEY: Final = 3
#: A rule, but not in a header: says that a message came, or goes, as a BROADCAST.
ROUTE_SERVICES: Final = 4

DEFAULT_TTL_HOPS: Final = 64  # the reference's default; IP stacks use 64 too
MAX_TTL_HOPS: Final = 255
MAX_META: Final = 3
MAX_U32: Final = 0xFFFF_FFFF
NO_NODE: Final = 0xFFFF_FFFF  # "any node"; never an id
MAX_NODE_ID: Final = NO_NODE - 1

FIRST_RESERVED_SERVICE: Final = 240
MAX_SERVICE: Final = 255
SERVICE_ROUTER_SYNC: Final = 255

# -- BROADCAST ---------------------------------------------------------------------------------
BROADCAST_HEADER_BYTES: Final = 28  # message header of 16 bytes, origin's epoch u64, sequence u32
BROADCAST_LEVEL_SHIFT: Final = 24  # the level is the highest byte of the route argument

#: How many bytes of its id, from the highest, a node must share with the origin.
BROADCAST_GLOBAL: Final = 0
BROADCAST_ZONE: Final = 1
BROADCAST_SUB_ZONE: Final = 2
BROADCAST_GROUP: Final = 3

#: Sequence numbers of one origin that are told apart, the newest and those before it.
BROADCAST_WINDOW: Final = 1024

# -- what a route table answers ----------------------------------------------------------------
ACTION_REJECT: Final = 0
ACTION_LOCAL: Final = 1
ACTION_NEXT: Final = 2

# -- frame errors: the reasons a FrameError can carry ------------------------------------------
FRAME_TRUNCATED: Final = "truncated"
FRAME_BAD_VERSION: Final = "bad_version"
FRAME_SEALED: Final = "sealed"
FRAME_TOO_BIG: Final = "too_big"
FRAME_BAD_KIND: Final = "bad_kind"
FRAME_BAD_TAG: Final = "bad_tag"
FRAME_BAD_BODY: Final = "bad_body"
FRAME_ERRORS: Final = (
    FRAME_TRUNCATED,
    FRAME_BAD_VERSION,
    FRAME_SEALED,
    FRAME_TOO_BIG,
    FRAME_BAD_KIND,
    FRAME_BAD_TAG,
    FRAME_BAD_BODY,
)

# -- handshake ---------------------------------------------------------------------------------
MAGIC: Final = b"NETC"
LEVEL_OPEN: Final = 0x01
LEVEL_AUTH: Final = 0x02
LEVEL_TLS: Final = 0x04
HELLO_PARALLEL: Final = 0x0001
NONCE_BYTES: Final = 32
KEY_ID_BYTES: Final = 4
MAX_REASON_BYTES: Final = 200
MIN_SECRET_BYTES: Final = 16
HKDF_INFO_KEY: Final = b"netcore v1"
HKDF_INFO_KEY_ID: Final = b"netcore v1 id"

#: Codes of a REJECT frame.
REJECT_BEHAVIOR: Final = 1
REJECT_IDENTITY_MISMATCH: Final = 2
REJECT_VERSION: Final = 3
REJECT_SELF_CONNECT: Final = 4
REJECT_DUPLICATE_NODE_ID: Final = 5
REJECT_ALREADY_CONNECTED: Final = 6
REJECT_AUTHENTICATION: Final = 7
REJECT_TOO_MANY_CONNECTIONS: Final = 8

# -- level tls ---------------------------------------------------------------------------------
#: Its certificate names a node by a URI, in the subject alternative names: this and its id.
TLS_NODE_URI: Final = "netcore:node/"
#: Of one side, until it is known whose certificate that is: some five times what three certificates
#: with RSA keys take.
MAX_TLS_HANDSHAKE_BYTES: Final = 32 * 1024
#: Types of TLS records (RFC 8446, section 5.1) that a stream can begin with; never kinds of frames.
TLS_ALERT: Final = 0x15
TLS_HANDSHAKE: Final = 0x16

# -- records (level auth) ----------------------------------------------------------------------
RECORD_LENGTH_BYTES: Final = 3
RECORD_TAG_BYTES: Final = 16
MAX_RECORD_BODY_BYTES: Final = 32 * 1024

# -- close reasons (u16 of a CLOSE frame, and what on_closed is told) --------------------------
CLOSE_NORMAL: Final = 0
CLOSE_SHUTDOWN: Final = 1  # the node is going away
CLOSE_REPLACED: Final = 2  # a newer incarnation of the same node took over
CLOSE_PROTOCOL_ERROR: Final = 3
CLOSE_CONTROL_OVERFLOW: Final = 4
CLOSE_DEAD: Final = 5  # silence for dead_ms
CLOSE_QUEUE_FULL: Final = 6  # its send queue was full, and send_queue_policy is "close"
CLOSE_SHED: Final = 7  # the most bytes waited for it when max_queued_bytes were exceeded
#: Never on the wire: what a node says to itself when the stream just ended.
CLOSE_LOST: Final = 0x100

# -- ping --------------------------------------------------------------------------------------
PING_BYTES: Final = 11  # token u64, interval u16, flags u8
PONG_BYTES: Final = 8
PING_FLAG_SUSPECT: Final = 0x01

# -- RPC envelope (the payload of a CALL) ------------------------------------------------------
RPC_REQUEST: Final = 1
RPC_OK: Final = 2
RPC_ERROR: Final = 3
RPC_REQUEST_HEADER_BYTES: Final = 13  # type u8, id u64, time left in ms u32
RPC_OK_HEADER_BYTES: Final = 9
RPC_ERROR_HEADER_BYTES: Final = 11
RPC_SERVICE_NOT_FOUND: Final = 1
RPC_NOT_HANDLED: Final = 2
RPC_INTERNAL: Final = 3
RPC_DROPPED: Final = 4
RPC_BUSY: Final = 5
RPC_FIRST_APPLICATION_CODE: Final = 256
MAX_RPC_CODE: Final = 65535
#: Codes that exist only at the caller.
RPC_LOCAL_TIMEOUT: Final = -1
RPC_LOCAL_CLOSED: Final = -2

# -- router_sync (the payload of a direct message to service 255) --------------------------------
SYNC_FULL: Final = 1
SYNC_DELTA: Final = 2
SYNC_DIGEST: Final = 3
SYNC_REQUEST: Final = 4
SYNC_LOST: Final = 5
SYNC_EXTENSION: Final = 0x80  # types from here on are ignored by who does not know them
SYNC_FIRST_PIECE: Final = 0x01
SYNC_LAST_PIECE: Final = 0x02
SYNC_WITHDRAWN: Final = 0x8000  # in the place of an entry
#: Below the smallest frame limit that a link can have, with room for the message header.
SYNC_MAX_MESSAGE_BYTES: Final = MIN_MAX_FRAME_BYTES - 96

# -- transports: the protocol byte of a ConnId --------------------------------------------------
PROTOCOL_MEMORY: Final = 1
PROTOCOL_TCP: Final = 2
PROTOCOL_UDP: Final = 3  # reserved
PROTOCOL_UNIX: Final = 4

# -- routing limits ----------------------------------------------------------------------------
LAYERS: Final = 4
SLOTS: Final = 256
SERVICES: Final = 256
MAX_PATH_HOPS: Final = 32
HOP_COST_MS: Final = 10  # the reference's cost of one hop, in ms of latency
#: What a suspect link adds to a way, more than all else that decides: the last resort.
SUSPECT_LATENCY_MS: Final = 1_000_000
UNKNOWN_LATENCY_MS: Final = 1_000  # of a link that was not measured yet: usable, but not preferred
