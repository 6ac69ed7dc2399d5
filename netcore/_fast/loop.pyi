# The compiled module has the types of its pure twin.
from netcore._pure.loop import Loop as Loop
from netcore._pure.loop import Source as Source
from netcore._pure.loop import Timer as Timer
