"""Tests of the expat parser that refuses what XMPP forbids."""

from __future__ import annotations

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp import restricted_xml


class ExpatTests(SynchronousTestCase):
    """Tests of the differences between versions of expat."""

    def made(self, *more: str) -> mock.Mock:
        handlers = ["XmlDeclHandler", "StartDoctypeDeclHandler", "CommentHandler", "ProcessingInstructionHandler"]
        parser = mock.Mock(spec=[*handlers, *more])
        self.patch(restricted_xml, "expat", mock.Mock(ParserCreate=mock.Mock(return_value=parser)))
        self.assertIs(parser, restricted_xml.restricted_parser())
        return parser

    def test_reparse_deferral(self) -> None:
        """expat 2.6 and later are told not to delay complete tokens. Older versions have no such option."""
        self.made("SetReparseDeferralEnabled").SetReparseDeferralEnabled.assert_called_once_with(False)
        self.made()
