"""What the kernels use of libc that Cython has no declarations for. None of it needs the GIL."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stddef cimport size_t

cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t

cdef extern from "<time.h>" nogil:
    ctypedef long time_t

    cdef struct timespec:
        time_t tv_sec
        long tv_nsec

    cdef enum:
        CLOCK_MONOTONIC
        CLOCK_MONOTONIC_COARSE

    int clock_gettime(int clock, timespec* out)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int usleep(unsigned int useconds)
    ssize_t read(int fd, void* buffer, size_t size)

cdef extern from "<fcntl.h>" nogil:
    cdef enum:
        F_GETFD

    int fcntl(int fd, int command)

cdef extern from "<sys/epoll.h>" nogil:
    cdef enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP

    ctypedef union epoll_data_t:
        uint64_t u64

    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout_ms)

cdef extern from "<sys/timerfd.h>" nogil:
    cdef enum:
        TFD_CLOEXEC
        TFD_NONBLOCK
        TFD_TIMER_ABSTIME

    cdef struct itimerspec:
        timespec it_interval
        timespec it_value

    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* value, itimerspec* old)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_MORE
        SHUT_WR
        SHUT_RDWR

    # The other fields stay zero: zero the whole struct first.
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen

    ssize_t recv(int fd, void* buffer, size_t size, int flags)
    ssize_t recvmsg(int fd, msghdr* message, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int shutdown(int fd, int how)
