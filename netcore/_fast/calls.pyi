# The compiled module has the types of its pure twin.
from netcore._pure.calls import CallDesk as CallDesk
from netcore._pure.calls import RpcAnswer as RpcAnswer
