"""Our programs in the place of the system's ipvsadm, so that the original comes back byte for byte.

Rules of this file:

- A journal (JOURNAL) is written before the first change and removed after the last one undone. Every step may be the
  last that happens: what stands in the journal can always be finished (`install`) or undone (`remove`).
- The original is not copied: it gets a second name (a hard link), and then our link takes over its first name in one
  step. There is no moment without an ipvsadm, and what comes back is the file itself.
- Where dpkg keeps the system, it is told (dpkg-divert): packages that are installed, upgraded or removed meanwhile then
  write to that second name. update-alternatives would only help with packages that take part in it; ipvsadm's does not.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pylvs.errors import LVSError

PROGRAMS = ("ipvsadm", "ipvsadm-save", "ipvsadm-restore")
JOURNAL = "var/lib/pylvs/alternative.json"
SAVED = ".pylvs-original"
_FRESH = ".pylvs-new"  # of a link that is about to take a name over
_SEARCHED = ("sbin", "usr/sbin", "usr/bin", "bin", "usr/local/sbin")
_MAN = "usr/share/man/man8"
# ours, and where the shells look; a shell that is not there needs none
_COMPLETIONS = (
    ("share/bash-completion/completions/{}", "usr/share/bash-completion/completions/{}"),
    ("share/zsh/site-functions/_{}", "usr/share/zsh/site-functions/_{}"),
    ("share/zsh/site-functions/_{}", "usr/share/zsh/vendor-completions/_{}"),  # Debian's
    ("share/fish/vendor_completions.d/{}.fish", "usr/share/fish/vendor_completions.d/{}.fish"),
)


class AlternativeError(LVSError):
    """Our programs cannot take the place, or cannot leave it."""


class Place(NamedTuple):
    """One name in the system.

    Attributes:
        path: the name, from the root on, without the first slash.
        target: where our link points; "" if the name only has to go (a page of the original beside ours).
        diverted: the spellings of the name that dpkg was told of.
    """

    path: str
    target: str
    diverted: tuple[str, ...]

    @property
    def saved(self) -> str:
        return self.path + SAVED


class System:
    """A root directory in which links are put.

    Args:
        root: "/", or where an image is mounted.
        prefix: where pylvs is installed, as seen from that root: bin/ and share/ are below it.
        tell: gets a line for each thing that is done.
        dry: do nothing, only tell.

    Raises:
        AlternativeError: there is no such directory.
    """

    def __init__(self, root: str, prefix: str, tell: Callable[[str], object] = print, dry: bool = False):
        self.root = os.path.realpath(root)
        self.prefix = prefix.rstrip("/") or "/"
        self._tell, self._dry = tell, dry
        if not os.path.isdir(self.root):
            raise AlternativeError(f"{root} is no directory")
        self._dpkg = os.path.exists(self._at("var/lib/dpkg/status")) and shutil.which("dpkg-divert") is not None

    # ---- what there is ----------------------------------------------------------------------------------------------

    def recorded(self) -> list[Place]:
        """What the journal says; nothing if there is none.

        Raises:
            AlternativeError: it cannot be read.
        """
        try:
            with open(self._at(JOURNAL), encoding="utf-8") as file:
                return [Place(path, target, tuple(names)) for path, target, names in json.load(file)["places"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AlternativeError(f"{self._at(JOURNAL)} cannot be read: {error}") from None

    def status(self) -> Iterator[str]:
        """Who has each name now, a line for each."""
        places = self.recorded()
        if not places:
            yield "not installed: the system's ipvsadm is its own"
            return
        for place in places:
            if place.target:
                yield f"/{place.path}: {self._state(place)}"

    def _state(self, place: Place) -> str:
        path = self._at(place.path)
        kept = "; the original is kept beside it" if os.path.lexists(self._at(place.saved)) else ""
        if not os.path.lexists(path):
            return f"missing{kept}; pylvs install-alternative puts it back"
        if not self._is_link_to(place):
            return f"not ours any more: something else took its place{kept}; pylvs install-alternative takes it again"
        if not os.path.exists(self._inside(place.target)):
            return f"points to {place.target}, which is gone{kept}; install pylvs there again, or --remove"
        return f"ours, {place.target}{kept}"

    # ---- in and out -------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Put our links in their places; what is in place already stays. A journal's work is finished first.

        Raises:
            AlternativeError, OSError: and then nothing is changed, unless they were in place before.
        """
        known = {place.path: place for place in self.recorded()}
        places = self._wanted()
        for place in places:
            self._check(place, known.get(place.path))
        # names that an earlier version took, and this one does not: they stay in the journal until --remove
        wanted = {place.path for place in places}
        everything = [*places, *(place for path, place in known.items() if path not in wanted)]
        self._write_journal(everything)
        try:
            for place in places:
                self._take(place)
        except (AlternativeError, OSError):
            if not known:
                self.remove()
            raise

    def remove(self) -> None:
        """Give every name back.

        Raises:
            AlternativeError: there is nothing to give back.
        """
        places = self.recorded()
        if not places:
            raise AlternativeError(f"nothing to remove: {self._at(JOURNAL)} is not there")
        for place in reversed(places):
            self._give_back(place)
        if not self._dry:
            os.unlink(self._at(JOURNAL))
            try:
                os.rmdir(os.path.dirname(self._at(JOURNAL)))
            except OSError:
                pass  # somebody else has something in it

    def _wanted(self) -> list[Place]:
        directory = next(filter(self._has_original, _SEARCHED), "sbin")
        places = []
        for name in PROGRAMS:
            target = f"{self.prefix}/bin/{name}"
            if not os.access(self._inside(target), os.X_OK):
                raise AlternativeError(f"{self._inside(target)} is no program: install pylvs there, or say --prefix")
            if self._same_directory(f"{self.prefix}/bin", directory):
                raise AlternativeError(f"{self._inside(target)} is the system's {name} already")
            places.append(self._place(f"{directory}/{name}", target))
        for name in PROGRAMS:
            page = f"share/man/man8/{name}.8"
            if os.path.isdir(self._at(_MAN)) and os.path.exists(self._inside(f"{self.prefix}/{page}")):
                # man takes the first that it finds, so the original's must go, however it is packed
                places += [self._place(f"{_MAN}/{name}.8{end}", "") for end in self._packed(name)]
                places.append(self._place(f"{_MAN}/{name}.8", f"{self.prefix}/{page}"))
            for source, place in _COMPLETIONS:
                file = f"{self.prefix}/{source.format(name)}"
                if os.path.isdir(os.path.dirname(self._at(place))) and os.path.exists(self._inside(file)):
                    places.append(self._place(place.format(name), file))
        return places

    def _has_original(self, directory: str) -> bool:
        there = os.path.lexists(self._at(f"{directory}/{PROGRAMS[0]}"))
        return there and not self._same_directory(f"{self.prefix}/bin", directory)

    def _same_directory(self, one: str, other: str) -> bool:
        return os.path.realpath(self._inside(one)) == os.path.realpath(self._at(other))

    def _packed(self, name: str) -> Iterable[str]:
        # Debian packs pages with gzip: the package may come later
        ends = {".gz"} if self._dpkg else set()
        for end in (".gz", ".xz", ".bz2", ".zst"):
            page = self._at(f"{_MAN}/{name}.8{end}")
            if os.path.lexists(page) or os.path.lexists(page + SAVED):
                ends.add(end)
        return sorted(ends)

    def _place(self, path: str, target: str) -> Place:
        """A place, with the names by which packages may know it: /sbin is /usr/sbin on most systems now."""
        parent = os.path.realpath(os.path.dirname(self._at(path)))
        if parent != self.root and not parent.startswith(self.root.rstrip("/") + "/"):
            raise AlternativeError(f"{self._at(os.path.dirname(path))} leads out of {self.root}, to {parent}")
        names: tuple[str, ...] = ()
        if self._dpkg:
            first, _, rest = path.partition("/")
            real = os.path.relpath(parent, self.root) + "/" + os.path.basename(path)
            short = real.removeprefix("usr/")
            alias = short if os.path.realpath(self._at(os.path.dirname(short))) == parent else real
            names = tuple(dict.fromkeys((path, real, alias))) if first and rest else (path,)
        return Place(path, target, names)

    def _check(self, place: Place, known: Place | None) -> None:
        """Refuse what is somebody else's."""
        path = self._at(place.path)
        if os.path.islink(path) and not self._is_link_to(place) and not (known and self._is_link_to(known)):
            raise AlternativeError(
                f"{path} is a link to {os.readlink(path)}, which is not ours: whoever made it has to take it away"
            )
        if os.path.isdir(path):
            raise AlternativeError(f"{path} is a directory")
        for name in place.diverted:
            there = self._divert("--truename", f"/{name}", check=False).strip()
            if there not in (f"/{name}", f"/{name}{SAVED}"):
                raise AlternativeError(f"dpkg-divert says that /{name} is diverted to {there} already")

    def _take(self, place: Place) -> None:
        path, saved = self._at(place.path), self._at(place.saved)
        for name in place.diverted:
            if self._divert("--truename", f"/{name}", check=False).strip() == f"/{name}":
                self._do(f"divert /{name}", self._divert, "--add", "--divert", f"/{name}{SAVED}", f"/{name}")
        if place.target and self._is_link_to(place):
            return
        if os.path.lexists(path) and not os.path.islink(path) and not self._same(path, saved):
            self._do(f"keep {path} as {saved}", self._second_name, path, saved)
        if place.target:
            self._do(f"link {path} to {place.target}", self._link, place.target, path)
        elif os.path.lexists(path):
            self._do(f"take {path} away", os.unlink, path)

    def _give_back(self, place: Place) -> None:
        path, saved = self._at(place.path), self._at(place.saved)
        if not self._dry:
            self._forget(path + _FRESH)
            self._forget(saved + _FRESH)
        ours = self._is_link_to(place) if place.target else not os.path.lexists(path)
        if os.path.lexists(saved):
            if self._same(path, saved):
                self._do(f"forget {saved}", os.unlink, saved)
            elif ours or not os.path.lexists(path):
                self._do(f"put {path} back", os.replace, saved, path)
            else:
                self._tell(f"{path} is something else by now and stays; the original is {saved}")
        elif ours and place.target:
            self._do(f"take {path} away", os.unlink, path)
        for name in reversed(place.diverted):
            if self._divert("--truename", f"/{name}", check=False).strip() == f"/{name}{SAVED}":
                self._do(f"divert /{name} no longer", self._divert, "--remove", f"/{name}")

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _do(self, what: str, step: Callable[..., object], *arguments: str) -> None:
        self._tell(f"would {what}" if self._dry else what)
        if not self._dry:
            step(*arguments)

    def _second_name(self, path: str, saved: str) -> None:
        fresh = f"{saved}{_FRESH}"
        self._forget(fresh)
        os.link(path, fresh, follow_symlinks=False)
        os.replace(fresh, saved)

    def _link(self, target: str, path: str) -> None:
        fresh = f"{path}{_FRESH}"
        self._forget(fresh)
        os.symlink(target, fresh)
        os.replace(fresh, path)

    def _divert(self, *words: str, check: bool = True) -> str:
        options = ["--local", "--no-rename"] if words[0] != "--truename" else []
        command = ["dpkg-divert", "--root", self.root, *options, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AlternativeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _write_journal(self, places: list[Place]) -> None:
        if self._dry:
            return
        path = self._at(JOURNAL)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        value: dict[str, Any] = {"places": [list(place) for place in places]}
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.new", path)

    @staticmethod
    def _forget(path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    # ---- names ------------------------------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)

    def _inside(self, path: str) -> str:
        """A path as seen from the root, for us."""
        return os.path.join(self.root, path.lstrip("/"))

    def _is_link_to(self, place: Place) -> bool:
        path = self._at(place.path)
        return bool(place.target) and os.path.islink(path) and os.readlink(path) == place.target

    @staticmethod
    def _same(one: str, other: str) -> bool:
        try:
            return os.path.samestat(os.lstat(one), os.lstat(other))
        except FileNotFoundError:
            return False
