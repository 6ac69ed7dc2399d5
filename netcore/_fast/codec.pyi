# The compiled module has the types of its pure twin.
from netcore._pure.codec import FrameSplitter as FrameSplitter
from netcore._pure.codec import Message as Message
from netcore._pure.codec import decode_header as decode_header
from netcore._pure.codec import decode_message as decode_message
from netcore._pure.codec import encode_frame as encode_frame
from netcore._pure.codec import encode_header as encode_header
