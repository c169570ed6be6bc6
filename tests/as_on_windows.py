"""Runs a module where Python has only what it has on Windows: python as_on_windows.py MODULE [ARGUMENT ...]

Names of modules that are documented as "Availability: Unix" are gone, and what is open can be neither renamed, replaced
nor removed. Each file is in use by another process when it is first to be replaced, as by a scanner for viruses. It is
Linux all the same: separators of paths, ends of lines and start methods are not those of Windows.
"""

import asyncio
import ctypes
import fcntl
import multiprocessing.pool
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import types

import matplotlib.pyplot
import pandas
import torchvision

LOADED = (asyncio, multiprocessing, subprocess, tempfile, matplotlib, pandas, torchvision)  # they need what goes
GONE = {
    os: "O_CLOEXEC O_DIRECTORY O_DSYNC O_NDELAY O_NOCTTY O_NOFOLLOW O_NONBLOCK O_SYNC fork getuid getloadavg killpg"
    " mkfifo nice pipe2 posix_fadvise posix_fallocate pread pwrite sched_getaffinity set_blocking setsid"
    " sysconf wait",
    signal: "ITIMER_REAL SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGUSR1 SIG_BLOCK SIG_SETMASK SIG_UNBLOCK alarm pause"
    " pthread_sigmask setitimer sigwait",
}
GONE_MODULES = "fcntl grp posix pwd resource termios".split()


def refuse_open(path):
    """Raise PermissionError where this process has a file open, or one below a folder."""
    path = os.path.realpath(path)
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # that of listdir
            continue
        if target == path or target.startswith(path + os.sep):
            raise PermissionError(13, "The process cannot access the file because it is being used", path)


def checked(function):
    def call(path, *arguments, **options):
        refuse_open(path)
        if function in (os_rename, os_replace):
            refuse_open(arguments[0])
        if function is os_replace and arguments[0] not in scanned:
            scanned.add(arguments[0])
            raise PermissionError(13, "The process cannot access the file because it is being used", path)
        if function is os_rename and os.path.exists(arguments[0]):
            raise FileExistsError(17, "Cannot create a file when that file already exists", path)
        return function(path, *arguments, **options)

    return call


def sync(descriptor, fsync=os.fsync, get_flags=fcntl.fcntl, flags=fcntl.F_GETFL, read_only=os.O_RDONLY):
    if get_flags(descriptor, flags) & os.O_ACCMODE == read_only:
        raise OSError(9, "Bad file descriptor")
    fsync(descriptor)


def lock(descriptor, mode, count, flock=fcntl.flock, flags=fcntl.LOCK_EX | fcntl.LOCK_NB):
    try:
        flock(descriptor, flags)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None


def load_library(name, *arguments, load=ctypes.CDLL, **options):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    return load(name, *arguments, **options)


os_rename, os_replace, scanned = os.rename, os.replace, set()
for name in ("remove", "rename", "replace", "rmdir", "unlink"):
    setattr(os, name, checked(getattr(os, name)))
os.fsync, os.linesep, shutil._use_fd_functions = sync, "\r\n", False
for module, names in GONE.items():
    for name in names.split():
        delattr(module, name)
ctypes.CDLL, sys.platform = load_library, "win32"
sys.modules |= dict.fromkeys(GONE_MODULES) | {"msvcrt": types.SimpleNamespace(locking=lock, LK_NBLCK=2)}
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
