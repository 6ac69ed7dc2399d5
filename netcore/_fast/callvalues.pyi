# The compiled module has the types of its pure twin.
from netcore._pure.callvalues import CallAnswer as CallAnswer
from netcore._pure.callvalues import RpcRequest as RpcRequest
