"""A stanza in another content namespace (RFC 6120 §4.8.2): serialised anew, as an element that needs no declarations around it.

jabberd2's router carries jabber:client elements, our streams carry jabber:server ones. Only this namespace is exchanged; the
output is the plainest spelling of the same names. The spelling matters after the router: jabberd2 keeps one prefix for each
namespace, and writes the names of namespaces without escaping them. So a stanza that XML allows could break its streams, or end
the element around it and begin another. A stanza that jabberd2 cannot carry is `Unrepresentable`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.parsers import expat

from s2sgw.xmpp.element import escape, escape_attribute
from s2sgw.xmpp.namespaces import CLIENT, SERVER, STREAM, XML
from s2sgw.xmpp.restricted_xml import restricted_parser

#: Namespaces of one stanza. jabberd2 searches all of them for each element.
NAMESPACES = 64
#: Bytes of a namespace with a name: jabberd2 cuts both off at 1,023 bytes, and then confuses the two.
NAME_BYTES = 960
#: Namespaces that the components of jabberd2 use among themselves.
_INTERNAL = "http://jabberd.jabberstudio.org/ns/"
#: Characters that jabberd2 does not escape, and the one that it uses as a separator.
_UNSAFE = re.compile(r"[\x00-\x20\x7f'\"<>&|]")

#: Anything except default namespaces and names of a common length. Text that looks like it does no harm.
_ODD = re.compile(rb"xmlns:|stream:|<xml:|<[^\s/>]{600}|\s[^\s=<>'\"]{600}")
_DECLARED = re.compile(rb"xmlns\s*=\s*(?:'([^']*)'|\"([^\"]*)\")")
_PLAIN = re.compile(rb"(?!" + re.escape(_INTERNAL).encode() + rb"|jabber:(?:client|server)\Z)[A-Za-z0-9:/#._~+-]{1,256}\Z")
_NAME = re.compile(rb"<[a-z]+")
_CONTEXT = f"<s xmlns='{SERVER}' xmlns:stream='{STREAM}'>".encode()


class Unrepresentable(ValueError):
    """A stanza that jabberd2 cannot carry. The message has the reason."""


def to_client(data: bytes) -> bytes:
    """Return the jabber:client element for the jabber:server stanza `data` (as of `Stanza.data`). Raises `Unrepresentable`."""
    if not _is_plain(data):
        return _rewritten(data)
    name = _NAME.match(data)
    assert name is not None
    return b"%b xmlns='%b'%b" % (name[0], CLIENT.encode(), data[name.end() :])


def is_fit(data: bytes) -> bool:
    """Return whether `to_client` would take the stanza."""
    if _is_plain(data):
        return True
    try:
        _rewritten(data)
    except Unrepresentable:
        return False
    return True


def _is_plain(data: bytes) -> bool:
    """Return whether only one declaration must be added: there is no prefix except `xml`, and no unusual default namespace."""
    if _ODD.search(data):
        return False
    declared = {single or double for single, double in _DECLARED.findall(data)}
    return len(declared) < NAMESPACES and all(map(_PLAIN.match, declared))


def _rewritten(data: bytes) -> bytes:
    parser = restricted_parser(prefixes=True)
    parser.Parse(_CONTEXT, False)
    content = NamespaceRewriter(SERVER, CLIENT, _check)
    content.hear(parser)
    parser.Parse(data, False)
    return content.written


def _check(namespace: str, name: str, of_attribute: bool) -> None:
    """Raise `Unrepresentable` for a name that jabberd2 may not carry."""
    if namespace == XML and of_attribute:
        return
    if namespace == XML or not namespace:
        raise Unrepresentable("an element in no namespace, or in that of XML itself")
    if of_attribute and namespace == CLIENT:
        raise Unrepresentable("an attribute in the namespace of stanzas")
    if namespace.startswith(_INTERNAL):
        raise Unrepresentable("a namespace that is jabberd2's own")
    if _UNSAFE.search(namespace):
        raise Unrepresentable("a namespace with characters that jabberd2 does not escape")
    if len(namespace.encode()) + len(name.encode()) > NAME_BYTES:
        raise Unrepresentable("a name that is too long for jabberd2")


def _any(namespace: str, name: str, of_attribute: bool) -> None:
    """Accept any name that XML allows."""


class NamespaceRewriter:
    """Writes one element from expat's events, with the content namespace `source` exchanged for `target`.

    Content is the element, and everything in it down to the first of another namespace; below, `source` is payload and stays. No
    element has a prefix. Prefixes of attributes are kept if possible; the outermost element declares each once.
    """

    def __init__(
        self, source: str, target: str, check: Callable[[str, str, bool], None] = _any, around: str = "",
    ) -> None:
        """Begin. `around`: the default namespace at the place of the element."""
        self._source = source
        self._target = target
        self._check = check
        self._parts: list[str] = []
        #: of each open element: its name, the default namespace in it, whether it is content
        self._open: list[tuple[str, str, bool]] = [("", around, True)]
        self._tag_is_open = False
        self._prefixes = {XML: "xml"}
        self._namespaces = {source, target}
        #: the characters written so far, before they are escaped, and without the declarations of prefixes
        self.length = 0

    @property
    def namespaces(self) -> int:
        """Return the number of namespaces so far, with both content namespaces."""
        return len(self._namespaces)

    def hear(self, parser: expat.XMLParserType) -> None:
        """Use the events of `parser`, which was made with `prefixes`."""
        parser.StartNamespaceDeclHandler = self.declaration
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.text

    @property
    def written(self) -> bytes:
        """Return the element, after its end."""
        head, *rest = self._parts
        declared = (f" xmlns:{prefix}='{escape_attribute(uri)}'" for uri, prefix in self._prefixes.items() if uri != XML)
        return "".join([head, *declared, *rest]).encode()

    # --- events of expat ---

    def declaration(self, prefix: str | None, namespace: str | None) -> None:
        """Keep a prefix, since text may refer to it too, unless it, or its namespace, was declared otherwise before."""
        if prefix and namespace and namespace not in (self._source, self._target):
            self._note(namespace, prefix, True)
            if namespace not in self._prefixes and prefix not in self._prefixes.values():
                self._prefixes[namespace] = prefix

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, local, _ = split(name)
        _, default, in_content = self._open[-1]
        is_content = in_content and namespace == self._source
        if is_content:
            namespace = self._target
        self._note(namespace, local, False)
        written, within = (f"xml:{local}", default) if namespace == XML else (local, namespace)
        self._close_tag()
        self._write(f"<{written}")
        if within != default:
            self._write(f" xmlns='{escape_attribute(within)}'", len(within))
        for each, value in attributes.items():
            self._write(f" {self._attribute(each)}='{escape_attribute(value)}'", len(each) + len(value))
        self._open.append((written, within, is_content))
        self._tag_is_open = True

    def end(self, name: str) -> None:
        written, *_ = self._open.pop()
        self._write("/>" if self._tag_is_open else f"</{written}>")
        self._tag_is_open = False

    def text(self, text: str) -> None:
        self._close_tag()
        self._write(escape(text), len(text))

    # --- internal ---

    def _write(self, part: str, length: int = 0) -> None:
        """Add a part. `length`: its characters before they were escaped; 0: it is not escaped."""
        self._parts.append(part)
        self.length += length or len(part)

    def _close_tag(self) -> None:
        if self._tag_is_open:
            self._parts.append(">")
            self._tag_is_open = False

    def _attribute(self, name: str) -> str:
        namespace, local, prefix = split(name)
        if not namespace:
            self._note(self._target, local, False)
            return local
        self._note(namespace, local, True)
        if namespace not in self._prefixes:
            self._prefixes[namespace] = self._free(prefix)
        return f"{self._prefixes[namespace]}:{local}"

    def _free(self, prefix: str) -> str:
        """Return `prefix`, or another that is not in use."""
        taken = set(self._prefixes.values())
        others = (f"n{number}" for number in range(len(taken) + 1))
        return next(each for each in (prefix, *others) if each not in taken)

    def _note(self, namespace: str, name: str, of_attribute: bool) -> None:
        self._check(namespace, name, of_attribute)
        self._namespaces.add(namespace)
        if len(self._namespaces) > NAMESPACES and self._check is not _any:
            raise Unrepresentable(f"more than {NAMESPACES} namespaces")


def split(name: str) -> tuple[str, str, str]:
    """Return namespace, name, prefix."""
    namespace, brace, rest = name.partition("}")
    if not brace:
        return "", name, ""
    local, _, prefix = rest.partition("}")
    return namespace, local, prefix
