# The compiled module has the types of its pure twins.
from netcore._pure.connection import Connection as Connection
from netcore._pure.port import Port as Port
from netcore._pure.switch import Switch as Switch
