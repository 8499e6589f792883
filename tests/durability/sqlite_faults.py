"""A SQLite VFS that fails on demand, in the process that loads it, without a compiler: ctypes wraps SQLite's own VFS.

SQLite reaches every file through a VFS (https://sqlite.org/vfs.html). `install` makes one the default that opens files by the
original VFS and keeps a list of them. Without faults only the closing of a file passes through Python. A fault
replaces the methods that it needs in all files that match it, and `Faults.clear` puts the original methods back.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import ctypes.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from threading import RLock
from typing import Any

OK = 0
#: Result codes (https://sqlite.org/rescode.html).
FULL, IOERR_READ, IOERR_WRITE, IOERR_FSYNC = 13, 266, 778, 1034
_Int, _Int64, _Pointer = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_OPEN_WAL = 0x80000


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, with the fields that are replaced. The rest is copied unchanged."""

    _fields_ = [
        ("version", _Int), ("close", _Pointer), ("read", _Pointer), ("write", _Pointer), ("truncate", _Pointer),
        ("sync", _Pointer), ("file_size", _Pointer), ("rest", _Pointer * 12),
    ]


class _File(ctypes.Structure):
    """sqlite3_file."""

    _fields_ = [("methods", ctypes.POINTER(_Methods))]


class _VFS(ctypes.Structure):
    """sqlite3_vfs."""

    _fields_ = [
        ("version", _Int), ("file_bytes", _Int), ("path_bytes", _Int), ("next", _Pointer), ("name", ctypes.c_char_p),
        ("data", _Pointer), ("open", _Pointer), ("rest", _Pointer * 15),
    ]


#: The path is a pointer: SQLite keeps it, and the bytes after its end.
_Open = ctypes.CFUNCTYPE(_Int, _Pointer, _Pointer, _Pointer, _Int, ctypes.POINTER(_Int))
_Close = ctypes.CFUNCTYPE(_Int, _Pointer)
_Transfer = ctypes.CFUNCTYPE(_Int, _Pointer, _Pointer, _Int, _Int64)
_Sync = ctypes.CFUNCTYPE(_Int, _Pointer, _Int)
_FileSize = ctypes.CFUNCTYPE(_Int, _Pointer, ctypes.POINTER(_Int64))


@dataclass(eq=False)
class _OpenFile:
    """A file that SQLite has open. The file's pointer leads to `table`, which may be changed while the file is open."""

    address: int
    path: str
    wal: bool
    original: _Methods
    table: _Methods = field(default_factory=_Methods)


@dataclass
class Settings:
    """The faults. `file` is a pattern for names, such as "spool.db" or "spool.db*" (with its write-ahead log)."""

    file: str = "*"
    #: seconds that each write, and each sync, takes longer
    write_seconds: float = 0.0
    sync_seconds: float = 0.0
    #: no file can grow
    full: bool = False
    #: bytes that may still be added before that, counted over all files
    room: int = 0
    #: reads at or after this offset fail; -1: none
    read_error_from: int = -1
    #: reads from this offset on succeed; 0: no such offset
    read_error_to: int = 0
    #: this many reads fail, then they succeed again; 0: all fail
    read_errors: int = 0
    #: writes fail
    write_error: bool = False
    #: syncs fail
    sync_error: bool = False
    #: the process dies in the n-th write to a write-ahead log from now on, of which half is written
    torn_write: int = 0

    @property
    def any(self) -> bool:
        return self != Settings(self.file)


