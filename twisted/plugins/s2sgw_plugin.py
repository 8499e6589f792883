"""The door for twistd: `twistd s2sgw`."""

from twisted.application.service import ServiceMaker

s2sgw = ServiceMaker("s2sgw", "s2sgw.service", "The front door for XMPP federation, in front of an existing server.", "s2sgw")
