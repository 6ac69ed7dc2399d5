# The compiled module has the types of its pure twin.
from netcore._pure.switch import Switch as Switch
