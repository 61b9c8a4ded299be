"""Loading compiled objects, by the system's libbpf through ctypes.

Only loading (and clsact, for kernels without tcx links) goes through libbpf: everything else is bpf(2).
"""

import ctypes
import os
from collections.abc import Callable, Mapping

from pylvs.datapath import _layout
from pylvs.errors import DatapathError

DIRECTORY = os.path.join(os.path.dirname(__file__), "obj")
_OWN_ERRORS = 4000  # libbpf's own numbers, for what is no eBPF object, begin here
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _Library:
    """libbpf with the signatures that we use, and what it last complained of."""

    def __init__(self) -> None:
        try:
            self.lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError:
            raise DatapathError("libbpf.so.1 is not installed; on Debian: apt-get install libbpf1") from None
        self.log: list[str] = []
        self._callback = _PRINT(self._keep)  # libbpf keeps the pointer: so must we
        self.lib.libbpf_set_print(self._callback)
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
        for name, result, arguments in (
            ("bpf_object__open_file", pointer, [text, pointer]),
            ("bpf_object__next_map", pointer, [pointer, pointer]),
            ("bpf_map__name", text, [pointer]),
            ("bpf_map__fd", number, [pointer]),
            ("bpf_map__set_max_entries", number, [pointer, ctypes.c_uint32]),
            ("bpf_map__reuse_fd", number, [pointer, number]),
            ("bpf_map__initial_value", pointer, [pointer, ctypes.POINTER(ctypes.c_size_t)]),
            ("bpf_object__load", number, [pointer]),
            ("bpf_object__next_program", pointer, [pointer, pointer]),
            ("bpf_program__name", text, [pointer]),
            ("bpf_program__set_autoload", number, [pointer, ctypes.c_bool]),
            ("bpf_program__fd", number, [pointer]),
            ("bpf_object__close", None, [pointer]),
            ("bpf_tc_hook_create", number, [pointer]),
            ("bpf_tc_attach", number, [pointer, pointer]),
            ("bpf_tc_detach", number, [pointer, pointer]),
            ("bpf_tc_query", number, [pointer, pointer]),
        ):
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments

    def _keep(self, level: int, form: bytes, arguments: int) -> int:
        if level <= 1:
            buffer = ctypes.create_string_buffer(1 << 20)  # the verifier says what is wrong at the end of a long log
            ctypes.CDLL(None).vsnprintf(buffer, len(buffer), form, ctypes.c_void_p(arguments))
            self.log.append(buffer.value.decode(errors="replace").strip())
        return 0


_loaded: _Library | None = None


def _library() -> _Library:
    global _loaded
    if _loaded is None:
        _loaded = _Library()
    return _loaded


