"""An expat parser that refuses what XMPP forbids (RFC 6120 §11.1, R31). The refusing handlers cost nothing in the hot path."""

from __future__ import annotations

from xml.parsers import expat

from s2sgw.xmpp.errors import RemoteFault, StreamCondition

_UNDEFINED_ENTITY = expat.errors.codes[expat.errors.XML_ERROR_UNDEFINED_ENTITY]


def restricted_parser(prefixes: bool = False) -> expat.XMLParserType:
    """Return a namespace-aware parser whose names have the form `namespace}name`. Restricted XML raises `RemoteFault` out of it.

    `prefixes`: the form is `namespace}name}prefix` if there is a prefix. The parser still accepts UTF-16: the caller must check
    the first bytes.
    """
    parser = expat.ParserCreate("utf-8", "}", None)  # None: interning is slower, and never frees a name
    if hasattr(parser, "SetReparseDeferralEnabled"):  # otherwise expat 2.6 and later delays complete tokens
        parser.SetReparseDeferralEnabled(False)
    parser.namespace_prefixes = prefixes
    parser.XmlDeclHandler = _check_declaration
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.CommentHandler = _refuse_comment
    parser.ProcessingInstructionHandler = _refuse_instruction
    return parser


def malformed(error: expat.ExpatError) -> RemoteFault:
    """Return the stream error for expat's errors (RFC 6120 §4.9.3)."""
    if error.code == _UNDEFINED_ENTITY:
        return _restricted("entity references other than the predefined five")
    return RemoteFault(StreamCondition.NOT_WELL_FORMED, f"XML: {expat.ErrorString(error.code)}")


def _check_declaration(version: str, encoding: str | None, standalone: int) -> None:
    if version != "1.0":
        raise RemoteFault(StreamCondition.NOT_WELL_FORMED, "the XML version is not 1.0")
    if encoding is not None and encoding.lower() != "utf-8":
        raise RemoteFault(StreamCondition.UNSUPPORTED_ENCODING, "the XML declaration names an encoding other than UTF-8")


def document_type() -> RemoteFault:
    """Return the stream error for a document type declaration."""
    return _restricted("document type declarations")


def _refuse_document_type(*ignored: object) -> None:
    raise document_type()


def _refuse_comment(*ignored: object) -> None:
    raise _restricted("comments")


def _refuse_instruction(*ignored: object) -> None:
    raise _restricted("processing instructions")


def _restricted(what: str) -> RemoteFault:
    return RemoteFault(StreamCondition.RESTRICTED_XML, f"{what} are not allowed")
