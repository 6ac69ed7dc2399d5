# The compiled module has the types of its pure twin.
from netcore._pure.table import RouteTable as RouteTable