class Object:
    """A loaded object: its maps and programs as file descriptors of our own.

    Attributes:
        maps, programs: name -> file descriptor; close() closes them. What is pinned or attached stays.
    """

    def __init__(
        self,
        name: str,
        sizes: Mapping[str, int],
        existing: Mapping[str, int],
        constants: Mapping[str, bytes],
        directory: str = DIRECTORY,
        wanted: Callable[[str], bool] = lambda _: True,
    ):
        """Load an object. Several can be loaded at a time, by threads.

        Args:
            name: "tc" or "sweep", or that of another one in another directory.
            sizes: map -> entries; what is not named keeps its size from the source.
            existing: map -> file descriptor of one to be used instead of making a new one.
            constants: read-only variable -> its bytes.
            wanted: which programs to load, by their names; maps are made all the same.

        Raises:
            DatapathError: the kernel refuses; the text holds the verifier's last lines.
        """
        library = _library()
        lib = library.lib
        said = len(library.log)
        self.maps: dict[str, int] = {}
        self.programs: dict[str, int] = {}
        path = os.path.join(directory, f"{name}.bpf.o")
        if not os.path.exists(path):
            raise DatapathError(f"{path} is missing: pylvs was not built; run make setup, or pip install .")
        handle = lib.bpf_object__open_file(path.encode(), None)
        if not handle:
            number = ctypes.get_errno()
            why = os.strerror(number) if number < _OWN_ERRORS else "it is damaged; install pylvs again"
            raise DatapathError(f"{path} cannot be read: {why}")
        try:
            titles = self._prepare(lib, handle, name, sizes, existing, constants)
            programs = self._choose(lib, handle, wanted)
            result = lib.bpf_object__load(handle)
            if result:
                raise DatapathError(_why(-result, library.log[said:]))
            # of our own: closing the object closes libbpf's
            item = lib.bpf_object__next_map(handle, None)
            while item:
                # one that is taken over goes by the name that it was made with: not what this object calls it
                self.maps[titles.pop(0)] = os.dup(lib.bpf_map__fd(item))
                item = lib.bpf_object__next_map(handle, item)
            for title, program in programs.items():
                self.programs[title] = os.dup(lib.bpf_program__fd(program))
        finally:
            lib.bpf_object__close(handle)

    @staticmethod
    def _choose(lib: ctypes.CDLL, handle: int, wanted: Callable[[str], bool]) -> dict[str, int]:
        """Let only those programs be loaded that are wanted. Returns libbpf's handles of them."""
        chosen = {}
        item = lib.bpf_object__next_program(handle, None)
        while item:
            title = lib.bpf_program__name(item).decode()
            if wanted(title):
                chosen[title] = item
            else:
                lib.bpf_program__set_autoload(item, False)
            item = lib.bpf_object__next_program(handle, item)
        return chosen

    @staticmethod
    def _prepare(
        lib: ctypes.CDLL,
        handle: int,
        name: str,
        sizes: Mapping[str, int],
        existing: Mapping[str, int],
        constants: Mapping[str, bytes],
    ) -> list[str]:
        """Get the maps ready for loading; their names in the source, in order."""
        titles = []
        item = lib.bpf_object__next_map(handle, None)
        while item:
            title = lib.bpf_map__name(item).decode()
            titles.append(title)
            if title.endswith(".rodata"):
                start = lib.bpf_map__initial_value(item, ctypes.byref(ctypes.c_size_t()))
                for variable, value in constants.items():
                    if variable in _layout.RODATA[name]:
                        offset, size = _layout.RODATA[name][variable]
                        if len(value) != size:
                            raise DatapathError(f"{variable} is {size} bytes in {name}.bpf.o, not {len(value)}")
                        ctypes.memmove(start + offset, value, size)
            elif title in existing:
                if lib.bpf_map__reuse_fd(item, existing[title]):
                    raise DatapathError(f"map {title} cannot be taken over: {os.strerror(ctypes.get_errno())}")
            elif title in sizes:
                lib.bpf_map__set_max_entries(item, sizes[title])
            item = lib.bpf_object__next_map(handle, item)
        return titles

    def close(self) -> None:
        for fd in (*self.maps.values(), *self.programs.values()):
            os.close(fd)
        self.maps.clear()
        self.programs.clear()


def _why(number: int, log: list[str]) -> str:
    lines = [line for text in log for line in text.splitlines() if line]
    tail = "\n  ".join(lines[-12:])
    if number == 1:
        return "the kernel does not let us load eBPF programs: pylvs needs root (CAP_BPF and CAP_NET_ADMIN)"
    release = os.uname().release
    what = f"the kernel ({release}) refused the eBPF programs: {os.strerror(number)}"
    return f"{what}; pylvs needs Linux 6.1 or newer\n  {tail}"


class _Hook(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("program", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


# A place of our own among an interface's filters; a program put there again replaces the former in one step.
_HANDLE, _PRIORITY, _INGRESS, _EGRESS, _REPLACE = 0x10C5, 0xC500, 1, 2, 1


def clsact_attach(program: int, ifindex: int, priority: int = _PRIORITY, egress: bool = False) -> None:
    """Attach a program as a clsact filter on ingress or egress, replacing an earlier one of ours in one step."""
    lib = _library().lib
    hook = _Hook(ctypes.sizeof(_Hook), ifindex, _EGRESS if egress else _INGRESS, 0)
    result = lib.bpf_tc_hook_create(ctypes.byref(hook))
    if result and result != -17:  # somebody's clsact is there already: we share it
        raise OSError(-result, os.strerror(-result))
    options = _Options(ctypes.sizeof(_Options), program, _REPLACE, 0, _HANDLE, priority)
    result = lib.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
    if result:
        raise OSError(-result, os.strerror(-result))


def clsact_detach(ifindex: int, priority: int = _PRIORITY, egress: bool = False) -> bool:
    """Remove our filter; False if there was none. The clsact itself stays: others may use it."""
    lib = _library().lib
    hook = _Hook(ctypes.sizeof(_Hook), ifindex, _EGRESS if egress else _INGRESS, 0)
    options = _Options(ctypes.sizeof(_Options), 0, 0, 0, _HANDLE, priority)
    return lib.bpf_tc_detach(ctypes.byref(hook), ctypes.byref(options)) == 0


def clsact_attached(ifindex: int, priority: int = _PRIORITY, egress: bool = False) -> bool:
    """Is there a filter in our place on the interface? False, too, if there is no such interface."""
    library = _library()
    said = len(library.log)
    hook = _Hook(ctypes.sizeof(_Hook), ifindex, _EGRESS if egress else _INGRESS, 0)
    options = _Options(ctypes.sizeof(_Options), 0, 0, 0, _HANDLE, priority)
    found: int = library.lib.bpf_tc_query(ctypes.byref(hook), ctypes.byref(options))
    del library.log[said:]  # libbpf complains of whatever is not there
    return found == 0
