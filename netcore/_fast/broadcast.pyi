# The compiled module has the types of its pure twin.
from netcore._pure.broadcast import BroadcastDesk as BroadcastDesk
from netcore._pure.broadcast import DuplicateFilter as DuplicateFilter