class Faults:
    """The current faults and the files that they may meet. `die` ends the process after a torn write."""

    def __init__(self, die: Callable[[], None]) -> None:
        self.settings = Settings()
        #: the number of calls that failed or were delayed
        self.hits = 0
        self._die = die
        self._files: dict[int, _OpenFile] = {}
        self._lock = RLock()
        self._read, self._write, self._sync = _Transfer(self._on_read), _Transfer(self._on_write), _Sync(self._on_sync)
        self._close = _Close(self._on_close)

    def opened(self, address: int, path: str, flags: int) -> None:
        """Take over a file that SQLite has just opened."""
        file = _File.from_address(address)
        original = file.methods.contents
        opened = _OpenFile(address, path, bool(flags & _OPEN_WAL), original)
        with self._lock:
            self._files[address] = opened
            self._apply(opened)
            file.methods = ctypes.pointer(opened.table)

    def set(self, settings: Settings) -> None:
        """Set these faults from now on."""
        with self._lock:
            self.settings, self.hits = settings, 0
            for opened in self._files.values():
                self._apply(opened)

    def clear(self) -> None:
        """Let everything work again."""
        self.set(Settings())

    def _apply(self, opened: _OpenFile) -> None:
        table, settings = opened.table, self.settings
        ctypes.memmove(ctypes.addressof(table), ctypes.addressof(opened.original), ctypes.sizeof(_Methods))
        table.close = _address(self._close)
        if not fnmatch(Path(opened.path).name, settings.file):
            return
        if settings.read_error_from >= 0:
            table.read = _address(self._read)
        if settings.full or settings.write_error or settings.torn_write or settings.write_seconds:
            table.write = _address(self._write)
        if settings.sync_seconds or settings.sync_error:
            table.sync = _address(self._sync)

    # --- calls from SQLite ---

    def _on_close(self, address: int) -> int:
        with self._lock:
            opened = self._files.pop(address)
        return int(_Close(opened.original.close)(address))

    def _on_read(self, address: int, buffer: int, size: int, offset: int) -> int:
        settings = self.settings
        if 0 <= settings.read_error_from <= offset and not 0 < settings.read_error_to <= offset:
            self.hits += 1
            if settings.read_errors == self.hits:
                settings.read_error_from = -1
            return IOERR_READ
        return int(_Transfer(self._files[address].original.read)(address, buffer, size, offset))

    def _on_write(self, address: int, buffer: int, size: int, offset: int) -> int:
        opened, settings = self._files[address], self.settings
        write = _Transfer(opened.original.write)
        if settings.write_seconds:
            self.hits += 1
            time.sleep(settings.write_seconds)
        if settings.write_error:
            self.hits += 1
            return IOERR_WRITE
        if settings.torn_write and opened.wal:
            settings.torn_write -= 1
            if not settings.torn_write:
                write(address, buffer, size // 2, offset)
                self._die()
        growth = offset + size - _size(opened) if settings.full else 0
        if growth > 0:
            settings.room -= growth
            if settings.room < 0:
                self.hits += 1
                return FULL
        return int(write(address, buffer, size, offset))

    def _on_sync(self, address: int, flags: int) -> int:
        settings = self.settings
        self.hits += 1
        if settings.sync_seconds:
            time.sleep(settings.sync_seconds)
        if settings.sync_error:
            return IOERR_FSYNC
        return int(_Sync(self._files[address].original.sync)(address, flags))


def _size(opened: _OpenFile) -> int:
    size = _Int64()
    _FileSize(opened.original.file_size)(opened.address, ctypes.byref(size))
    return size.value


def _address(function: Any) -> int | None:
    return ctypes.cast(function, _Pointer).value


def _library() -> Any:
    """Return the SQLite library that this Python uses."""
    for name in ("libsqlite3.so.0", _sqlite3.__file__, None):
        try:
            library = ctypes.CDLL(name)
            library.sqlite3_vfs_find.restype = ctypes.POINTER(_VFS)
            library.sqlite3_libversion.restype = ctypes.c_char_p
        except (OSError, AttributeError):
            continue
        if library.sqlite3_libversion().decode() == _sqlite3.sqlite_version:
            return library
    raise RuntimeError("the SQLite library of this Python cannot be reached by ctypes")


#: Objects to which SQLite has pointers, and which must therefore never be collected.
_kept: list[object] = []


def install(die: Callable[[], None]) -> Faults:
    """Make the failing VFS the default for every database that is opened from now on."""
    library = _library()
    original = library.sqlite3_vfs_find(None)
    faults = Faults(die)
    open_file = _Open(original.contents.open)

    def opened(vfs: int, path: int | None, file: int, flags: int, out_flags: Any) -> int:
        status = int(open_file(ctypes.cast(original, _Pointer), path, file, flags, out_flags))
        if status == OK and _File.from_address(file).methods:
            faults.opened(file, ctypes.string_at(path).decode() if path else "", flags)
        return status

    vfs = _VFS()
    ctypes.memmove(ctypes.addressof(vfs), ctypes.addressof(original.contents), ctypes.sizeof(_VFS))
    callback = _Open(opened)
    vfs.name, vfs.open = b"faults", _address(callback)
    _kept.extend((original, open_file, vfs, callback, faults))
    if library.sqlite3_vfs_register(ctypes.byref(vfs), 1) != OK:
        raise RuntimeError("the VFS cannot be registered")
    return faults
