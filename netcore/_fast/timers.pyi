# The compiled module has the types of its pure twin.
from netcore._pure.timers import Timer as Timer
from netcore._pure.timers import TimerQueue as TimerQueue
